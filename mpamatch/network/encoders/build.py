"""A record -> its module, with random or published weights. Code is timm's alone: none comes with a weight file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import SwiGLUPacked
from torch import nn

from mpamatch.network.encoders.packaged import packaged_state
from mpamatch.network.encoders.records import EncoderRecord
from mpamatch.network.encoders.tokens import HybridEncoder, TokenEncoder, VitEncoder
from mpamatch.network.encoders.weight_files import load_published, locate_weights

# The classes that a record may name in its kwargs: a closed list, as records are data.
_CLASSES: dict[str, Any] = {"SwiGLUPacked": SwiGLUPacked, "SiLU": torch.nn.SiLU}
_NAMING = ("mlp_layer", "act_layer", "norm_layer")


def build_encoder(
    record: EncoderRecord, *, pretrained: bool, weights_dir: Path | None = None, allow_hub: bool = False
) -> nn.Module:
    """The encoder: (B, 3, S, S) -> list of features, finest first, S a multiple of 32.

    Weights are drawn from torch's generator unless ``pretrained`` and the record has a source. A published file is
    read from ``weights_dir`` (a folder or the file itself), from the hub only with ``allow_hub``.
    Raises NotFound or BadInput when the file is missing or not what the record says, Unavailable when the hub is.
    """
    if record.family == "cnn":
        pyramid: nn.Module = timm.create_model(record.arch, pretrained=False, features_only=True, **_kwargs(record))
        if pretrained and record.weights is not None:
            pyramid.load_state_dict(packaged_state(record.weights, pyramid), strict=True)
        return pyramid
    path = locate_weights(record, weights_dir, allow_hub=allow_hub) if pretrained else None
    inner = _transformer(record) if path is None else _unfilled(record)
    published = None if path is None else load_published(record, inner, path)
    encoder: TokenEncoder = (
        HybridEncoder(inner, record.patch)
        if record.family == "hybrid"
        else VitEncoder(inner, record.patch, record.taps)
    )
    encoder.published = published
    return encoder


def _transformer(record: EncoderRecord) -> nn.Module:
    made: nn.Module = timm.create_model(
        record.arch, pretrained=False, num_classes=0, dynamic_img_size=True, **_kwargs(record)
    )
    return made


def _unfilled(record: EncoderRecord) -> nn.Module:
    """The transformer without memory of its own: drawing weights that a file replaces takes longer than reading it."""
    with torch.device("meta"):
        made = _transformer(record)
    kept = set(made.state_dict())
    computed = any(name not in kept for name, _ in made.named_buffers())
    return _transformer(record) if computed else made  # what is computed and in no file needs its memory


def _kwargs(record: EncoderRecord) -> dict[str, Any]:
    return {key: _CLASSES[value] if key in _NAMING else value for key, value in record.kwargs.items()}
