"""The starter as files: its place, size, words, and its archive under other class names."""

from __future__ import annotations

import json
import tarfile
from io import BytesIO

import pytest

from mpamatch.domain.classes import ClassSet
from mpamatch.errors import BadInput
from mpamatch.files.model_archive import CONFIG_NAME, TENSORS_NAME
from mpamatch.files.starter import CARD_NAME, PLAN_NAME, starter_archive, starter_classes, starter_folder

MIB = 1024**2


def test_the_package_carries_model_card_and_plan_within_twelve_mebibytes() -> None:
    found = {path.name: path.stat().st_size for path in starter_folder().iterdir()}
    assert {TENSORS_NAME, CONFIG_NAME, CARD_NAME, PLAN_NAME} <= set(found)
    assert sum(found.values()) <= 12 * MIB
    assert starter_classes().names == ("background", "gland")


def test_what_it_was_trained_on_is_free_to_ship() -> None:
    config = json.loads((starter_folder() / CONFIG_NAME).read_text())
    assert config["provenance"]["data"].startswith("EBHI-Seg")
    assert "CC BY 4.0" in config["provenance"]["data"]
    assert "glas" not in json.dumps(config["provenance"]).casefold()


def test_a_project_gets_it_under_its_own_class_names() -> None:
    classes = ClassSet.from_names(["other", "tumour epithelium"])
    with tarfile.open(fileobj=BytesIO(starter_archive(classes))) as archive:
        config = json.load(archive.extractfile(CONFIG_NAME))  # type: ignore[arg-type]
        tensors = archive.extractfile(TENSORS_NAME).read()  # type: ignore[union-attr]
    assert [c["name"] for c in config["classes"]] == ["other", "tumour epithelium"]
    assert tensors == (starter_folder() / TENSORS_NAME).read_bytes()
    assert starter_archive(classes) == starter_archive(classes)


def test_three_classes_are_sent_to_its_encoder() -> None:
    with pytest.raises(BadInput, match="start from its encoder"):
        starter_archive(ClassSet.from_names(["background", "gland", "stroma"]))
