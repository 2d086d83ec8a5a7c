"""Models on disk: a folder of ``model.safetensors`` and ``config.json`` (as one archive: ``files/model_archive``).

No pickle anywhere. A folder or archive may come from elsewhere, so what it names is checked against what is known:
only known encoders are built, and sizes are bounded before anything is read. What becomes of encoders whose weights
may not be passed on is in ``left_out``.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mpamatch.domain.classes import ClassSet
from mpamatch.domain.recipe import Recipe
from mpamatch.errors import BadInput
from mpamatch.files.model_archive import CONFIG_NAME, LIMITS_BYTES, TENSORS_NAME, find_model
from mpamatch.network.branch import BranchShape
from mpamatch.network.encoders import EncoderRecord, encoder_record, with_options
from mpamatch.network.left_out import LeftOut, kept_state, left_out_of, notice_of, on_published
from mpamatch.network.model import Segmenter, add_branch

_FORMAT = 1
_TEXTS = "texts."
# Unit rows and vectors that others are compared with: rounded, they would no longer be what they were.
_EXACT = ("branch.bank.", "branch.text_vectors")


@dataclass(frozen=True)
class WorkingScale:
    """The scale a model works at: ``um_per_px`` where known, else the factor ``reduction`` images shrink by.

    ``reduction`` None takes the factor that the recipe gives for each image's size: for a model that is to serve
    images of any source.
    """

    reduction: float | None = 1.0
    um_per_px: float | None = None

    def reduction_at(self, um_per_px: float | None) -> float | None:
        """The factor by which an image of that scale shrinks; None where the recipe decides by its size.

        An image is enlarged twice at most: beyond that there is nothing to see, and memory would grow with a slip in
        a manifest.
        """
        if self.um_per_px is not None and um_per_px is not None:
            return max(0.5, self.um_per_px / um_per_px)
        return self.reduction


@dataclass(frozen=True)
class ModelConfig:
    """What a model is besides its tensors. ``temperature`` divides logits; 1 where it could not be fitted.

    ``branch`` holds the sizes of its prototype branch and what its texts are; empty without one.
    ``left_out`` is set where the encoder's weights are not in the model, ``notice`` where a licence binds it.
    """

    version: str
    classes: ClassSet
    encoder: EncoderRecord
    scale: WorkingScale
    recipe: Recipe
    temperature: float = 1.0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    left_out: LeftOut | None = None
    notice: str | None = None
    branch: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        values = {
            "format": _FORMAT,
            "version": self.version,
            "classes": self.classes.to_json(),
            "encoder": self.encoder.to_json(),
            "working_scale": {"reduction": self.scale.reduction, "um_per_px": self.scale.um_per_px},
            "temperature": self.temperature,
            "branch": dict(self.branch),
            "recipe": self.recipe.to_json(),
            "recipe_sha256": self.recipe.sha256(),
            "provenance": dict(self.provenance),
            "metrics": dict(self.metrics),
        }
        if self.left_out is not None:
            values["encoder_left_out"] = dict(vars(self.left_out))
        return values if self.notice is None else values | {"notice": self.notice}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The inverse of :meth:`to_json`. Raises BadInput when a part is missing or not what this version knows."""
        try:
            if values["format"] != _FORMAT:
                raise BadInput(CONFIG_NAME, f"format {values['format']}", f"this version reads format {_FORMAT}")
            scale, temperature = values["working_scale"], float(values["temperature"])
            um_per_px, reduction = scale.get("um_per_px"), scale["reduction"]
            config = cls(
                version=str(values["version"]),
                classes=ClassSet.from_json(values["classes"]),
                encoder=_known_record(values["encoder"]),
                scale=WorkingScale(
                    None if reduction is None else float(reduction), None if um_per_px is None else float(um_per_px)
                ),
                recipe=Recipe.from_json(values["recipe"]),
                temperature=temperature,
                branch=dict(values.get("branch", {})),
                provenance=dict(values.get("provenance", {})),
                metrics=dict(values.get("metrics", {})),
                left_out=LeftOut.from_json(values["encoder_left_out"]) if values.get("encoder_left_out") else None,
                notice=None if values.get("notice") is None else str(values["notice"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"not a model's config ({error!r})"
            raise BadInput(CONFIG_NAME, problem, "use a folder that training wrote") from error
        if not (0.01 <= temperature <= 100 and 0.01 <= (config.scale.reduction or 1.0) <= 1000):
            raise BadInput(CONFIG_NAME, "temperature or reduction out of range", "use a folder that training wrote")
        return config


@dataclass(frozen=True)
class LoadedModel:
    """A segmenter in eval mode with its config, and what was learned of its texts, by name."""

    module: Segmenter
    config: ModelConfig
    texts: Mapping[str, Tensor] = field(default_factory=dict)


def save_model(
    folder: Path, model: Segmenter, config: ModelConfig, *, texts: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model folder, whole or not at all; an earlier one is replaced. The model stays as it is.

    Weights with two or more dimensions are kept in half precision, statistics, biases and prototypes in single.
    Low-rank changes are merged into the encoder, or kept beside it where it is left out. ``texts``: what was learned of
    the classes' texts, for a run that starts from this one.
    """
    left_out = left_out_of(model)
    state = kept_state(model, left_out)
    config = replace(config, left_out=left_out, notice=notice_of(model.record, left_out))
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors = {name: _compact(name, tensor) for name, tensor in state.items()}
    tensors |= {f"{_TEXTS}{name}": tensor.detach().cpu().contiguous() for name, tensor in (texts or {}).items()}
    save_file(tensors, fresh / TENSORS_NAME)
    (fresh / CONFIG_NAME).write_text(dump_json(config.to_json()), encoding="utf-8")
    for name in (TENSORS_NAME, CONFIG_NAME):
        sync_to_disk(fresh / name)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def load_model(
    folder: Path, device: str = "cpu", *, weights_dir: Path | None = None, allow_hub: bool = False
) -> LoadedModel:
    """Read a model folder (or a folder that holds one as ``model``) in float32, eval mode.

    An encoder that was left out is taken from ``weights_dir``, or from the hub where that is allowed. Raises NotFound
    when there is no model, BadInput when it is damaged, Unavailable without the encoder's file.
    """
    folder = find_model(folder)
    config = read_config(folder)
    if config.left_out is None:
        module, absent = Segmenter(config.encoder, config.classes.count, pretrained=False), set[str]()
    else:
        module, absent = on_published(
            config.encoder, config.classes.count, config.left_out, weights_dir, allow_hub=allow_hub
        )
    state = {name: t.float() if t.is_floating_point() else t for name, t in _read_tensors(folder).items()}
    texts = {name.removeprefix(_TEXTS): state.pop(name) for name in list(state) if name.startswith(_TEXTS)}
    try:
        if config.branch:
            add_branch(module, _branch_shape(config.branch), seed=0)
        found = module.load_state_dict(state, strict=False)
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise _unfit(folder) from error
    if set(found.missing_keys) != absent or found.unexpected_keys:
        raise _unfit(folder)
    module = module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedModel(module.eval(), config, texts)


def _unfit(folder: Path) -> BadInput:
    return BadInput(str(folder), "tensors do not fit the config", "use a folder that training wrote")


def read_config(folder: Path) -> ModelConfig:
    """The config of a model folder alone. Raises NotFound or BadInput."""
    path = find_model(folder) / CONFIG_NAME
    _check_size(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BadInput(str(path), "not JSON", "use a folder that training wrote") from error
    if not isinstance(values, dict):
        raise BadInput(str(path), "not a JSON object", "use a folder that training wrote")
    return ModelConfig.from_json(values)


def _known_record(values: Mapping[str, Any]) -> EncoderRecord:
    """The record by name, refused when the stored one differs: a name in a file never picks an architecture."""
    options = {name: values[name] for name in ("skips", "decoder_norm") if name in values}
    record = with_options(encoder_record(str(values["name"])), **options)
    if json.loads(json.dumps(record.to_json())) != dict(values):
        raise BadInput(CONFIG_NAME, f"encoder record {record.name} differs from this version's", "train again")
    return record


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / TENSORS_NAME
    _check_size(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(str(path), "damaged tensors", "train or fetch the model again") from error


def _check_size(path: Path) -> None:
    if path.stat().st_size > LIMITS_BYTES[path.name]:
        raise BadInput(str(path), "is too large", f"at most {LIMITS_BYTES[path.name]} bytes")


def _branch_shape(values: Mapping[str, Any]) -> BranchShape:
    """Sizes that a recipe could ask for: a file never decides how much memory is taken. Raises ValueError, KeyError."""
    channels, per_class, text_width = (int(values[name]) for name in ("channels", "per_class", "text_width"))
    if not (8 <= channels <= 1024 and 0 <= per_class <= 100 and 0 <= text_width <= 4096):
        raise ValueError("sizes out of range")
    attention = values.get("attention") is True
    if attention and not (per_class or text_width):
        raise ValueError("nothing to look at")
    return BranchShape(channels, per_class, text_width, attention=attention)


def _compact(name: str, tensor: Tensor) -> Tensor:
    half = tensor.is_floating_point() and tensor.ndim >= 2 and not name.startswith(_EXACT)
    return tensor.detach().to("cpu", torch.float16 if half else tensor.dtype).contiguous()


def dump_json(values: Any) -> str:
    """JSON as this library writes it: sorted, indented, figures that are not finite as null."""
    return json.dumps(_finite(values), indent=1, sort_keys=True, allow_nan=False) + "\n"


def _finite(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(key): _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    if isinstance(values, float) and not math.isfinite(values):
        return None
    return values


def sync_to_disk(path: Path) -> None:
    """Have the file's bytes on the disk before anything points at it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
