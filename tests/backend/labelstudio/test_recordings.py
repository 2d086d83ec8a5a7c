"""Every recording of a real Label Studio is replayed somewhere, or listed here with the reason why not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backend.labelstudio.results import result_to_mask
from backend.labelstudio.validation import validate_result
from mpamatch.domain.classes import IGNORE, ClassSet
from mpamatch.errors import BadInput
from tests.backend.labelstudio.conftest import RECORDED

TESTS = Path(__file__).resolve().parents[2]
CLASSES = ClassSet.from_names(["background", "Tumour", "Stroma"])

# Traffic between people's pages and Label Studio: nothing of ours sends or receives it.
NOT_OURS = {
    "ui-next-task-requests": "the page asks Label Studio for the next task",
    "rest-dm-retrieve-predictions": "Label Studio tells the page how many predictions it fetched",
}
# Read by a pattern over names.
PATTERNS = (r"webhook-.*", r"ui-annotation-(brush|bitmask|polygon)")


def test_every_recording_is_replayed_or_said_why_not() -> None:
    if not RECORDED.is_dir():
        pytest.skip(f"no recordings of Label Studio beside the repository ({RECORDED})")
    told = "\n".join(path.read_text() for path in sorted(TESTS.rglob("test_*.py")))
    names = sorted(path.stem for path in RECORDED.glob("*.json"))
    missing = [name for name in names if name not in NOT_OURS and not _is_replayed(name, told)]
    assert names
    assert missing == []


def _is_replayed(name: str, told: str) -> bool:
    by_name = re.search(rf'"{re.escape(name)}(\.json)?"', told)
    return by_name is not None or any(re.fullmatch(pattern, name) for pattern in PATTERNS)


def test_what_label_studio_stores_unseen_we_refuse_before_sending(recorded) -> None:
    """Each case that its optional validation refuses is refused here too, and a few that even that lets through."""
    matrix = recorded("prediction-validation-matrix")
    ok = recorded("rest-prediction-create")[0]["request"]["json"]["result"]
    region, box = ok

    def changed(item, **value):
        return {**item, "value": {**item["value"], **value}}

    cases = {
        "ok": ok,
        "empty result": [],
        "no id": [{k: v for k, v in region.items() if k != "id"}],
        "unknown rectangle label": [changed(box, rectanglelabels=["Nobody"])],
        "unknown from_name": [{**region, "from_name": "zzz"}],
        "x=120": [changed(box, x=120)],
        "x+width>100": [changed(box, x=95, width=45)],
        "type in CamelCase": [{**region, "type": "BrushLabels"}],
        "unknown brush label": [changed(region, brushlabels=["Necrosis"])],
        "rle bytes garbage": [changed(region, rle=[1, 2, 3])],
        "brush without rle": [{**region, "value": {"format": "rle", "brushlabels": ["Tumour"]}}],
        "rle is a string": [changed(region, rle="AAAA")],
        "no original_width": [{k: v for k, v in region.items() if k != "original_width"}],
        "region score 7": [{**region, "score": 7}],
        "result null": None,
    }
    of_the_prediction = {"score 1.5", "score -0.1", "score null", 'score "nan"', "model_version null"}
    of_the_prediction |= {"model_version 300 chars"}  # not the result's: the client writes them from typed arguments
    assert set(matrix) == set(cases) | of_the_prediction
    for name, result in cases.items():
        if name in ("ok", "empty result"):
            validate_result(result, CLASSES, 64, 64)
            continue
        with pytest.raises(BadInput):
            validate_result(result, CLASSES, 64, 64)  # type: ignore[arg-type]
        assert matrix[name]["default"] in (201, 400)
    assert sum(case["default"] == 201 for case in matrix.values()) > len(matrix) / 2, "it stores almost anything"


def test_a_recorded_prediction_reads_as_the_disc_that_it_shows(recorded) -> None:
    result = recorded("rest-prediction-create")[0]["request"]["json"]["result"]
    answered = recorded("rest-prediction-create")[0]["response"]["result"]
    reading = result_to_mask(answered, width=64, height=64, classes=CLASSES, shown=result)
    assert reading.origin == "confirmed"
    assert set(reading.mask.reshape(-1).tolist()) == {0, 1}


def test_a_recorded_draft_is_a_box_that_paints_nothing(recorded) -> None:
    draft = recorded("rest-draft-create")[0]["response"]["result"]
    reading = result_to_mask(draft, width=64, height=64, classes=CLASSES)
    assert not reading.mask.any()
    assert not (reading.mask == IGNORE).any()
