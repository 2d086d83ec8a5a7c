"""An encoder that a model does not carry: its licence does not let its weights be passed on, or it is too large.

It is left out as long as training has not changed it (low-rank factors are kept): the model says so, and takes the
weights from the vendor's file when it is loaded.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mpamatch.errors import BadInput, NotFound, Unavailable
from mpamatch.files.model_archive import CONFIG_NAME, LIMITS_BYTES, TENSORS_NAME
from mpamatch.network.encoders import EncoderRecord
from mpamatch.network.encoders.tokens import TokenEncoder
from mpamatch.network.lora import add_lora, is_factor, lora_rank, merge_lora
from mpamatch.network.model import Segmenter, parameter_count


@dataclass(frozen=True)
class LeftOut:
    """The encoder's weights that a model does not carry: their hash, and the rank of the changes that it does carry."""

    sha256: str
    lora_rank: int = 0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LeftOut:
        left = cls(str(values["sha256"]), int(values["lora_rank"]))
        if not (re.fullmatch(r"[0-9a-f]{64}", left.sha256) and 0 <= left.lora_rank <= 512):
            raise ValueError("encoder_left_out")
        return left


def left_out_of(model: Segmenter) -> LeftOut | None:
    """What is not written: an unchanged published encoder that may not be passed on, or is too large for a model."""
    published = model.encoder.published if isinstance(model.encoder, TokenEncoder) else None
    if published is None or published.changed:
        return None
    if model.record.redistributable and 2 * parameter_count(model) <= LIMITS_BYTES[TENSORS_NAME]:
        return None
    return LeftOut(published.sha256, lora_rank(model.encoder))


def notice_of(record: EncoderRecord, left_out: LeftOut | None) -> str | None:
    """What a model says of a licence that binds it; None where none does."""
    if record.redistributable:
        return None
    terms = f"encoder {record.name} ({record.hub_id}), {record.licence_text}"
    if left_out is None:
        return f"holds weights of {terms}: not to be passed on; its terms also bind what was trained on it"
    return f"was trained on {terms}; its weights are not included, and its terms may bind this model too"


def kept_state(model: Segmenter, left_out: LeftOut | None) -> dict[str, Tensor]:
    """The tensors that are written: all, low-rank changes merged, or without the encoder and the changes beside it."""
    if left_out is not None:
        return {key: t for key, t in model.state_dict().items() if not _of_encoder(key)}
    if lora_rank(model.encoder):
        model = copy.deepcopy(model)
        merge_lora(model.encoder)
    return model.state_dict()


def on_published(
    record: EncoderRecord, class_count: int, left_out: LeftOut, weights_dir: Path | None, *, allow_hub: bool
) -> tuple[Segmenter, set[str]]:
    """A segmenter on the vendor's encoder with room for the model's changes to it, and the keys the model lacks.

    Raises Unavailable when the file is not there or another one: the model itself is whole, and may be loaded later.
    """
    try:
        module = Segmenter(record, class_count, pretrained=True, weights_dir=weights_dir, allow_hub=allow_hub)
    except NotFound as error:
        raise Unavailable(error.item, error.problem, error.remedy) from error
    encoder = module.encoder
    if not isinstance(encoder, TokenEncoder) or encoder.published is None:
        raise BadInput(CONFIG_NAME, f"encoder {record.name} is not published", "use a folder that training wrote")
    if encoder.published.sha256 != left_out.sha256:
        problem = f"{encoder.published.origin} is not the file that the model was trained on"
        raise Unavailable(f"encoder {record.name}", problem, "give the file used in training, or train again")
    if left_out.lora_rank:
        add_lora(encoder, left_out.lora_rank, seed=0)
    return module, {key for key in module.state_dict() if _of_encoder(key)}


def _of_encoder(key: str) -> bool:
    return key.startswith("encoder.") and not is_factor(key)
