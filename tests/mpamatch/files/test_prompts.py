from pathlib import Path

import pytest

from mpamatch.datasets import ebhi, glas, phantom
from mpamatch.domain.prompts import PROMPT_SETS
from mpamatch.errors import BadInput, NotFound
from mpamatch.files.prompts import class_texts, own_texts, prompt_files, read_prompt_file
from tests.mpamatch.prompt_files import write_prompts

EBHI = [("background", name) for name in ebhi._FOREGROUND.values()]


@pytest.mark.parametrize(
    ("dataset", "names"),
    [
        ("glas", glas.CLASS_NAMES),
        ("phantom", phantom.CLASS_NAMES),
        ("kpis", ("background", "glomerulus")),
        ("crag", ("background", "gland")),
        *[("ebhi", names) for names in EBHI],
    ],
)
@pytest.mark.parametrize("prompts", PROMPT_SETS)
def test_every_data_set_has_texts_of_its_own_for_its_classes(
    dataset: str, names: tuple[str, ...], prompts: str
) -> None:
    texts = class_texts(names, prompts, dataset=dataset)
    assert len(set(texts)) == len(names)
    shipped = {t for one in prompt_files() if one.dataset == dataset for c in one.classes for t in [c.sets[prompts]]}
    assert set(texts) <= shipped


def test_the_three_tasks_of_ebhi_have_three_backgrounds() -> None:
    assert len({class_texts(names, "P-nonsim", dataset="ebhi")[0] for names in EBHI}) == 3


@pytest.mark.parametrize("prompts", ["P", "T"])
def test_nonsim_describes_and_sim_is_short(prompts: str) -> None:
    for one in prompt_files():
        for c in one.classes:
            assert len(c.sets[f"{prompts}-sim"][0].split()) <= 7
            assert len(c.sets[f"{prompts}-nonsim"][0].split()) > len(c.sets[f"{prompts}-sim"][0].split())


def test_other_projects_get_texts_for_any_class() -> None:
    for dataset in (None, "folder"):
        texts = class_texts(["background", "Necrosis", "tertiary lymphoid structure"], "T-nonsim", dataset=dataset)
        assert len(set(texts)) == 3
        assert texts[1] == ("a microscope picture of dead tissue without clear cells",)
        assert "tertiary lymphoid structure" in texts[2][0]


def test_a_persons_own_file_is_read_in_the_form_of_the_shipped_ones(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "mine.json", "stroma", "crypt", aliases=("Gland",), T_sim=["mine", "twice"])
    assert own_texts(["gland", "Stroma"], "T-sim", path) == (("mine", "twice"), ("my T-sim stroma",))
    with pytest.raises(NotFound):
        read_prompt_file(tmp_path / "none.json")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(BadInput, match="not JSON"):
        read_prompt_file(path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["stroma", "glnd"], "class 'gland': is unknown; the classes are stroma, glnd"),
        (["stroma", "gland", "tumour"], "class 'tumour': has no texts"),
        (["stroma", "gland", "crypt"], "class 'gland': stands for two classes"),
    ],
)
def test_own_texts_are_of_the_classes_that_there_are_and_of_each_alone(
    tmp_path: Path, names: list[str], said: str
) -> None:
    path = write_prompts(tmp_path / "mine.json", "stroma", "gland", aliases=("crypt",))
    with pytest.raises(BadInput, match=said):
        own_texts(names, "T-sim", path)
    with pytest.raises(BadInput, match="unknown set"):
        own_texts(["stroma", "gland"], "T", path)
