import pytest

from benchmarks.inference import measure

pytestmark = pytest.mark.torch


def test_the_benchmark_measures_what_its_readers_look_for() -> None:
    figures = measure(repeats=1)
    assert {"patch_256_ms", "tile_1024_s", "pool_tiles_x_bare_loop"} <= set(figures)
    assert all(figure.value > 0 for figure in figures.values())
