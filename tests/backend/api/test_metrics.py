"""`/metrics` and the health addresses: what is measured, who may read it, and what is said when a part is away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from starlette.testclient import TestClient

from backend.api import metrics
from backend.clock import utc_now
from backend.settings import Settings
from backend.signs import Signs
from backend.site import create_site
from backend.store.tables import Prediction, Region
from migrations.run import upgrade
from tests.builders import Installation
from tests.dashboard_project import KEY, filled

pytestmark = pytest.mark.database
LOCAL = ("127.0.0.1", 40_000)
AWAY = ("192.0.2.7", 40_000)


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return filled(database_url, tmp_path)


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    return Settings(state=tmp_path, database_url=database_url, broker_url=redis_url)


@contextmanager
def served(
    settings: Settings, peer: tuple[str, int] = LOCAL, base_url: str = "http://127.0.0.1"
) -> Iterator[TestClient]:
    with TestClient(create_site(settings), base_url=base_url, client=peer, raise_server_exceptions=False) as client:
        yield client


def figures(client: TestClient, **headers: str) -> dict[str, float]:
    """Every sample by its name and labels, as Prometheus reads it."""
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    return {
        sample.name + "".join(f"|{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_a_project_is_measured_at_every_station(made: Installation, settings: Settings) -> None:
    Signs(settings.broker_url).synced(made.project_id, now=utc_now())
    Signs(settings.broker_url).label_studio_failed(made.project_id)
    with served(settings) as client:
        found = figures(client)
    project = f"|project={KEY}"
    assert found[f"mpamatch_inbox_received_total{project}"] == 1
    assert found[f"mpamatch_inbox_applied_total{project}"] == 0
    assert found[f"mpamatch_inbox_backlog{project}"] == 1
    assert found[f"mpamatch_inbox_oldest_seconds{project}"] > 500
    assert found[f"mpamatch_predictions_made_total{project}"] == 36
    assert found[f"mpamatch_predictions_due{project}"] == 0
    assert found[f"mpamatch_head_tasks{project}"] == 1
    assert found[f"mpamatch_queue_entries{project}|state=open"] == 35
    assert found[f"mpamatch_images{project}|state=quarantined"] == 1
    assert found[f"mpamatch_annotations{project}|state=quarantined"] == 1
    assert found[f"mpamatch_runs{project}|state=training"] == 1
    assert found[f"mpamatch_runs{project}|state=failed"] == 0
    assert found[f"mpamatch_audit_dice{project}"] == 0.87
    assert found[f"mpamatch_champion_age_seconds{project}"] > 0
    assert found[f"mpamatch_label_studio_synced_seconds{project}"] < 60
    assert found[f"mpamatch_label_studio_errors_total{project}"] == 1
    assert found["mpamatch_workers|queue=train"] == 0
    assert found["mpamatch_broker_messages|queue=io"] == 0
    assert found["mpamatch_disk_free_bytes|folder=blobs"] > 0
    assert (found["mpamatch_database_up"], found["mpamatch_broker_up"]) == (1, 1)


def test_a_tile_that_the_champion_has_not_seen_is_due(made: Installation, settings: Settings) -> None:
    with made.database.transaction() as session:
        prediction = session.query(Prediction).order_by(Prediction.id).first()
        assert prediction is not None
        session.query(Region).filter_by(prediction_id=prediction.id).delete()
        session.delete(prediction)
    with served(settings) as client:
        found = figures(client)
    assert found[f"mpamatch_predictions_due|project={KEY}"] == 1
    assert found[f"mpamatch_tiles_predicted|project={KEY}"] == 35


def test_requests_are_counted_by_their_route_and_never_by_their_address(settings: Settings) -> None:
    with served(settings) as client:
        for number in range(3):
            client.get(f"/tiles/{number}.png?expires=1&key=k&signature=secret-{number}")
            client.get(f"/made-up-{number}")
        answer = client.get("/metrics").text
        found = figures(client)
    assert found["mpamatch_http_requests_total|method=GET|route=/tiles/{tile_id}.png|status=403"] == 3
    assert found["mpamatch_http_requests_total|method=GET|route=unmatched|status=404"] == 3
    assert found["mpamatch_http_request_seconds_count|route=/tiles/{tile_id}.png"] == 3
    assert "secret" not in answer
    assert "made-up" not in answer


def test_an_odd_method_makes_no_label_of_its_own(settings: Settings) -> None:
    with served(settings) as client:
        client.request("BREW", "/health")
        assert any("method=OTHER" in name for name in figures(client))


def test_two_applications_in_one_process_count_apart(settings: Settings) -> None:
    with served(settings) as one, served(settings) as other:
        one.get("/health")
        assert "mpamatch_http_requests_total|method=GET|route=/health|status=200" in figures(one)
        assert "mpamatch_http_requests_total|method=GET|route=/health|status=200" not in figures(other)


def test_the_database_is_asked_once_for_several_scrapes(
    made: Installation, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = metrics.measure

    def counting(session: object) -> object:
        asked.append(1)
        return real(session)  # type: ignore[arg-type]

    monkeypatch.setattr(metrics, "measure", counting)
    with served(settings) as client:
        for _ in range(5):
            figures(client)
        assert len(asked) == 1
        monkeypatch.setattr(metrics, "KEPT_S", 0.0)
        figures(client)
    assert len(asked) == 2


def test_without_database_and_broker_it_still_says_so(settings: Settings, tmp_path: Path) -> None:
    away = {
        "database_url": f"postgresql+psycopg://nobody@/nothing?host={tmp_path}",
        "broker_url": "redis://127.0.0.1:9/0",
    }
    with served(settings.model_copy(update=away)) as client:
        found = figures(client)
    assert (found["mpamatch_database_up"], found["mpamatch_broker_up"]) == (0, 0)


# -- who may read it ---------------------------------------------------------------------------------------------------


def test_from_another_machine_nothing_is_read_without_a_token_set(settings: Settings) -> None:
    with served(settings, peer=AWAY) as client:
        assert client.get("/metrics").status_code == 403
        assert client.get("/health/live").status_code == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_a_proxy_on_this_machine_opens_it_to_nobody(settings: Settings, header: str) -> None:
    with served(settings) as client:
        assert client.get("/metrics", headers={header: "192.0.2.7"}).status_code == 403


def test_a_page_under_another_name_reads_nothing(settings: Settings) -> None:
    with served(settings, base_url="http://evil.example") as client:
        assert client.get("/metrics").status_code == 421
    known = settings.model_copy(update={"public_url": "http://tissue.example"})
    with served(known, base_url="http://tissue.example") as client:
        assert client.get("/metrics").status_code == 403, "a name of ours, but not this machine's"


def test_with_a_token_set_everybody_needs_it_from_anywhere(settings: Settings) -> None:
    guarded = settings.model_copy(update={"metrics_token": SecretStr("a-long-token-of-letters")})
    for peer in (LOCAL, AWAY):
        with served(guarded, peer=peer) as client:
            assert client.get("/metrics").status_code == 401
            assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
            assert client.get("/metrics", headers={"Authorization": "Basic a-long-token-of-letters"}).status_code == 401
            assert figures(client, Authorization="Bearer a-long-token-of-letters")


# -- request ids -------------------------------------------------------------------------------------------------------


def test_every_answer_carries_an_id_and_a_callers_own_is_kept(settings: Settings) -> None:
    with served(settings) as client:
        assert len(client.get("/health").headers["X-Request-ID"]) == 32
        assert client.get("/health", headers={"X-Request-ID": "mine.1"}).headers["X-Request-ID"] == "mine.1"
        odd = client.get("/health", headers={"X-Request-ID": "a b\tc" * 40}).headers["X-Request-ID"]
        assert len(odd) == 32
        assert "X-Request-ID" in client.get("/login").headers


# -- ready or not ------------------------------------------------------------------------------------------------------


def not_ready(settings: Settings) -> str:
    with served(settings) as client:
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert client.get("/health/live").status_code == 200
    document = answer.json()
    assert document["detail"]
    assert document["remedy"]
    assert "\n" not in document["detail"]
    return str(document["item"])


def test_it_is_ready_when_database_tables_and_blobs_are_there(made: Installation, settings: Settings) -> None:
    with served(settings) as client:
        assert client.get("/health/ready").json() == {"status": "READY"}


def test_without_its_database_it_is_not_ready_and_names_it(settings: Settings, tmp_path: Path) -> None:
    url = f"postgresql+psycopg://nobody@/nothing?host={tmp_path}"
    assert not_ready(settings.model_copy(update={"database_url": url})) == "database"


def test_without_its_tables_it_is_not_ready_and_names_them(settings: Settings, empty_database_url: str) -> None:
    assert not_ready(settings.model_copy(update={"database_url": empty_database_url})) == "tables"


def test_with_tables_behind_it_is_not_ready_and_names_them(settings: Settings, empty_database_url: str) -> None:
    upgrade(empty_database_url, "0001")
    assert not_ready(settings.model_copy(update={"database_url": empty_database_url})) == "tables"


def test_with_tables_of_a_newer_version_it_is_not_ready_and_names_them(made: Installation, settings: Settings) -> None:
    from sqlalchemy import text

    with made.database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'from-the-future'"))
    assert not_ready(settings) == "tables"


def test_with_its_blobs_gone_it_is_not_ready_and_names_them(made: Installation, settings: Settings) -> None:
    made.blobs.folder.rename(made.blobs.folder.with_name("elsewhere"))
    assert not_ready(settings).startswith("blob folder")


def test_with_a_file_where_blobs_should_be_it_is_not_ready(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("no folder")
    assert not_ready(settings).startswith("blob folder")


def test_a_new_installation_without_any_blob_is_ready(settings: Settings) -> None:
    with served(settings) as client:
        assert client.get("/health/ready").status_code == 200
