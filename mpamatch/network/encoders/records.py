"""What an encoder is, as data: how it is built, how images reach it, what its weights are and may be used for.

Two halves. What decides how a model computes is its identity: models on disk carry it, and are refused when this
version's differs. What is said about the weights (licence, where they are had) is not part of it, so that a corrected
licence never makes a model unreadable. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from mpamatch.domain.recipe import Norm, Skips
from mpamatch.errors import BadInput

Family = Literal["cnn", "vit", "hybrid"]
"""A pyramid of convolutions, a vision transformer, or a transformer behind convolutions."""

STEM_CHANNELS, STEM_STRIDES = (32, 64, 128), (2, 4, 8)
"""What the convolutional stem beside a transformer gives (``skips=stem``)."""


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
    """What is needed to build an encoder and its decoder, and to feed it.

    ``channels`` and ``strides`` are those of every feature that reaches the decoder, finest first; ``bottleneck`` and
    ``decoder_widths`` are the decoder's. ``kwargs`` go to ``timm.create_model``; classes are given by name.
    ``patch`` is the side of a token in pixels, ``prefix`` the number of tokens before those of the image, ``dim`` and
    ``depth`` the width and number of blocks: 0 for a pyramid.

    Of the weights: ``weights`` is a file in an installed package, ``hub_id`` the page of a published file.
    ``file_prefix`` stands before each key in that file and ``file_extra`` starts keys that are no part of the encoder
    (a classifier), both only where that is documented. ``redistributable`` says whether models may carry them.
    ``native_px`` and ``native_um_per_px`` are the image side and the scale they were made with, None where of many.
    """

    name: str
    arch: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    bottleneck: int
    decoder_widths: tuple[int, ...]
    weights: WeightSource | None = None
    family: Family = "cnn"
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    patch: int = 0
    prefix: int = 0
    dim: int = 0
    depth: int = 0
    skips: Skips = "none"
    decoder_norm: Norm = "group"
    hub_id: str | None = None
    file_prefix: str = ""
    file_extra: tuple[str, ...] = ()
    licence: str | None = None
    licence_verified: bool = True
    gated: bool = False
    redistributable: bool = True
    native_px: int | None = None
    native_um_per_px: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Its identity; of the newer parts those that are not at their defaults, so that older models stay equal."""
        values = {name: getattr(self, name) for name in _ALWAYS}
        values["weights"] = None if self.weights is None else dict(vars(self.weights))
        blank = _BLANK
        return values | {n: _plain(getattr(self, n)) for n in _NEWER if getattr(self, n) != getattr(blank, n)}

    @property
    def licence_text(self) -> str | None:
        """The licence of the weights, with a word where nobody has checked it."""
        if self.licence is None or self.licence_verified:
            return self.licence
        return f"{self.licence} (licence unverified)"

    @property
    def taps(self) -> tuple[int, ...]:
        """The blocks whose tokens are skips with ``skips=vit``: a quarter, a half and three quarters of the way up."""
        return tuple(self.depth * part // 4 - 1 for part in (1, 2, 3)) if self.skips == "vit" else ()


_ALWAYS = ("name", "arch", "mean", "std", "channels", "strides", "bottleneck", "decoder_widths", "weights")
_NEWER = ("family", "kwargs", "patch", "prefix", "dim", "depth", "skips", "decoder_norm")
_BLANK = EncoderRecord("", "", (0, 0, 0), (1, 1, 1), (), (), 0, ())


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def with_options(record: EncoderRecord, *, skips: Skips = "none", decoder_norm: Norm = "group") -> EncoderRecord:
    """The record with a recipe's choice of skips and of the decoder's norm.

    Only a plain transformer lacks finer features of its own. Raises BadInput for skips on another encoder, and for
    what is no choice at all (the two may come from a file).
    """
    for name, value, known in (("skips", skips, get_args(Skips)), ("decoder_norm", decoder_norm, get_args(Norm))):
        if value not in known:
            raise BadInput(f"recipe.{name}", f"is {value!r}", f"one of {', '.join(known)}")
    record = replace(record, decoder_norm=decoder_norm)
    if skips == "none":
        return record
    if record.family != "vit":
        raise BadInput("recipe.skips", f"is {skips}, and encoder {record.name} has skips of its own", "set it to none")
    if skips == "stem":
        channels, strides = (*STEM_CHANNELS, record.dim), (*STEM_STRIDES, record.patch)
        return replace(record, skips=skips, channels=channels, strides=strides)
    return replace(record, skips=skips, channels=(record.dim,) * 4, strides=(record.patch,) * 4)
