from __future__ import annotations

import pytest

from benchmarks import codecs
from benchmarks.report import Figure

pytestmark = pytest.mark.labelstudio

# Others read these names.
FIGURES = {f"rle_{way}_{mask}_x_sdk" for way in ("encode", "decode") for mask in ("discs", "ragged", "disc")}


@pytest.fixture(scope="module")
def figures() -> dict[str, Figure]:
    if not codecs.SDK_PYTHON.exists():
        pytest.skip("no .venv-label-studio: run `make setup`")
    return codecs.measure(repeats=3)


def test_the_benchmark_measures_what_its_readers_look_for(figures: dict[str, Figure]) -> None:
    assert set(figures) >= FIGURES


def test_every_ratio_is_above_its_bound(figures: dict[str, Figure]) -> None:
    ratios = {key: figure for key, figure in figures.items() if figure.bound is not None}
    assert set(ratios) >= FIGURES
    assert {key: f.value for key, f in ratios.items() if f.value < (f.bound or 0)} == {}


def test_a_codec_that_writes_other_bytes_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    if not codecs.SDK_PYTHON.exists():
        pytest.skip("no .venv-label-studio: run `make setup`")
    right = codecs.encode_rle
    monkeypatch.setattr(codecs, "encode_rle", lambda mask: [*right(mask)[:-2], 1, 0])
    with pytest.raises(RuntimeError, match="other bytes"):
        codecs.measure(side_px=64, repeats=1)
