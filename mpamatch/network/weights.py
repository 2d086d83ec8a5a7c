"""Models on disk: a folder of ``model.safetensors`` and ``config.json`` (as one archive: ``files/model_archive``).

No pickle anywhere. A folder or archive may come from elsewhere, so what it names is checked against what is known:
only known encoders are built, and sizes are bounded before anything is read.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from mpamatch.network.encoders import EncoderRecord, encoder_record
from mpamatch.network.model import Segmenter

_FORMAT = 1


@dataclass(frozen=True)
class WorkingScale:
    """The scale a model works at: ``um_per_px`` where known, else the factor ``reduction`` images shrink by."""

    reduction: float = 1.0
    um_per_px: float | None = None


@dataclass(frozen=True)
class ModelConfig:
    """What a model is besides its tensors. ``temperature`` divides logits; 1 where it could not be fitted."""

    version: str
    classes: ClassSet
    encoder: EncoderRecord
    scale: WorkingScale
    recipe: Recipe
    temperature: float = 1.0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "version": self.version,
            "classes": self.classes.to_json(),
            "encoder": self.encoder.to_json(),
            "working_scale": {"reduction": self.scale.reduction, "um_per_px": self.scale.um_per_px},
            "temperature": self.temperature,
            "recipe": self.recipe.to_json(),
            "recipe_sha256": self.recipe.sha256(),
            "provenance": dict(self.provenance),
            "metrics": dict(self.metrics),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The inverse of :meth:`to_json`. Raises BadInput when a part is missing or not what this version knows."""
        try:
            if values["format"] != _FORMAT:
                raise BadInput(CONFIG_NAME, f"format {values['format']}", f"this version reads format {_FORMAT}")
            scale, temperature = values["working_scale"], float(values["temperature"])
            um_per_px = scale.get("um_per_px")
            config = cls(
                version=str(values["version"]),
                classes=ClassSet.from_json(values["classes"]),
                encoder=_known_record(values["encoder"]),
                scale=WorkingScale(float(scale["reduction"]), None if um_per_px is None else float(um_per_px)),
                recipe=Recipe.from_json(values["recipe"]),
                temperature=temperature,
                provenance=dict(values.get("provenance", {})),
                metrics=dict(values.get("metrics", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"not a model's config ({error!r})"
            raise BadInput(CONFIG_NAME, problem, "use a folder that training wrote") from error
        if not (0.01 <= temperature <= 100 and 0.01 <= config.scale.reduction <= 1000):
            raise BadInput(CONFIG_NAME, "temperature or reduction out of range", "use a folder that training wrote")
        return config


@dataclass(frozen=True)
class LoadedModel:
    """A segmenter in eval mode with its config."""

    module: Segmenter
    config: ModelConfig


def save_model(folder: Path, model: Segmenter, config: ModelConfig) -> None:
    """Write a model folder, whole or not at all; an earlier one is replaced.

    Weights with two or more dimensions are kept in half precision, statistics and biases in single.
    """
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({name: _compact(tensor) for name, tensor in model.state_dict().items()}, fresh / TENSORS_NAME)
    (fresh / CONFIG_NAME).write_text(dump_json(config.to_json()), encoding="utf-8")
    for name in (TENSORS_NAME, CONFIG_NAME):
        sync_to_disk(fresh / name)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def load_model(folder: Path, device: str = "cpu") -> LoadedModel:
    """Read a model folder (or a folder that holds one as ``model``) in float32, eval mode.

    Raises NotFound when there is none, BadInput when it is damaged.
    """
    folder = find_model(folder)
    config = read_config(folder)
    module = Segmenter(config.encoder, config.classes.count, pretrained=False)
    state = {name: t.float() if t.is_floating_point() else t for name, t in _read_tensors(folder).items()}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise BadInput(str(folder), "tensors do not fit the config", "use a folder that training wrote") from error
    module = module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedModel(module.eval(), config)


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
    record = encoder_record(str(values["name"]))
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


def _compact(tensor: Tensor) -> Tensor:
    half = tensor.is_floating_point() and tensor.ndim >= 2
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
