"""What of a segmenter trains, how fast, and what its teacher shares with it.

Modes: ``full``; ``partial``, the last blocks and the final norm; ``lora``, low-rank changes of every block;
``frozen``, the decoder alone. Rates of transformers follow UniMatch V2 (Yang et al. 2024), whose encoder learns 40
times more slowly than its decoder, with a decay by block; a pyramid's encoder learns at a share of the decoder's rate.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from mpamatch.domain.recipe import Recipe
from mpamatch.errors import BadInput
from mpamatch.files.model_archive import LIMITS_BYTES, TENSORS_NAME
from mpamatch.network.encoders import EncoderRecord
from mpamatch.network.encoders.tokens import TokenEncoder
from mpamatch.network.lora import add_lora, is_factor, lora_rank, merge_lora
from mpamatch.network.model import Segmenter, parameter_count

Mode = Literal["full", "partial", "lora", "frozen"]
Named = tuple[str, nn.Parameter]
Group = dict[str, Any]

TEXT_LR = 1e-3
"""The rate of all that learns with the texts, whatever the encoder: the context before their words, the projection of
their vectors and the scale of their similarities. They do not decay. Source: CoOp (Zhou et al. 2022), as MPAMatch uses
it; a constant, so that what is learnt of words compares between recipes.
"""

_CHECKPOINTED_DIM = 1024
# Embeddings and gates are no matrices, whatever their shape: they do not decay.
_NO_DECAY = ("pos_embed", "cls_token", "reg_token", "gamma")


def tuning_mode(record: EncoderRecord, recipe: Recipe) -> Mode:
    """What ``auto`` means for an encoder: low-rank changes of a plain transformer, all of any other.

    Raises BadInput where a mode does not fit the encoder.
    """
    if recipe.tuning == "auto":
        return "lora" if record.family == "vit" else "full"
    if recipe.tuning == "lora" and record.family == "cnn":
        raise BadInput("recipe.tuning", f"is lora, and encoder {record.name} is no transformer", "set it to full")
    return recipe.tuning


def prepare_tuning(model: Segmenter, recipe: Recipe, *, seed: int = 0) -> None:
    """Set what of the encoder trains, in place, before the teacher and the optimiser are made.

    Everything else of the model trains. ``seed`` decides the first low-rank factors. A start that already has some
    goes on with them, at their rank. Raises BadInput when the mode does not fit the encoder.
    """
    mode, encoder = tuning_mode(model.record, recipe), model.encoder
    if isinstance(encoder, TokenEncoder) and mode in ("full", "partial"):
        _check_storable(model, recipe)
        merge_lora(encoder)
        if encoder.published is not None:
            encoder.published = replace(encoder.published, changed=True)
        if mode == "full" and model.record.dim >= _CHECKPOINTED_DIM:
            encoder.vit.set_grad_checkpointing(True)
    encoder.requires_grad_(mode == "full")
    if mode == "partial":
        for part in _last_parts(encoder, recipe.partial_blocks):
            part.requires_grad_(True)
    if mode == "lora":
        if not lora_rank(encoder):
            add_lora(encoder, recipe.lora_rank, seed=seed)
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(is_factor(name))


def make_teacher(model: Segmenter) -> Segmenter:
    """A copy in eval mode that takes no gradient; what does not train is shared with the model, not copied."""
    shared: dict[int, Any] = {id(p): p for p in model.encoder.parameters() if not p.requires_grad}
    if len(shared) == len(list(model.encoder.parameters())):
        shared |= {id(b): b for b in model.encoder.buffers()}
    return copy.deepcopy(model, shared).eval().requires_grad_(False)


def parameter_groups(model: Segmenter, recipe: Recipe) -> list[Group]:
    """Groups for AdamW of all that trains: encoder, decoder, head, then any other part; matrices before the rest.

    What belongs to the texts comes last, at its own rate. Of the others only matrices and kernels decay. Each group has
    ``params``, ``lr`` and ``weight_decay``.
    """
    words = [] if model.branch is None else model.branch.text_parameters()
    ours = {id(p) for p in words}
    rate = recipe.lr if model.record.family == "cnn" else recipe.vit_lr
    groups = _encoder_groups(model, recipe)
    known = ("encoder", "decoder", "head")
    others = [name for name, _ in model.named_children() if name not in known]
    for name in ("decoder", "head", *others):
        part = model.get_submodule(name).named_parameters()
        groups += _pair(((name, p) for name, p in part if id(p) not in ours), rate, recipe)
    own = [(name, p) for name, p in model.named_parameters(recurse=False)]
    groups += _pair(own, rate, recipe)
    return groups + text_groups(words)


def text_groups(parameters: Iterable[nn.Parameter]) -> list[Group]:
    """The group of what trains with the texts, like those of :func:`parameter_groups`; none where nothing does."""
    learning = [p for p in parameters if p.requires_grad]
    return [{"params": learning, "lr": TEXT_LR, "weight_decay": 0.0}] if learning else []


def _encoder_groups(model: Segmenter, recipe: Recipe) -> list[Group]:
    named, record = list(model.encoder.named_parameters()), model.record
    mode = tuning_mode(record, recipe)
    if record.family == "cnn":
        return _pair(named, recipe.lr * recipe.encoder_lr_factor, recipe)
    if mode == "lora":
        return _pair(named, recipe.lora_lr, recipe)
    if record.family == "hybrid":  # TransUNet's own training knows no decay by block
        return _pair(named, recipe.vit_lr * recipe.encoder_lr_factor, recipe)
    if mode != "full":
        return _pair(named, recipe.vit_encoder_lr, recipe)
    groups: list[Group] = []
    for level in range(record.depth + 2):
        chosen = [(name, p) for name, p in named if _level(name, record.depth) == level]
        decay = recipe.block_lr_decay ** max(0, record.depth - level)
        groups += _pair(chosen, recipe.vit_encoder_lr * decay, recipe)
    return groups


def _level(name: str, depth: int) -> int:
    """0 for embeddings, 1 to depth for blocks, depth + 1 for the final norm."""
    parts = name.split(".")[1:]  # behind "vit"
    if parts[0] == "blocks":
        return int(parts[1]) + 1
    return depth + 1 if parts[0] == "norm" else 0


def _pair(named: Iterable[Named], rate: float, recipe: Recipe) -> list[Group]:
    """Two groups of what trains, what decays first; an empty one is left out."""
    groups: list[Group] = [
        {"params": [], "lr": rate, "weight_decay": recipe.weight_decay},
        {"params": [], "lr": rate, "weight_decay": 0.0},
    ]
    for name, parameter in named:
        if parameter.requires_grad:
            groups[0 if _decays(name, parameter) else 1]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not any(word in name.split(".")[-1] for word in _NO_DECAY)


def _last_parts(encoder: nn.Module, count: int) -> list[nn.Module]:
    """The last blocks, whatever groups them, and a transformer's final norm."""
    if isinstance(encoder, TokenEncoder):
        return [*list(encoder.vit.blocks)[-count:], encoder.vit.norm]
    stages: Any = encoder.blocks
    return [block for stage in stages for block in stage][-count:]


def _check_storable(model: Segmenter, recipe: Recipe) -> None:
    """A changed encoder is kept with the model, in half precision: that must be no more than a model may hold."""
    needed, limit = 2 * parameter_count(model), LIMITS_BYTES[TENSORS_NAME]
    if needed > limit:
        problem = f"is {recipe.tuning}, and a model with all of {model.record.name} has {needed / 2**30:.1f} GiB"
        raise BadInput("recipe.tuning", problem, f"set it to lora or frozen; a model may have {limit / 2**30:.0f} GiB")
