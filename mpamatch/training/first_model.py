"""The model that a run begins with: drawn anew, or from a start, with the prototype branch that its recipe asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mpamatch.domain.object_sizes import skips_for
from mpamatch.domain.recipe import Recipe
from mpamatch.errors import BadInput
from mpamatch.files.prompts import class_texts
from mpamatch.network.branch import BranchShape, PrototypeBranch
from mpamatch.network.encoders import encoder_record, with_options
from mpamatch.network.model import Segmenter, add_branch, build_segmenter, segmenter_record
from mpamatch.network.text import ClassTexts, build_class_texts
from mpamatch.network.weights import LoadedModel, load_model, read_config
from mpamatch.training.run_spec import RunSpec

_WITHOUT_WORDS = ("learned", "shuffled")
"""Text encoders that read nothing of what the classes are called."""
_SAME_TEXT_COSINE = 0.98
"""From here on two texts are one to the encoder: words that it does not know give 1."""


@dataclass(frozen=True)
class FirstModel:
    """``warm``: the start's own head goes on, on the short schedule; ``version`` is the start's, None without one.

    ``texts`` are the words of the classes where the recipe uses them; ``notes`` say what of the start was not used.
    """

    module: Segmenter
    warm: bool
    version: str | None
    texts: ClassTexts | None = None
    notes: list[str] = field(default_factory=list)


def settled_skips(spec: RunSpec, median_px: Callable[[], float | None]) -> tuple[Recipe, str | None]:
    """The recipe of ``spec`` without ``skips=auto``, and one line on what that came to, where it was a question.

    A start whose network fits keeps what was settled when it was first built. Else ``median_px`` is asked for the size
    of the labelled objects at the working scale, None where there is none. Encoders with finer features of their own
    take nothing more. Raises NotFound or BadInput without the start's config.
    """
    recipe = spec.recipe
    if recipe.skips != "auto":
        return recipe, None
    encoder = encoder_record(recipe.encoder)
    if encoder.family != "vit":
        return replace(recipe, skips="none"), None
    if spec.start is not None:
        begun = read_config(spec.start)
        if begun.encoder == with_options(encoder, skips=begun.encoder.skips, decoder_norm=recipe.decoder_norm):
            skips = begun.encoder.skips
            return replace(recipe, skips=skips), f"skips=auto is {skips}, as in {begun.version}"
    size_px = median_px()
    skips = skips_for(size_px, recipe.stem_below_px)
    seen = "no object is labelled" if size_px is None else f"the median object is {size_px:.0f} px across"
    return replace(recipe, skips=skips), f"skips=auto is {skips}: {seen}"


def settled_texts(spec: RunSpec) -> tuple[Recipe, str | None]:
    """The recipe of ``spec``, without its texts where they say the same of two classes, and one line on that.

    An encoder whose vocabulary lacks the words gives equal vectors, and prototypes of texts would then pull both
    classes to one place. Raises BadInput where the recipe has nothing else to learn from, and as `build_class_texts`.
    """
    recipe = spec.recipe
    if not recipe.uses_text_prototypes or recipe.text in _WITHOUT_WORDS:
        return recipe, None
    with torch.no_grad():
        vectors = _texts(replace(spec, recipe=replace(recipe, context_tokens=0)))
        assert vectors is not None
        cosine = vectors() @ vectors().T
    alike = (cosine - torch.eye(len(cosine)) > _SAME_TEXT_COSINE).any(dim=1)
    if not bool(alike.any()):
        return recipe, None
    names = ", ".join(name for name, same in zip(spec.classes.names, alike.tolist(), strict=True) if same)
    problem = f"text encoder {recipe.text} takes them for the same"
    remedy = "give these classes English names, or texts of their own"
    if not recipe.uses_image_prototypes:
        raise BadInput(f"classes {names}", problem, f"{remedy}, or train by mpamatch-image")
    return replace(recipe, method="mpamatch-image"), f"texts not used: classes {names}: {problem}; {remedy}"


def first_model(spec: RunSpec, device: str) -> FirstModel:
    """What the run of ``spec``, its skips and texts settled, begins with, on ``device``.

    Raises NotFound or BadInput without its files.
    """
    started = None
    if spec.start is not None:
        started = load_model(spec.start, weights_dir=spec.weights_dir, allow_hub=spec.allow_hub)
    first = _segmenter(spec, started)
    texts = _texts(spec)
    _set_branch(first, spec, started, texts)
    first.module.to(device)
    return FirstModel(first.module, first.warm, first.version, None if texts is None else texts.to(device), first.notes)


def _segmenter(spec: RunSpec, started: LoadedModel | None) -> FirstModel:
    record = segmenter_record(spec.recipe)
    notes: list[str] = []
    if started is not None and started.config.encoder != record:
        other = started.config.encoder.name
        differs = f"its encoder is {other}, not {record.name}" if other != record.name else "its decoder differs"
        notes.append(f"start not used: {differs}")
        started = None
    if started is None:
        fresh = build_segmenter(
            record, spec.classes.count, seed=spec.seed, weights_dir=spec.weights_dir, allow_hub=spec.allow_hub
        )
        return FirstModel(fresh, False, None, notes=notes)
    version = started.config.version
    same_classes = started.config.classes.names == spec.classes.names
    if same_classes and not spec.fresh_head:
        return FirstModel(started.module, not spec.full_schedule, version, notes=notes)
    fresh = build_segmenter(record, spec.classes.count, seed=spec.seed, pretrained=False)
    fresh.encoder, fresh.decoder, fresh.stem = started.module.encoder, started.module.decoder, started.module.stem
    why = "as asked" if same_classes else "the class list changed"
    notes.append(f"{why}: new head on the encoder and decoder of {version}, cold schedule")
    return FirstModel(fresh, False, version, notes=notes)


def _texts(spec: RunSpec) -> ClassTexts | None:
    recipe = spec.recipe
    if not recipe.uses_text_prototypes:
        return None
    return build_class_texts(
        recipe.text,
        texts_of(spec),
        context_tokens=recipe.context_tokens,
        context_per_class=recipe.context_per_class,
        seed=spec.seed,
        weights_dir=spec.weights_dir,
    )


def texts_of(spec: RunSpec) -> tuple[tuple[str, ...], ...]:
    """The texts of each class: those that came with the class set, else those of the recipe's prompt set."""
    known = class_texts(spec.classes.names, spec.recipe.prompts, dataset=spec.provenance.get("dataset"))
    return tuple(c.prompts or texts for c, texts in zip(spec.classes.classes, known, strict=True))


def _set_branch(first: FirstModel, spec: RunSpec, started: LoadedModel | None, texts: ClassTexts | None) -> None:
    """The start's branch where it fits; else a fresh one, with the rows of classes that the start knows."""
    recipe, model = spec.recipe, first.module
    before, model.branch = model.branch, None
    if before is None and first.version is not None and started is not None:
        before = started.module.branch
    if not (recipe.uses_image_prototypes or texts is not None):
        if before is not None:
            first.notes.append(f"prototypes of {first.version} not used: method {recipe.method} has none")
        return
    shape = BranchShape(
        channels=recipe.embedding_channels,
        per_class=recipe.prototypes_per_class if recipe.uses_image_prototypes else 0,
        text_width=0 if texts is None else texts.width,
        attention=recipe.prototype_attention,
    )
    add_branch(model, shape, seed=spec.seed, text_temperature=recipe.text_temperature)
    if before is None or started is None or model.branch is None:
        return
    if before.shape != shape:
        first.notes.append(f"prototypes of {first.version} not used: theirs have other sizes or sides")
        return
    same_texts = started.config.branch.get("texts") == _identity(texts)
    old, new = started.config.classes.names, spec.classes.names
    if old == new and same_texts:
        model.branch.load_state_dict(before.state_dict())
        if texts is not None:
            texts.load_state_dict(dict(started.texts), strict=False)
        return
    model.branch.head.load_state_dict(before.head.state_dict())
    _keep_rows(model.branch, before, {new.index(name): old.index(name) for name in new if name in old})
    first.notes.append("the classes or their texts changed: prototypes of the others are kept, with the ramp")


@torch.no_grad()
def _keep_rows(branch: PrototypeBranch, before: PrototypeBranch, same: Mapping[int, int]) -> None:
    if branch.bank is None or before.bank is None or not same:
        return
    # Momentum goes on too: rows that have settled are not to move as freshly seeded ones do.
    branch.bank.updates.copy_(before.bank.updates)
    for name in ("rows", "active", "usage"):
        mine: Tensor = getattr(branch.bank, name)
        theirs: Tensor = getattr(before.bank, name)
        for new, old in same.items():
            mine[new] = theirs[old]


def branch_json(model: Segmenter, texts: ClassTexts | None) -> dict[str, Any]:
    """What a model's config says of its branch; empty without one."""
    if model.branch is None:
        return {}
    return {**model.branch.shape.to_json(), "texts": _identity(texts)}


def _identity(texts: ClassTexts | None) -> dict[str, Any] | None:
    return None if texts is None else dict(texts.identity)
