import pytest
from celery.worker import state

from workers.celery_app import stopping


@pytest.fixture(autouse=True)
def flags_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "should_stop", None)
    monkeypatch.setattr(state, "should_terminate", None)


@pytest.mark.parametrize("flag", ["should_stop", "should_terminate"])
@pytest.mark.parametrize(("value", "expected"), [(None, False), (False, False), (0, True), (True, True), (1, True)])
def test_a_clean_stop_is_noticed_although_its_code_is_zero(
    monkeypatch: pytest.MonkeyPatch, flag: str, value: object, expected: bool
) -> None:
    monkeypatch.setattr(state, flag, value)
    assert stopping() is expected
