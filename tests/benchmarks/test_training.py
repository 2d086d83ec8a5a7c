import pytest

from benchmarks.training import measure

pytestmark = [pytest.mark.torch, pytest.mark.processes]


def test_the_benchmark_measures_each_method_in_a_process_of_its_own(capfd: pytest.CaptureFixture) -> None:
    figures = measure(methods=("supervised", "no-such-method"), steps=2, turns=1)
    assert set(figures) == {"supervised_step_s", "supervised_memory_mib"}
    assert figures["supervised_step_s"].value > 0
    # torch alone takes more than this, and this process's own memory is not counted
    assert figures["supervised_memory_mib"].value > 100
    assert "no-such-method" in capfd.readouterr().err
