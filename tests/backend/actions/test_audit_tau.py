from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import delete, select

from backend.actions.audit_tau import TauAudit, audit_tau, confirms_itself
from backend.actions.tally_labels import tally_labels
from backend.store import projects
from backend.store.tables import Mask, Prediction, Tally
from mpamatch.errors import BadInput
from tests.backend.actions.tallied_project import judged, label, predict, run_of, shifted
from tests.builders import Installation, disc, installation

pytestmark = pytest.mark.database


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return installation(database_url, tmp_path, train=8, audit=12)


def look(made: Installation, target: float = 0.95) -> TauAudit:
    while tally_labels(made.database, made.blobs, made.project_id, limit=50):
        pass
    with made.database.transaction() as session:
        return audit_tau(session, projects.get(session, made.project_id), target=target)


def trained(made: Installation, *, held: int = 8) -> None:
    """One champion, sure of the disc's core and unsure of its rim; people drew the disc elsewhere on audit tiles."""
    train, audit = made.tiles("train"), made.tiles("audit")
    model = judged(made, "m1", run_of(made, 1, held=[t.id for t in train[:held]]))
    predict(made, model, [*train, *audit], disc(), 0.97)
    for place, tile in enumerate(train):
        label(made, tile, shifted(place % 2))
    for tile in audit:
        label(made, tile, shifted(6))


def test_audit_tiles_report_and_tiles_kept_back_suggest(made: Installation) -> None:
    trained(made)
    found = look(made)
    assert (found.champion, found.audit_tiles, found.audit_groups, found.held_tiles) == ("m1", 12, 12, 8)
    right = (disc() == shifted(6)).mean()
    assert found.audit[0].at_tau.acceptance == pytest.approx(right)
    assert found.audit[0].at_tau.passed == 1
    assert found.held[0].at_tau.acceptance == pytest.approx(np.mean([(disc() == shifted(n)).mean() for n in (0, 1)]))
    gland = found.advice[1]
    assert gland.tau == 0.5  # nearly all is right on the tiles kept back
    judged_ = found.judged[1]
    assert judged_ is not None
    assert judged_.acceptance == pytest.approx((shifted(6) == 1)[disc() == 1].mean())
    assert judged_.acceptance < gland.acceptance  # type: ignore[operator]


def test_a_class_with_a_tau_of_its_own_is_reported_at_that(made: Installation) -> None:
    trained(made)
    assert look(made).taus == (0.95, 0.95)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        project.policy = {**project.policy, "tau_by_class": {"gland": 0.98}}
    found = look(made)
    assert (found.tau, found.taus) == (0.95, (0.95, 0.98))
    everything, background, gland = (one.at_tau for one in found.audit)
    assert (everything.tau, background.tau, gland.tau) == (None, 0.95, 0.98)
    assert (background.passed, gland.passed) == (1, 0)
    assert everything.passed == pytest.approx((disc() == 0).mean())
    assert found.drift.standings[0].passed == pytest.approx((disc() == 0).mean())
    with made.database.transaction() as session:
        assert confirms_itself(session, projects.get(session, made.project_id)) == found.drift


def test_what_audit_tiles_say_changes_no_suggestion(made: Installation) -> None:
    trained(made)
    before = look(made)
    for tile in made.tiles("audit"):
        label(made, tile, 1 - disc())
    after = look(made)
    assert after.audit[0].at_tau.acceptance == 0
    assert (after.advice, after.held) == (before.advice, before.held)


def test_labels_made_with_a_suggestion_in_view_are_told_apart(made: Installation) -> None:
    trained(made)
    tile = made.tiles("train")[0]
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        shown = session.scalars(select(Prediction).where(Prediction.tile_id == tile.id)).one()
    label(made, tile, disc(), shown=champion, prediction_id=shown.id)
    assert look(made).held_suggested == 1


def test_few_tiles_kept_back_are_not_enough(made: Installation) -> None:
    trained(made, held=5)
    found = look(made)
    assert [one.tau for one in found.advice] == [None, None]
    assert "not enough labels: predicted in 5 groups" in found.advice[1].says
    assert found.judged == (None, None)


def test_a_project_without_a_trained_model_has_nothing_to_tell(made: Installation) -> None:
    found = look(made)
    assert (found.champion_kind, found.audit_tiles, found.held_tiles, found.waiting) == ("blank", 0, 0, 0)
    assert found.drift.state == "too early"


def test_what_is_not_counted_yet_is_said(made: Installation) -> None:
    trained(made)
    look(made)
    with made.database.transaction() as session:
        masks = select(Mask.id).where(Mask.tile_id.in_([t.id for t in made.tiles("audit")[:3]]))
        session.execute(delete(Tally).where(Tally.mask_id.in_(masks)))
    with made.database.transaction() as session:
        found = audit_tau(session, projects.get(session, made.project_id))
    assert (found.waiting, found.audit_tiles) == (3, 9)


def test_champions_that_grow_sure_of_what_people_reject_raise_the_alarm(made: Installation) -> None:
    audit = made.tiles("audit")
    for number, (by, confidence) in enumerate(((1, 0.955), (3, 0.97), (6, 0.99)), start=1):
        predict(made, judged(made, f"m{number}", run_of(made, number)), audit, shifted(by), confidence)
    for tile in audit:
        label(made, tile, disc())
    found = look(made)
    assert found.drift.state == "alarm"
    assert [one.version for one in found.drift.standings] == ["m1", "m2", "m3"]
    with made.database.transaction() as session:
        assert confirms_itself(session, projects.get(session, made.project_id)) == found.drift


def test_a_precision_that_is_none_is_refused(made: Installation) -> None:
    with pytest.raises(BadInput):
        look(made, target=1.5)
