"""Answers over REST: what counts, what comes too late, what is taken back; progress; the order for other programs."""

from __future__ import annotations

import base64
import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from shapely.geometry import shape
from sqlalchemy import select, update

from backend.store import masks
from backend.store.tables import Annotation, Image, Model, Project, QueueEntry, Region, Tile
from mpamatch.files.masks import write_mask
from mpamatch.files.rasters import decode_raster
from tests.backend.api.conftest import Api
from tests.backend.api.test_v1 import MINE, check_problem
from tests.builders import add_model, disc, predict_all
from tests.reliability.fault_log import FaultLog

pytestmark = pytest.mark.database


def png(mask: np.ndarray) -> str:
    return base64.b64encode(write_mask(mask)).decode()


def trained(api: Api) -> None:
    """A trained champion that nobody ranked yet: its suggestions are shown."""
    model = add_model(api.mine, "mine-m1")
    predict_all(api.mine, model)
    with api.mine.database.transaction() as session:
        project = session.get_one(Project, api.mine.project_id)
        session.get_one(Model, project.champion_id).state = "retired"
        session.flush()
        session.get_one(Model, model.id).state = "champion"
        project.champion_id = model.id


def take(client: Any) -> dict[str, Any]:
    (lease,) = client.post(f"{MINE}/queue/next", json={}).json()["items"]
    return dict(lease)


def submit(client: Any, lease: dict[str, Any], **body: Any) -> Any:
    return client.post(f"{MINE}/queue/{lease['tile_id']}/submit", json={"attempt": lease["attempt"], **body})


def end_lease(api: Api, lease: dict[str, Any]) -> None:
    with api.mine.database.transaction() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        session.execute(update(QueueEntry).where(QueueEntry.tile_id == lease["tile_id"]).values(lease_until=past))


def test_a_program_takes_a_tile_draws_on_its_suggestion_and_submits(api: Api) -> None:
    trained(api)
    client = api.client("annotator")
    lease = take(client)
    (region,) = lease["regions"]
    assert [region[k] for k in ("x_px", "y_px", "width_px", "height_px")] == [10, 10, 20, 20]
    assert lease["model_version"] == "mine-m1"
    suggested = decode_raster(client.get(lease["suggestion"]).content)
    assert (suggested == disc()).all()
    answered = submit(
        client, lease, scope="only the boxes", mask=png(suggested), shown_version="mine-m1", seconds=7
    ).json()
    assert (answered["state"], answered["problem"]) == ("present", None)
    with api.mine.database.transaction() as session:
        mask = masks.newest_counting(session, lease["tile_id"])
        row = session.get_one(Annotation, answered["id"])
    assert (mask.origin, mask.reviewed_share) == ("confirmed", 20 * 20 / 64**2)
    assert (row.lead_time_s, row.shown_version, row.annotator) == (7, "mine-m1", None)
    assert row.holder == answered["by"] == f"token:{client.get('/api/v1/token').json()['key_id']}"


def test_an_audit_tile_is_drawn_blind(api: Api) -> None:
    trained(api)
    client = api.client("annotator")
    leases = client.post(f"{MINE}/queue/next", json={"count": 50}).json()["items"]
    blind = [one for one in leases if one["stratum"] == "audit"]
    assert blind
    for one in blind:
        assert (one["regions"], one["model_version"], one["suggestion"]) == ([], None, None)
        address = f"{MINE}/tiles/{one['tile_id']}/suggestion.png"
        check_problem(client.get(address, params={"model_version": "mine-m1"}), 404)
        refused = submit(client, one, scope="whole tile", mask=png(disc()), shown_version="nobodys-m7")
        check_problem(refused, 422)
    assert all(one["suggestion"] for one in leases if one["stratum"] != "audit")


def test_a_late_answer_is_a_conflict_that_names_the_draft_it_is_kept_as(api: Api, log: FaultLog) -> None:
    """Row 19 of the faults over HTTP, with work in hand."""
    first, second, operator = api.client("annotator"), api.client("annotator"), api.client("operator")
    mine = take(first)
    end_lease(api, mine)
    theirs = take(second)
    assert theirs["tile_id"] == mine["tile_id"]
    body = {"scope": "whole tile", "mask": png(disc(x=20))}
    late = check_problem(submit(first, mine, **body), 409)
    assert f"draft {late['draft']}" in late["detail"]
    assert check_problem(submit(first, mine, **body), 409)["draft"] == late["draft"]
    assert [d["id"] for d in first.get(f"{MINE}/queue/drafts").json()["items"]] == [late["draft"]]
    use = f"{MINE}/queue/drafts/{late['draft']}/use"
    check_problem(operator.post(use), 409)  # the second one is at work on it
    assert submit(second, theirs, scope="whole tile", mask=png(disc(x=50))).json()["state"] == "present"
    assert operator.post(use).json()["state"] == "present"
    with api.mine.database.transaction() as session:
        mask = masks.newest_counting(session, mine["tile_id"])
    assert (decode_raster(api.mine.blobs.get(mask.blob)) == disc(x=20)).all()
    seen = "409 that names the draft; the second one's label counts until an operator lets the draft count"
    log.recovered(row=19, fault="a lease runs out during the edit, and the work is submitted over REST", seen=seen)


def test_a_late_answer_with_its_key_is_answered_the_same_again(api: Api) -> None:
    first, second = api.client("annotator"), api.client("annotator")
    mine = take(first)
    end_lease(api, mine)
    take(second)
    headers = {"Idempotency-Key": "once"}
    address, body = f"{MINE}/queue/{mine['tile_id']}/submit", {"attempt": mine["attempt"], "scope": "artefact"}
    answers = [first.post(address, json=body, headers=headers) for _ in range(2)]
    assert check_problem(answers[0], 409) == check_problem(answers[1], 409)
    assert answers[1].headers["idempotent-replayed"] == "true"


def test_an_answer_is_taken_back_by_who_gave_it_or_an_operator(api: Api) -> None:
    first, second = api.client("annotator"), api.client("annotator")
    one, other = take(first), take(first)
    numbers = [submit(first, lease, scope="artefact").json()["id"] for lease in (one, other)]
    back = [f"{MINE}/queue/answers/{number}/take-back" for number in numbers]
    assert "another" in check_problem(second.post(back[0]), 409)["detail"]
    with api.mine.database.transaction() as session:
        assert session.get_one(Tile, one["tile_id"]).state == "artefact"
    assert first.post(back[0]).json()["state"] == "deleted"
    assert api.client("operator").post(back[1]).json()["state"] == "deleted"
    with api.mine.database.transaction() as session:
        assert {session.get_one(Tile, lease["tile_id"]).state for lease in (one, other)} == {"ready"}
    assert take(second)["tile_id"] == one["tile_id"]


def test_what_is_no_answer_is_refused(api: Api) -> None:
    client = api.client("annotator")
    lease = take(client)
    for body in (
        {},
        {"scope": "some of it"},
        {"scope": "whole tile"},
        {"scope": "whole tile", "mask": "%%%"},
        {"scope": "whole tile", "mask": base64.b64encode(b"no picture").decode()},
        {"scope": "whole tile", "mask": png(disc(size=32))},
        {"scope": "artefact", "seconds": -1},
        {"scope": "artefact", "seconds": "7"},
        {"scope": "artefact", "annotator": 1},
    ):
        check_problem(submit(client, lease, **body), 422)
    assert submit(client, lease, scope="cannot tell").status_code == 200


def test_progress_counts_tiles_by_where_they_are_and_who_answered(api: Api) -> None:
    first, second, viewer = api.client("annotator"), api.client("annotator"), api.client("viewer")
    leases = [take(first) for _ in range(4)]
    submit(first, leases[0], scope="whole tile", mask=png(disc()))
    submit(first, leases[1], scope="artefact")
    first.post(f"{MINE}/queue/{leases[2]['tile_id']}/skip", json={"attempt": 1, "reason": "blurred"})
    submit(second, leases[3], scope="cannot tell")  # never hers: a draft
    with api.mine.database.transaction() as session:
        yesterday = datetime.now(UTC) - timedelta(days=2)
        session.execute(update(Annotation).where(Annotation.scope == "artefact").values(updated_at=yesterday))
    seen = viewer.get(f"{MINE}/queue/progress").json()
    by = seen.pop("by")
    assert datetime.fromisoformat(seen.pop("today_since")) <= datetime.now(UTC)
    assert seen == {
        "waiting": 4,
        "held": 1,
        "in_label_studio": 0,
        "labelled": 2,
        "artefacts": 1,
        "cannot_tell": 0,
        "skipped": 1,
        "drafts": 1,
        "today": 2,
    }
    ((only),) = by
    assert (only["labelled"], only["skipped"], only["today"], only["annotator"]) == (2, 1, 2, None)
    assert only["holder"] == f"token:{first.get('/api/v1/token').json()['key_id']}"


def test_the_order_is_exported_with_its_regions_in_level_0_pixels(api: Api) -> None:
    trained(api)
    with api.mine.database.transaction() as session:
        session.execute(update(Tile).values(x_px=100, width_px=192, height_px=128, scale=2.0))
        session.execute(update(Image).where(Image.project_id == api.mine.project_id).values(uri="/a/=1+1.png"))
        entry = session.scalars(select(QueueEntry).order_by(QueueEntry.rank).limit(1)).one()
        region = session.scalars(select(Region).order_by(Region.id).limit(1)).one()
        region.x_px, region.width_px = 5, 30  # the Review box is larger than the outline
        entry.region_ids, entry.note = [region.id], "=1+2"
        first = entry.tile_id
    client = api.client("viewer")
    listed = client.get(f"{MINE}/queue/export")
    assert listed.headers["content-type"] == "text/csv; charset=utf-8"
    lines = list(csv.DictReader(io.StringIO(listed.text, newline="")))
    assert [int(line["rank"]) for line in lines] == list(range(1, 8))
    assert lines[0]["tile_id"] == str(first)
    assert lines[0]["reasons"].startswith("'=1+2; no trained model yet")
    assert [lines[0][k] for k in ("x_px", "y_px", "width_px", "height_px")] == ["110", "20", "60", "40"]
    assert all(line["image"].startswith("'=1+1") for line in lines)
    document = client.get(f"{MINE}/queue/export", params={"format": "geojson"}).json()
    assert len(document["features"]) == 7
    assert shape(document["features"][0]["geometry"]).bounds == (120, 20, 160, 60)
    with api.mine.database.transaction() as session:
        image = session.get_one(Tile, first).image_id
    one = client.get(f"{MINE}/queue/export", params={"format": "geojson", "image_id": image}).json()
    assert {f["properties"]["metadata"]["tile"] for f in one["features"]} == {str(first)}
    assert one["image"]["name"].startswith("=1+1")
    check_problem(client.get(f"{MINE}/queue/export", params={"image_id": api.theirs.tiles()[0].image_id}), 404)
    annotator = api.client("annotator")
    submit(annotator, take(annotator), scope="cannot tell")
    for asked, states in (({}, ["open"] * 6), ({"every_state": "true"}, ["done", *["open"] * 6])):
        text = client.get(f"{MINE}/queue/export", params=asked).text
        assert [line["state"] for line in csv.DictReader(io.StringIO(text, newline=""))] == states
