from datetime import UTC, datetime, timedelta

from workers.jobs.patience import LONGEST_WAIT_S, Patience

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_each_failure_in_a_row_doubles_the_wait_up_to_a_limit() -> None:
    patience = Patience()
    waits = [patience.failed(1, now=NOW) for _ in range(6)]
    assert waits == [2, 4, 8, 16, LONGEST_WAIT_S, LONGEST_WAIT_S]


def test_it_rests_until_its_time_and_other_projects_do_not() -> None:
    patience = Patience()
    wait_s = patience.failed(1, now=NOW)
    assert patience.resting(1, now=NOW)
    assert not patience.resting(2, now=NOW)
    assert not patience.resting(1, now=NOW + timedelta(seconds=wait_s))


def test_an_answer_ends_the_rest_and_the_count() -> None:
    patience = Patience()
    patience.failed(1, now=NOW)
    patience.failed(1, now=NOW)
    patience.answered(1)
    assert not patience.resting(1, now=NOW)
    assert patience.failed(1, now=NOW) == 2
