from benchmarks.regions import BOUND_MS, measure


def test_the_benchmark_measures_what_its_readers_look_for() -> None:
    figures = measure(repeats=1, blobs_px=(4.0,))
    assert figures["regions_1024_5c_ms"].bound == BOUND_MS
    assert all(figure.value > 0 for figure in figures.values())
