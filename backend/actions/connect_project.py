"""Tie a project to Label Studio: its project there, our backend, our webhook with its secret. Safe to repeat.

Addresses may change between starts (another free port), so what is there is compared with what should be and mended.
The webhook that Label Studio adds by itself with a backend carries no secret: it is removed.
"""

from __future__ import annotations

import hmac
import secrets as random_secrets

from backend.actions.watch_classes import watch_classes
from backend.api_names import ML_PATH, SECRET_HEADER, USER
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.config import labelling_config
from backend.store import events, projects
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from mpamatch.errors import NotFound, Unavailable

BACKEND_TITLE = "mpamatch backend"
# Else Label Studio asks the next person for what one has skipped, and first of all.
SKIPPED_STAYS_SO = "IGNORE_SKIPPED"
ACTIONS = (
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "TASKS_CREATED",
    "TASKS_DELETED",
)


def connect_project(
    database: Database,
    keys: KeyRing,
    client: LabelStudioClient,
    project_id: int,
    *,
    url: str,
    token: str,
    backend_url: str,
    verify: bool = False,
) -> int:
    """Make or mend the connection; returns the id of the project in Label Studio.

    ``verify`` asks Label Studio whether it reaches us. Labels that changed there are noted, for a person to decide.
    """
    ls_project_id = _ensure_project(database, client, project_id, url)
    password, secret, fresh = _ensure_credentials(database, keys, project_id, url, token, ls_project_id)
    with database.transaction() as session:
        key = projects.get(session, project_id).key
    address = f"{backend_url}{ML_PATH}/{key}"
    _ensure_backend(client, ls_project_id, address, password, renew=fresh)
    _ensure_webhook(client, ls_project_id, f"{address}/webhook", secret)
    if verify:
        _verify(client, ls_project_id, address)
    watch_classes(database, client, project_id)
    return ls_project_id


def _verify(client: LabelStudioClient, ls_project_id: int, address: str) -> None:
    """Our call arrived, or we were not here; the other direction Label Studio tries when its backends are listed."""
    ours = next((b for b in client.ml_backends(ls_project_id) if b.get("url") == address), None)
    if ours is None or ours.get("state") != "CO":
        said = str((ours or {}).get("error_message") or "no answer").strip().splitlines()[0][:200]
        remedy = "start `mpamatch up`; set MPAMATCH_BACKEND_URL to an address that Label Studio reaches"
        raise Unavailable(f"backend {address}", f"Label Studio does not reach it ({said})", remedy)


def _ensure_project(database: Database, client: LabelStudioClient, project_id: int, url: str) -> int:
    with database.transaction() as session:
        project = projects.get(session, project_id)
        classes = projects.classes_of(project)
        title, label_type, known = project.title, project.label_type, project.ls_project_id
        same_server = project.ls_url == url
        ours = project.ls_controls is None  # an adopted one was asked about its settings
    if known is not None:
        try:
            there = client.project(known)
            if ours and there.get("skip_queue") not in (None, SKIPPED_STAYS_SO):
                client.update_project(known, skip_queue=SKIPPED_STAYS_SO)
            return known
        except NotFound:
            if same_server:
                raise NotFound(
                    f"Label Studio project {known}", "is gone", "restore it, or register the images as a new project"
                ) from None
    made = client.create_project(
        title,
        labelling_config(classes, label_type),  # type: ignore[arg-type]  # the column holds only these words
        sampling="Uncertainty sampling",
        maximum_annotations=1,
        skip_queue=SKIPPED_STAYS_SO,
        show_collab_predictions=True,
        enable_empty_annotation=True,
        evaluate_predictions_automatically=False,
    )
    ls_project_id = int(made["id"])
    with database.transaction() as session:
        project = projects.get(session, project_id)
        project.ls_project_id = ls_project_id
        events.record(
            session,
            project_id=project_id,
            actor="connect",
            what="project connected",
            subject=f"project:{project_id}",
            after={"label_studio_project": ls_project_id},
        )
    return ls_project_id


def _ensure_credentials(
    database: Database, keys: KeyRing, project_id: int, url: str, token: str, ls_project_id: int
) -> tuple[str, str, bool]:
    """Password and secret, and whether they were made just now: what Label Studio knows is of no use then."""
    with database.transaction() as session:
        project = projects.get(session, project_id)
        fresh = project.ls_auth_password is None or project.ls_webhook_secret is None
        if project.ls_auth_password is None or project.ls_webhook_secret is None:
            project.ls_auth_password = keys.seal(random_secrets.token_urlsafe(24))
            project.ls_webhook_secret = keys.seal(random_secrets.token_urlsafe(24))
        project.ls_url = url
        project.ls_token = keys.seal(token)
        project.ls_project_id = ls_project_id
        return keys.open(project.ls_auth_password), keys.open(project.ls_webhook_secret), fresh


def _ensure_backend(client: LabelStudioClient, ls_project_id: int, address: str, password: str, *, renew: bool) -> None:
    """Ours at this address and no other; with ``renew`` made anew, since the one that is there has an old password."""
    backends = client.ml_backends(ls_project_id)
    ours = [b for b in backends if b.get("title") == BACKEND_TITLE]
    right = [b for b in ours if b.get("url") == address and not renew]
    for stale in ours:
        if stale not in right[:1]:
            client.delete_ml_backend(int(stale["id"]))
    if not right:
        client.add_ml_backend(ls_project_id, address, BACKEND_TITLE, USER, password)


def _ensure_webhook(client: LabelStudioClient, ls_project_id: int, address: str, secret: str) -> None:
    found = False
    for hook in client.webhooks(ls_project_id):
        ours = "/ml/" in str(hook.get("url", "")) and str(hook.get("url", "")).endswith("/webhook")
        given = str((hook.get("headers") or {}).get(SECRET_HEADER, ""))
        if hook.get("url") == address and hmac.compare_digest(given.encode(), secret.encode()) and not found:
            found = True
        elif ours:
            client.delete_webhook(int(hook["id"]))
    if not found:
        client.add_webhook(ls_project_id, address, {SECRET_HEADER: secret}, list(ACTIONS))
