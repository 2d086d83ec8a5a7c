"""The model that comes with the package: where it lies, and its archive under a project's own class names. No torch."""

from __future__ import annotations

import json
import tempfile
from importlib.resources import files
from pathlib import Path

from mpamatch.domain.classes import ClassSet
from mpamatch.errors import BadInput
from mpamatch.files.model_archive import CONFIG_NAME, TENSORS_NAME, find_model, pack_model

STARTER = "starter"
"""The name by which commands know it."""

PLAN_NAME, CARD_NAME = "plan.json", "MODEL_CARD.md"


def starter_folder() -> Path:
    """The folder of the starter: model, card, plan."""
    return Path(str(files("mpamatch") / "starter"))


def starter_classes() -> ClassSet:
    """Its own classes: background and gland. Raises NotFound when the package lacks its weights."""
    values = json.loads((find_model(starter_folder()) / CONFIG_NAME).read_text(encoding="utf-8"))
    return ClassSet.from_json(values["classes"])


def starter_archive(classes: ClassSet) -> bytes:
    """The starter packed as a model of a project whose two classes may have other names.

    Only names, colours and prompts change: id 1 is what the starter knows as gland. Raises BadInput for another
    number of classes.
    """
    folder = find_model(starter_folder())
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    if classes.count != len(config["classes"]):
        problem = f"has {len(config['classes'])} classes, the project {classes.count}"
        raise BadInput(STARTER, problem, "start from its encoder instead: --start encoder")
    config["classes"] = classes.to_json()
    with tempfile.TemporaryDirectory() as scratch:
        renamed = Path(scratch)
        (renamed / CONFIG_NAME).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        (renamed / TENSORS_NAME).symlink_to(folder / TENSORS_NAME)
        return pack_model(renamed)
