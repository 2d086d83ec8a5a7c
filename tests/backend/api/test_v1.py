"""REST: what each role may do, that nobody sees another project's rows, pages, filters and repeated writes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from sqlalchemy import func, select, update

from backend.actions.answer_tile import Answer, answer_tile
from backend.actions.open_run import open_run
from backend.actions.register_images import RegisterItem, register
from backend.actions.show_tile import link
from backend.store import masks, projects, tokens
from backend.store.tables import Event, Image, Model, QueueEntry, Reply, Run, Task, Tile
from mpamatch.domain.recipe import Recipe
from mpamatch.files.images import encode_png
from mpamatch.files.rasters import encode_raster
from tests.backend.api.conftest import BASE, Api
from tests.builders import Installation, add_model, disc, picture, predict_all
from tests.reliability.fault_log import FaultLog

pytestmark = pytest.mark.database
V1 = "/api/v1"
MINE, THEIRS = f"{V1}/projects/mine", f"{V1}/projects/theirs"


def addresses(made: Installation, key: str) -> list[tuple[str, str, Any, str]]:
    """Every route of one project with an existing object: method, path, body, the role that it needs."""
    project, tile = f"{V1}/projects/{key}", made.tiles()[0]
    add_run(made)
    reads = ["", "/images", f"/images/{tile.image_id}", "/tiles", f"/tiles/{tile.id}", "/queue"]
    reads += ["/runs", "/runs/1", "/models", f"/models/{key}-m0", "/audit", "/advice", "/costs", "/agreement"]
    reads += ["/queue/progress", "/queue/export", "/queue/export?format=geojson", "/queue/drafts", "/events"]
    reads += [f"/tiles/{tile.id}/suggestion.png?model_version={key}-m1"]
    add_suggestions(made, key)
    draft = add_draft(made)
    held, answers = f"{project}/queue/{tile.id}", f"{project}/queue/answers/{draft}"
    return [
        *[("GET", f"{project}{path}", None, "viewer") for path in reads],
        ("POST", f"{project}/queue/next", {}, "annotator"),
        ("POST", f"{held}/renew", {"attempt": 1}, "annotator"),
        ("POST", f"{held}/release", {"attempt": 1}, "annotator"),
        ("POST", f"{held}/submit", {"attempt": 1, "scope": "cannot tell"}, "annotator"),
        ("POST", f"{held}/skip", {"attempt": 1, "reason": "blurred"}, "annotator"),
        ("POST", f"{project}/queue/drafts/{draft}/use", None, "operator"),
        ("POST", f"{answers}/take-back", None, "annotator"),
        ("POST", f"{project}/runs", None, "operator"),
        ("POST", f"{project}/runs/1/cancel", None, "operator"),
        ("POST", f"{project}/models/rollback", {}, "operator"),
    ]


def add_suggestions(made: Installation, key: str) -> None:
    """A trained model's predictions, once."""
    with made.database.transaction() as session:
        known = session.scalar(select(Model.id).where(Model.version == f"{key}-m1"))
    if known is None:
        predict_all(made, add_model(made, f"{key}-m1", state="retired"))


def add_draft(made: Installation) -> int:
    """An answer that came too late; its number."""
    with made.database.transaction() as session:
        project = session.get_one(type(made.project()), made.project_id)
        answer, tile = Answer("cannot tell"), made.tiles()[1]
        given = {"holder": f"command:{made.project_id}", "attempt": 1, "now": datetime.now(UTC)}
        return answer_tile(session, made.blobs, project, tile.id, answer, **given).id


def add_run(made: Installation, state: str = "queued") -> None:
    recipe = Recipe.for_profile("demo")
    with made.database.transaction() as session:
        number = (session.scalar(select(func.count()).where(Run.project_id == made.project_id)) or 0) + 1
        session.add(
            Run(
                project_id=made.project_id,
                number=number,
                trigger="manual",
                reasons=["asked for"],
                recipe=recipe.to_json(),
                recipe_hash=recipe.sha256(),
                snapshot_blob="0" * 64,
                version=f"v{number}",
                state=state,
            )
        )


def check_problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return dict(response.json())


def test_each_role_may_do_what_it_is_for_and_no_more(api: Api) -> None:
    routes = addresses(api.mine, "mine")
    clients = {role: api.client(role) for role in tokens.ROLES}
    nobody = api.client()
    for method, path, body, needed in routes:
        refused = check_problem(nobody.request(method, path, json=body), 401)
        assert "item" not in refused
        for role, client in clients.items():
            response = client.request(method, path, json=body)
            if tokens.ROLES.index(role) < tokens.ROLES.index(needed):  # type: ignore[arg-type]
                assert needed in check_problem(response, 403)["detail"]
            else:
                assert response.status_code in (200, 202, 409), (role, path, response.text)
    assert nobody.get(f"{V1}/projects").headers["www-authenticate"].startswith("Bearer")


def test_a_token_of_one_project_sees_nothing_of_another(api: Api) -> None:
    """Each route with an existing object of the other project answers as if the project did not exist."""
    limited = api.client("operator", of=api.mine)
    for method, path, body, _ in addresses(api.theirs, "theirs"):
        refused = check_problem(limited.request(method, path, json=body), 404)
        nowhere = limited.request(method, path.replace("/theirs", "/nobodys"), json=body).json()
        assert {k: str(v).replace("theirs", "nobodys") for k, v in refused.items()} == {
            k: str(v) for k, v in nowhere.items()
        }, path
    assert [p["key"] for p in limited.get(f"{V1}/projects").json()["items"]] == ["mine"]
    assert [p["project"] for p in limited.get(f"{V1}/status").json()["projects"]] == ["mine"]
    assert [p["key"] for p in api.client("viewer").get(f"{V1}/projects").json()["items"]] == ["mine", "theirs"]


def test_an_object_of_another_project_is_not_found_under_ones_own(api: Api) -> None:
    """The number in the address is another project's; the project in the address is one's own."""
    add_run(api.theirs)
    tile = api.theirs.tiles()[0]
    client = api.client("operator", of=api.mine)
    for path in (f"/images/{tile.image_id}", f"/tiles/{tile.id}", "/runs/1", "/models/theirs-m0"):
        check_problem(client.get(f"{MINE}{path}"), 404)
    for act, body in (("renew", {}), ("release", {}), ("skip", {"reason": "x"})):
        check_problem(client.post(f"{MINE}/queue/{tile.id}/{act}", json={"attempt": 1, **body}), 404)
    check_problem(client.post(f"{MINE}/runs/1/cancel"), 404)
    check_problem(client.post(f"{MINE}/models/rollback", json={"to": "theirs-m0"}), 404)
    assert client.get(f"{MINE}/tiles", params={"image_id": tile.image_id}).json()["items"] == []
    foreign = api.client("viewer").get(f"{THEIRS}/images", params={"limit": 1}).json()["next_cursor"]
    seen = client.get(f"{MINE}/images", params={"cursor": foreign}).json()["items"]
    assert not {i["id"] for i in seen} & {t.image_id for t in api.theirs.tiles()}


def test_a_revoked_or_expired_token_is_refused_at_once(api: Api) -> None:
    made = api.token("viewer")
    client = api.client()
    client.headers["Authorization"] = f"Bearer {made.token}"
    assert client.get(f"{V1}/token").json()["role"] == "viewer"
    with api.mine.database.transaction() as session:
        tokens.revoke(session, made.row.key_id, now=datetime.now(UTC), actor="operator")
    check_problem(client.get(f"{V1}/token"), 401)
    with api.mine.database.transaction() as session:
        other = tokens.create(
            session,
            name="x",
            role="viewer",
            project_id=None,
            expires_at=datetime.now(UTC) + timedelta(hours=1),
            now=datetime.now(UTC),
            actor="test",
        )
        session.execute(
            update(type(other.row))
            .where(type(other.row).id == other.row.id)
            .values(expires_at=datetime(2026, 1, 1, tzinfo=UTC))
        )
    client.headers["Authorization"] = f"Bearer {other.token}"
    check_problem(client.get(f"{V1}/token"), 401)


def test_what_is_no_token_is_refused(api: Api) -> None:
    client = api.client()
    for header in ("Bearer", "Bearer x", "Basic eDp4", "Token abc", "bearer mpa_000000000000_" + "x" * 43):
        check_problem(client.get(f"{V1}/projects", headers={"Authorization": header}), 401)
    made = api.token("operator").token
    check_problem(client.get(f"{V1}/projects", headers={"Cookie": f"token={made}"}), 401)
    unknown = client.get(f"{V1}/projects", params={"token": made, "access_token": made})
    check_problem(unknown, 401)  # never from an address, which ends up in logs


def test_a_list_is_read_page_by_page_to_its_end(api: Api) -> None:
    client = api.client("viewer")
    for path in ("images", "tiles", "queue"):
        seen, cursor, pages = [], None, 0
        while pages == 0 or cursor:
            params = {"limit": 3, **({"cursor": cursor} if cursor else {})}
            page = client.get(f"{MINE}/{path}", params=params).json()
            seen += page["items"]
            cursor, pages = page["next_cursor"], pages + 1
        assert (len(seen), pages) == (7, 3), path
        key = "rank" if path == "queue" else "id"
        assert [item[key] for item in seen] == sorted({item[key] for item in seen})


def test_a_cursor_of_another_list_or_order_is_refused(api: Api) -> None:
    client = api.client("viewer")
    images = client.get(f"{MINE}/images", params={"limit": 1}).json()["next_cursor"]
    for cursor in (images, "x", "", "=", "aW1hZ2VzLi0x", "é", "0" * 90):
        check_problem(client.get(f"{MINE}/tiles", params={"cursor": cursor}), 422)
    queue = client.get(f"{MINE}/queue", params={"limit": 1}).json()["next_cursor"]
    with api.mine.database.transaction() as session:
        session.execute(update(QueueEntry).where(QueueEntry.project_id == api.mine.project_id).values(generation=9))
        session.execute(
            update(type(api.mine.project()))
            .where(type(api.mine.project()).id == api.mine.project_id)
            .values(queue_generation=9)
        )
    check_problem(client.get(f"{MINE}/queue", params={"cursor": queue}), 409)


def test_filters_are_the_listed_ones_and_nothing_of_a_request_names_a_column(api: Api) -> None:
    client = api.client("viewer")
    assert len(client.get(f"{MINE}/images", params={"split": "audit"}).json()["items"]) == 2
    assert len(client.get(f"{MINE}/queue", params={"stratum": "audit", "state": "open"}).json()["items"]) >= 1
    assert client.get(f"{MINE}/images", params={"group": "case-0' OR '1'='1"}).json()["items"] == []
    for unknown in (
        {"project_id": "1"},
        {"ls_token": "x"},
        {"project__ls_token__startswith": "g"},
        {"champion__blob": "x"},
        {"order_by": "png_blob"},
        {"sha256": "0"},
        {"split": "audit' --"},
        {"state": "everything"},
        {"limit": "0"},
        {"limit": "501"},
        {"group": "a\x00b"},
    ):
        for path in ("images", "tiles", "queue", "runs", "models"):
            if path == "images" and "state" in unknown:
                continue
            check_problem(client.get(f"{MINE}/{path}", params=unknown), 422)


def test_a_tile_is_taken_renewed_and_given_back(api: Api) -> None:
    client = api.client("annotator")
    (lease,) = client.post(f"{MINE}/queue/next", json={}).json()["items"]
    held = f"{MINE}/queue/{lease['tile_id']}"
    assert client.get(lease["picture"]).status_code == 200
    renewed = client.post(f"{held}/renew", json={"attempt": lease["attempt"]}).json()
    assert renewed["held_until"] >= lease["held_until"]
    entry = client.get(f"{MINE}/queue", params={"limit": 1}).json()["items"][0]
    assert (entry["tile_id"], entry["state"], entry["in_label_studio"]) == (lease["tile_id"], "leased", False)
    assert client.post(f"{held}/release", json={"attempt": lease["attempt"]}).json()["state"] == "open"
    check_problem(client.post(f"{held}/release", json={"attempt": lease["attempt"]}), 409)


def test_the_second_of_two_annotators_gets_a_conflict_and_keeps_his_work(api: Api, log: FaultLog) -> None:
    """Row 19 of the faults over HTTP: expiry during the edit, then a late word of the first holder."""
    first, second = api.client("annotator"), api.client("annotator")
    (mine,) = first.post(f"{MINE}/queue/next", json={}).json()["items"]
    (other,) = second.post(f"{MINE}/queue/next", json={}).json()["items"]
    assert other["tile_id"] != mine["tile_id"]
    with api.mine.database.transaction() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        session.execute(update(QueueEntry).where(QueueEntry.tile_id == mine["tile_id"]).values(lease_until=past))
    (theirs,) = second.post(f"{MINE}/queue/next", json={}).json()["items"]
    assert theirs["tile_id"] == mine["tile_id"]
    for act, more in (("renew", {}), ("release", {}), ("skip", {"reason": "x"})):
        refused = first.post(f"{MINE}/queue/{mine['tile_id']}/{act}", json={"attempt": mine["attempt"], **more})
        assert "keep the work" in check_problem(refused, 409)["remedy"]
    guessed = first.post(f"{MINE}/queue/{mine['tile_id']}/release", json={"attempt": theirs["attempt"]})
    check_problem(guessed, 409)  # the number alone is not enough: it is the other one's lease
    seen = "409 to whatever the first says afterwards, with the remedy to keep the work; the second holds the tile"
    log.recovered(row=19, fault="a lease runs out during the edit, over REST", seen=seen)


def test_a_skip_needs_a_reason_of_one_line(api: Api) -> None:
    client = api.client("annotator")
    (lease,) = client.post(f"{MINE}/queue/next", json={}).json()["items"]
    address = f"{MINE}/queue/{lease['tile_id']}/skip"
    for reason in (None, "", "  ", "a\nb", "a\x00b", "x" * 501):
        check_problem(client.post(address, json={"attempt": lease["attempt"], "reason": reason}), 422)
    lone = f'{{"attempt": {lease["attempt"]}, "reason": "\\ud800"}}'
    check_problem(client.post(address, content=lone, headers={"Content-Type": "application/json"}), 422)
    done = client.post(address, json={"attempt": lease["attempt"], "reason": "no tissue <b>here</b>"})
    assert done.json()["state"] == "skipped"
    again = client.post(f"{MINE}/queue/next", json={"count": 50}).json()["items"]
    assert lease["tile_id"] not in [item["tile_id"] for item in again]


def test_a_write_that_is_sent_twice_with_its_key_happens_once(api: Api) -> None:
    client = api.client("annotator")
    headers = {"Idempotency-Key": "one"}
    first = client.post(f"{MINE}/queue/next", json={}, headers=headers)
    again = client.post(f"{MINE}/queue/next", json={}, headers=headers)
    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    check_problem(client.post(f"{MINE}/queue/next", json={"count": 2}, headers=headers), 422)
    check_problem(client.post(f"{THEIRS}/queue/next", json={}, headers=headers), 422)
    other = client.post(f"{MINE}/queue/next", json={}, headers={"Idempotency-Key": "two"})
    assert other.json() != first.json()
    assert api.client("annotator").post(f"{MINE}/queue/next", json={}, headers=headers).json() != first.json()


def test_of_two_equal_writes_at_once_one_happens_and_both_are_answered_alike(api: Api) -> None:
    client = api.client("annotator")

    def send(_: int) -> Any:
        return client.post(f"{MINE}/queue/next", json={}, headers={"Idempotency-Key": "both"}).json()

    with ThreadPoolExecutor(4) as senders:
        answers = list(senders.map(send, range(4)))
    assert all(answer == answers[0] for answer in answers)
    with api.mine.database.transaction() as session:
        held = session.scalar(select(func.count()).select_from(QueueEntry).where(QueueEntry.state == "leased"))
    assert held == 1


def test_a_write_that_failed_may_be_sent_again_with_its_key(api: Api) -> None:
    client = api.client("operator")
    headers = {"Idempotency-Key": "back"}
    check_problem(client.post(f"{MINE}/models/rollback", json={}, headers=headers), 409)
    with api.mine.database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Reply)) == 0
    earlier = add_model(api.mine, "mine-m9", state="retired")
    with api.mine.database.transaction() as session:
        first = session.scalars(select(Model.id).where(Model.version == "mine-m0")).one()
        session.get_one(Model, earlier.id).previous_id = first
    done = client.post(f"{MINE}/models/rollback", json={"to": "mine-m9"}, headers={"Idempotency-Key": "forth"})
    assert (done.status_code, done.json()["state"]) == (200, "champion")
    again = client.post(f"{MINE}/models/rollback", json={}, headers=headers)
    assert (again.status_code, again.json()["version"]) == (200, "mine-m0")
    with api.mine.database.transaction() as session:
        champion = session.scalars(
            select(Model.version).where(Model.project_id == api.mine.project_id, Model.state == "champion")
        ).one()
    assert champion == "mine-m0"


def test_runs_are_asked_for_and_stopped_by_name(api: Api) -> None:
    made = api.token("operator")
    client = api.client()
    client.headers["Authorization"] = f"Bearer {made.token}"
    response = client.post(f"{MINE}/runs")
    assert (response.status_code, response.json()) == (202, {"requested": True, "open_run": None})
    assert api.mine.project().requested_run == "manual"
    add_run(api.mine)
    assert client.post(f"{MINE}/runs/1/cancel").json()["state"] == "cancelled"
    check_problem(client.post(f"{MINE}/runs/1/cancel"), 409)
    with api.mine.database.transaction() as session:
        actors = session.scalars(select(Event.actor).where(Event.what.like("run %"))).all()
    assert set(actors) == {f"token:{made.row.key_id}"}


def make_adaptable(made: Installation) -> None:
    """A champion with weights and enough audit masks to judge by."""
    items = []
    for number in range(15):
        path = made.folder / f"more-{made.project_id}-{number}.png"
        path.write_bytes(encode_png(picture(500 + number)))
        items.append(RegisterItem(path, group=f"more-{number}", split="train" if number < 3 else "audit"))
    register(made.database, made.blobs, made.project_id, items)
    with made.database.transaction() as session:
        projects.champion(session, made.project()).blob = made.blobs.put(b"weights")
        for tile in made.tiles("audit"):
            blob = made.blobs.put(encode_raster(disc()))
            masks.append(session, tile_id=tile.id, origin="annotated", blob=blob, reviewed_share=1.0)


def test_an_adaptation_is_asked_for_once_and_refused_where_it_could_not_be_judged(api: Api) -> None:
    client = api.client("operator")
    refused = check_problem(client.post(f"{MINE}/runs", json={"adapt": True}), 409)
    assert "has no weights" in refused["detail"]
    assert refused["remedy"]
    make_adaptable(api.mine)
    key = {"Idempotency-Key": "one"}
    first = client.post(f"{MINE}/runs", json={"adapt": True}, headers=key)
    assert (first.status_code, first.json()) == (202, {"requested": True, "open_run": None})
    assert client.post(f"{MINE}/runs", json={"adapt": True}, headers=key).headers["Idempotent-Replayed"] == "true"
    check_problem(client.post(f"{MINE}/runs", json={"adapt": False}, headers=key), 422)
    assert (api.mine.project().requested_adaptation, api.mine.project().requested_run) == (True, None)
    (waiting,) = [p for p in client.get("/api/v1/status").json()["projects"] if MINE.endswith(p["project"])]
    assert (waiting["adaptation_requested"], waiting["run_requested"]) == (True, False)
    assert client.post(f"{MINE}/runs", json={}).status_code == 202
    assert api.mine.project().requested_run == "manual"
    run, _ = open_run(api.mine.database, api.mine.blobs, api.mine.project_id, now=datetime.now(UTC))
    assert run is not None
    (told,) = client.get(f"{MINE}/runs", params={"trigger": "adapt"}).json()["items"]
    assert (told["number"], told["trigger"]) == (run.number, "adapt")
    assert "no label is learnt" in told["reasons"][0]
    check_problem(client.post(f"{MINE}/runs", json={"adapt": "yes"}), 422)


def test_a_body_that_cannot_be_meant_is_one_problem(api: Api) -> None:
    client = api.client("annotator")
    bodies = [b"", b"{", b"null", b"[]", b'"x"', b"\xff", b"[" * 100_000, b'{"\\ud800": 1}', b'{"\\u0000": 1}']
    bodies += [
        b'{"count": %s}' % n for n in (b"1e400", b"9" * 20, b'"1"', b'"\\ud800"', b"NaN", b"true", b"1.5", b"{}")
    ]
    for content in bodies:
        response = client.post(f"{MINE}/queue/next", content=content, headers={"Content-Type": "application/json"})
        check_problem(response, 400 if content.startswith((b"[[", b"\xff")) else 422)


def test_nothing_secret_and_no_folder_is_in_an_answer(api: Api) -> None:
    with api.mine.database.transaction() as session:
        project = session.get_one(type(api.mine.project()), api.mine.project_id)
        project.ls_url, project.ls_token = "http://127.0.0.1:9", api.mine.keys.seal("the-token")
    client = api.client("operator")
    said = "".join(client.get(path).text for method, path, _, _ in addresses(api.mine, "mine") if method == "GET")
    said += client.get(f"{V1}/status").text + client.get(f"{V1}/token").text
    for never in (str(api.mine.folder), "the-token", "ls_token", "ls_auth_password", "digest"):
        assert never not in said


def test_what_is_wrong_with_an_image_is_said_without_its_folder(api: Api, tmp_path: Path) -> None:
    ward = tmp_path / "Jane Doe"
    ward.mkdir()
    (ward / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    register(api.mine.database, api.mine.blobs, api.mine.project_id, [RegisterItem(ward / "torn.png", "torn")])
    with api.mine.database.transaction() as session:
        healthy = session.get_one(Image, api.mine.tiles()[0].image_id)
        healthy.state, healthy.problem = "quarantined", f"{healthy.uri}: as an earlier version wrote it"
    client = api.client("viewer")
    found = client.get(f"{MINE}/images", params={"state": "quarantined"})
    torn = next(i for i in found.json()["items"] if i["name"] == "torn.png")
    assert torn["problem"].startswith("torn.png: ")
    assert str(tmp_path) not in found.text
    assert str(tmp_path) not in client.get(f"{MINE}/images/{healthy.id}").text


def test_who_only_looks_at_a_picture_keeps_no_task_at_its_place(api: Api) -> None:
    tile = api.mine.tiles()[0]
    with api.mine.database.transaction() as session:
        session.add(Task(project_id=api.mine.project_id, tile_id=tile.id, ls_task_id=1, origin="head"))
    client = api.client("viewer")

    def opened() -> datetime | None:
        with api.mine.database.transaction() as session:
            return session.scalars(select(Task)).one().opened_at

    seen = client.get(f"{MINE}/tiles/{tile.id}").json()["picture"]
    held = api.client("annotator").post(f"{MINE}/queue/next", json={"count": 50}).json()["items"]
    looked = [seen, *(one["picture"] for one in held if one["tile_id"] == tile.id)]
    for address in looked:
        assert client.get(address).status_code == 200
    assert opened() is None
    for odd in (seen.replace("&purpose=look", ""), seen.replace("=look", "=task")):
        assert client.get(odd).status_code == 403, "a link for looking is none for a task"
    theirs = link(api.mine.keys, BASE, tile.id, datetime.now(UTC) + timedelta(hours=1))
    assert client.get(theirs, headers={"Sec-Fetch-Dest": "image"}).status_code == 200
    assert opened() is None, "Label Studio's list shows every task in small"
    assert client.get(theirs).status_code == 200
    assert opened() is not None, "its editor's request still tells"


def test_a_tile_of_an_audit_block_is_shown_in_the_split_that_counts(api: Api) -> None:
    with api.mine.database.transaction() as session:
        in_train = select(Tile).join(Image).where(Image.split == "train", Tile.project_id == api.mine.project_id)
        tile = session.scalars(in_train.limit(1)).one()
        tile.split = "audit"
    client = api.client("viewer")
    assert client.get(f"{MINE}/tiles/{tile.id}").json()["split"] == "audit"
    blind = client.get(f"{MINE}/tiles", params={"split": "audit"}).json()["items"]
    assert tile.id in [one["id"] for one in blind]
    assert {one["split"] for one in blind} == {"audit"}
    entries = client.get(f"{MINE}/queue").json()["items"]
    assert {e["split"] for e in entries if e["tile_id"] == tile.id} == {"audit"}
    assert {e["split"] for e in entries if e["tile_id"] != tile.id} >= {"train"}


def test_a_lease_tells_the_box_in_the_image_and_the_size_of_its_picture(api: Api) -> None:
    with api.mine.database.transaction() as session:
        session.execute(update(Tile).values(width_px=192, height_px=128, scale=2.0))
    client = api.client("annotator")
    (lease,) = client.post(f"{MINE}/queue/next", json={}).json()["items"]
    tile = client.get(f"{MINE}/tiles/{lease['tile_id']}").json()
    for name in ("image_id", "x_px", "y_px", "width_px", "height_px", "scale"):
        assert lease[name] == tile[name]
    assert (lease["picture_width_px"], lease["picture_height_px"]) == (96, 64)


def test_every_answer_is_what_the_schema_says(api: Api) -> None:
    """Routes, statuses and bodies, good and bad, against the document that the API itself gives out."""
    document = api.client().get("/openapi.json").json()
    clients = {role: api.client(role) for role in (*tokens.ROLES, None)}
    routes = addresses(api.mine, "mine")
    requests = [(m, p, b) for m, p, b, _ in routes] + [(m, p.replace("mine", "nobodys"), b) for m, p, b, _ in routes]
    requests += [(m, p, {"odd": 1}) for m, p, b, _ in routes if b is not None]
    requests += [("GET", f"{V1}/{name}", None) for name in ("projects", "status", "token", "projects?limit=0")]
    seen = set()
    for method, path, body in requests:
        template, operation = _operation(document, method, path.partition("?")[0])
        for client in clients.values():
            response = client.request(method, path, json=body)
            declared = operation["responses"].get(str(response.status_code))
            assert declared is not None, (method, path, response.status_code)
            kind = response.headers["content-type"].partition(";")[0]
            schema = {**declared["content"][kind].get("schema", {}), "components": document["components"]}
            if kind.endswith("json"):
                Draft202012Validator(schema).validate(response.json())
            seen.add((method, template, response.status_code))
    ours = {(m.upper(), p) for p, item in document["paths"].items() for m in item if p.startswith(V1)}
    assert {(m, p) for m, p, s in seen if s in (200, 202, 409)} == ours
    assert {s for _, _, s in seen} >= {200, 202, 401, 403, 404, 409, 422}


def _operation(document: dict[str, Any], method: str, path: str) -> tuple[str, dict[str, Any]]:
    parts = path.split("/")
    fitting = [
        template
        for template, item in document["paths"].items()
        if method.lower() in item
        and len(template.split("/")) == len(parts)
        and all(t.startswith("{") or t == p for t, p in zip(template.split("/"), parts, strict=True))
    ]
    best = min(fitting, key=lambda template: template.count("{"))
    return best, document["paths"][best][method.lower()]
