"""What a new project begins with."""

from __future__ import annotations

import pytest

from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from mpamatch.domain.starting import choose_start, is_gland_like
from mpamatch.errors import BadInput


@pytest.mark.parametrize(
    "name",
    [
        "gland", "Glands", "crypt", "tumour", "Tumor", "tumour epithelium", "foreground", "Adenocarcinoma", "gland_1",
        "malignant-gland", "normal gland", "tumor nodule", "Epithelium", "neoplastic epithelium", "acini",
    ],
)  # fmt: skip
def test_two_classes_of_which_one_goes_by_a_name_for_glands_start_from_the_starter(name: str) -> None:
    classes = ClassSet.from_names(["background", name])
    assert is_gland_like(classes)
    assert choose_start("auto", classes) == "starter"


@pytest.mark.parametrize(
    "names",
    [
        ["background", "stroma"],
        ["background", "tumour stroma"],
        ["background", "non-gland"],
        ["background", "nuclei"],
        ["background", "glomerulus"],
        ["background", "England"],
        ["background", "vessel", "gland"],
        ["gland", "background"],
        ["фон", "железа"],
    ],
)
def test_other_classes_start_from_its_encoder(names: list[str]) -> None:
    assert choose_start("auto", ClassSet.from_names(names)) == "encoder"


def test_a_wish_is_heard_before_the_rule() -> None:
    glands, many = ClassSet.from_names(["background", "gland"]), ClassSet.from_names(["a", "b", "c"])
    assert [choose_start(w, glands) for w in ("blank", "encoder")] == ["blank", "encoder"]
    assert choose_start("starter", ClassSet.from_names(["a", "b"])) == "starter"
    with pytest.raises(BadInput, match="knows two classes, the project has 3; start from its encoder"):
        choose_start("starter", many)
    with pytest.raises(BadInput, match=r"'warm'.*one of auto, starter, encoder, blank"):
        choose_start("warm", glands)


def test_a_policy_keeps_the_start_and_older_ones_have_none() -> None:
    values = Policy(start="starter").to_json()
    assert Policy.from_json(values).start == "starter"
    del values["start"]
    assert Policy.from_json(values).start == "blank"
    with pytest.raises(BadInput, match=r"start.*unknown"):
        Policy.from_json({"start": "hot"})
