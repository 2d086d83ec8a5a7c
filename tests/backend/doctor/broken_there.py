"""What is broken in Label Studio or on the way to it on purpose, and mended again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx
from sqlalchemy import null, update

from backend.clock import utc_now
from backend.doctor.label_studio import GUARD
from backend.settings import Settings
from backend.store.secrets import KeyRing
from backend.store.tables import Annotation, Project
from tests import label_studio_person as person
from tests.backend.doctor.complaints import KEY, Break
from tests.backend.doctor.conftest import Well


@contextmanager
def no_label_studio(well: Well) -> Iterator[Settings]:
    with well.made.database.transaction() as session:
        session.execute(update(Project).values(ls_url="http://127.0.0.1:9"))
    yield well.changed(label_studio_url="http://127.0.0.1:9")
    with well.made.database.transaction() as session:
        session.execute(update(Project).values(ls_url=well.studio.url))


@contextmanager
def wrong_token(well: Well) -> Iterator[Settings]:
    yield well.changed(label_studio_token=type(well.settings.label_studio_token)("f" * 40))  # type: ignore[call-arg]


@contextmanager
def wrong_token_of_a_project(well: Well) -> Iterator[Settings]:
    keys = KeyRing.at(well.settings.state / "key")
    right = well.made.project().ls_token
    with well.made.database.transaction() as session:
        session.execute(update(Project).values(ls_token=keys.seal("e" * 40)))
    yield well.settings
    with well.made.database.transaction() as session:
        session.execute(update(Project).values(ls_token=right))


@contextmanager
def legacy_tokens_disabled(well: Well) -> Iterator[Settings]:
    """As a Label Studio of others comes: its organization takes personal access tokens only."""
    with httpx.Client(base_url=well.studio.url, trust_env=False) as web:
        web.get("/user/login/")
        form = {"email": well.studio.email, "password": well.studio.password}
        form["csrfmiddlewaretoken"] = web.cookies["csrftoken"]
        assert web.post("/user/login/", data=form).status_code == 302
        headers = {"X-CSRFToken": web.cookies["csrftoken"]}
        off, on = ({"legacy_api_tokens_enabled": wanted} for wanted in (False, True))
        web.post("/api/jwt/settings", json=off, headers=headers).raise_for_status()
        yield well.settings
        web.post("/api/jwt/settings", json=on, headers=headers).raise_for_status()


@contextmanager
def no_backend(well: Well) -> Iterator[Settings]:
    """The webhook stays; what Label Studio would ask for suggestions is gone."""
    with well.client as client:
        for backend in client.ml_backends(well.ls_project_id):
            client.delete_ml_backend(backend["id"])
    yield well.settings
    _connect_again(well)


@contextmanager
def moved_api(well: Well) -> Iterator[Settings]:
    """Label Studio knows our backend and webhook at an address that was once ours; ours answers elsewhere."""
    yield well.changed(public_url=str(well.settings.public_url).replace("127.0.0.1", "localhost"))


@contextmanager
def refused_backend(well: Well) -> Iterator[Settings]:
    """Label Studio reaches us, but with a password that is not the project's."""
    keys = KeyRing.at(well.settings.state / "key")
    right = well.made.project().ls_auth_password
    with well.made.database.transaction() as session:
        session.execute(update(Project).values(ls_auth_password=keys.seal("another one")))
    yield well.settings
    with well.made.database.transaction() as session:
        session.execute(update(Project).values(ls_auth_password=right))


@contextmanager
def no_webhook(well: Well) -> Iterator[Settings]:
    with well.client as client:
        for hook in client.webhooks(well.ls_project_id):
            client.delete_webhook(hook["id"])
    yield well.settings
    _connect_again(well)


@contextmanager
def webhook_without_secret(well: Well) -> Iterator[Settings]:
    """As Label Studio makes it by itself with a backend."""
    with well.client as client:
        (hook,) = client.webhooks(well.ls_project_id)
        person.update_webhook(client, hook["id"], hook["url"], {}, hook["actions"])
    yield well.settings
    _connect_again(well)


@contextmanager
def deaf_webhook(well: Well) -> Iterator[Settings]:
    with well.client as client:
        (hook,) = client.webhooks(well.ls_project_id)
        person.update_webhook(client, hook["id"], hook["url"], hook["headers"], ["TASKS_CREATED"])
        yield well.settings
        person.update_webhook(client, hook["id"], hook["url"], hook["headers"], hook["actions"])


@contextmanager
def silent_webhook(well: Well) -> Iterator[Settings]:
    """Registered with its secret, but labels come by the poll alone: the guard drops what is sent."""
    row = Annotation(
        project_id=well.made.project_id,
        tile_id=well.made.tiles()[0].id,
        ls_annotation_id=1,
        ls_task_id=1,
        result_blob="0" * 64,
        updated_at=utc_now(),
        state="present",
    )
    with well.made.database.transaction() as session:
        session.add(row)
    yield well.settings
    with well.made.database.transaction() as session:
        session.delete(session.get_one(Annotation, row.id))


@contextmanager
def other_order(well: Well) -> Iterator[Settings]:
    with well.client as client:
        client.update_project(well.ls_project_id, sampling="Sequential sampling")
        yield well.settings
        client.update_project(well.ls_project_id, sampling="Uncertainty sampling")


@contextmanager
def adopted_with_two_annotators(well: Well) -> Iterator[Settings]:
    with well.client as client, well.made.database.transaction() as session:
        client.update_project(well.ls_project_id, maximum_annotations=2)
        session.execute(update(Project).values(ls_controls={}))
    yield well.settings
    with well.client as client, well.made.database.transaction() as session:
        client.update_project(well.ls_project_id, maximum_annotations=1)
        session.execute(update(Project).values(ls_controls=null()))


@contextmanager
def _changed_config(well: Well, old: str, new: str) -> Iterator[Settings]:
    with well.client as client:
        xml = client.project(well.ls_project_id)["label_config"]
        client.update_project(well.ls_project_id, label_config=xml.replace(old, new))
        yield well.settings
        client.update_project(well.ls_project_id, label_config=xml)


def renamed_label(well: Well) -> AbstractContextManager[Settings]:
    return _changed_config(well, 'value="gland"', 'value="Drüse"')


def config_without_reason(well: Well) -> AbstractContextManager[Settings]:
    return _changed_config(well, '<Header value="$why"/>', "")


@contextmanager
def random_stream(well: Well) -> Iterator[Settings]:
    """What connecting a backend by hand does to a project: its title as the version."""
    with well.client as client:
        version = client.project(well.ls_project_id)["model_version"]
        client.update_project(well.ls_project_id, model_version="mpamatch backend")
        yield well.settings
        client.set_model_version(well.ls_project_id, version)


@contextmanager
def deleted_counterpart(well: Well) -> Iterator[Settings]:
    right = well.ls_project_id
    with well.made.database.transaction() as session:
        session.execute(update(Project).values(ls_project_id=987_654))
    yield well.settings
    with well.made.database.transaction() as session:
        session.execute(update(Project).values(ls_project_id=right))


@contextmanager
def untied(well: Well) -> Iterator[Settings]:
    with well.made.database.transaction() as session:
        session.execute(update(Project).values(ls_url=None))
    yield well.settings
    with well.made.database.transaction() as session:
        session.execute(update(Project).values(ls_url=well.studio.url))


def _connect_again(well: Well) -> None:
    """By the remedy that the doctor gives."""
    from backend.actions.first_project import connect_all

    assert connect_all(well.settings, well.made.database)
    well.sync()


BROKEN_THERE: list[tuple[Break, set[str], str]] = [
    (no_label_studio, {"label studio"}, "MPAMATCH_LABEL_STUDIO_URL"),
    (wrong_token, {"label studio token"}, "mpamatch connect"),
    (legacy_tokens_disabled, {"label studio token"}, "use a personal access token"),
    (wrong_token_of_a_project, {f"{KEY}: token"}, "mpamatch connect"),
    (no_backend, {f"{KEY}: backend"}, GUARD),
    (moved_api, {f"{KEY}: backend", f"{KEY}: webhook"}, "mpamatch connect"),
    (refused_backend, {f"{KEY}: way back"}, "mpamatch connect"),
    (no_webhook, {f"{KEY}: webhook"}, "SSRF_PROTECTION_ENABLED"),
    (webhook_without_secret, {f"{KEY}: webhook secret"}, "mpamatch connect"),
    (deaf_webhook, {f"{KEY}: webhook"}, "mpamatch connect"),
    (silent_webhook, {f"{KEY}: deliveries"}, "SSRF_PROTECTION_ENABLED"),
    (other_order, {f"{KEY}: order"}, "Uncertainty sampling"),
    (adopted_with_two_annotators, {f"{KEY}: order"}, "if that is meant"),
    (renamed_label, {f"{KEY}: labelling config"}, "undo the change"),
    (config_without_reason, {f"{KEY}: labelling config"}, "add them in Label Studio"),
    (random_stream, {f"{KEY}: model version"}, "worker `io`"),
    (deleted_counterpart, {f"{KEY}: counterpart"}, "restore it"),
    (untied, {KEY}, "mpamatch connect"),
]
