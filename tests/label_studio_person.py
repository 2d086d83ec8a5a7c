"""What people and their pages do in Label Studio, and the product never: calls of tests, made through our client."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from backend.labelstudio.client import Json, LabelStudioClient
from mpamatch.errors import NotFound


@dataclass(frozen=True)
class Invited:
    """A second user of the same server."""

    email: str
    password: str = field(repr=False)
    token: str = field(repr=False)


def invite(client: LabelStudioClient, url: str, email: str = "second@example.com") -> Invited:
    """Sign a second person up through the organization's link, which is the only way."""
    link = str(client._object("GET", "/api/invite")["invite_url"])
    password = secrets.token_urlsafe(12)
    with httpx.Client(base_url=url, trust_env=False, timeout=60, follow_redirects=True) as browser:
        page = browser.get(link)
        form = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
        assert form is not None, page.text[:300]
        fields = {"csrfmiddlewaretoken": form[1], "email": email, "password": password, "allow_newsletters": "false"}
        answer = browser.post(link, data=fields, headers={"Referer": url})
        assert answer.status_code == 200, answer.text[:300]
        return Invited(email, password, str(browser.get("/api/current-user/token").json()["token"]))


def next_task(client: LabelStudioClient, project_id: int) -> Json | None:
    """The next task by the project's sampling, locked for the token's user; None when none is left."""
    return _or_none(client, "GET", f"/api/projects/{project_id}/next")


def next_task_by_action(client: LabelStudioClient, project_id: int) -> Json | None:
    """The same as the web page asks for it when Label All Tasks is pressed."""
    params = {"id": "next_task", "project": project_id}
    return _or_none(client, "POST", "/api/dm/actions", params=params, json={"project": str(project_id)})


def annotation(client: LabelStudioClient, annotation_id: int) -> Json:
    return client._object("GET", f"/api/annotations/{annotation_id}")


def update_annotation(client: LabelStudioClient, annotation_id: int, **fields: Any) -> Json:
    return client._object("PATCH", f"/api/annotations/{annotation_id}/", json=fields)


def delete_annotation(client: LabelStudioClient, annotation_id: int) -> None:
    client._call("DELETE", f"/api/annotations/{annotation_id}/")


def delete_predictions_of_tasks(client: LabelStudioClient, project_id: int, task_ids: Sequence[int]) -> int:
    """All versions of these tasks, as the data manager does it; returns how many were deleted."""
    return client._action("delete_tasks_predictions", project_id, task_ids)


def start_training(client: LabelStudioClient, ml_id: int) -> None:
    """What Start Training does: the backend receives START_TRAINING."""
    client._call("POST", f"/api/ml/{ml_id}/train", json={})


def update_ml_backend(
    client: LabelStudioClient, ml_id: int, project_id: int, url: str, title: str, user: str, password: str
) -> Json:
    """All fields at once: a part of them is a 500 on the server."""
    fields = {"project": project_id, "url": url, "title": title, "is_interactive": False}
    secret = {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}
    return client._object("PATCH", f"/api/ml/{ml_id}", json=fields | secret)


def update_webhook(
    client: LabelStudioClient, webhook_id: int, url: str, headers: Mapping[str, str], actions: Sequence[str]
) -> Json:
    fields = {"url": url, "headers": dict(headers), "actions": list(actions), "send_for_all_actions": not actions}
    return client._object(
        "PATCH", f"/api/webhooks/{webhook_id}/", json=fields | {"send_payload": True, "is_active": True}
    )


def _or_none(client: LabelStudioClient, method: str, path: str, **asked: Any) -> Json | None:
    try:
        return client._object(method, path, **asked)
    except NotFound as error:
        if "no tasks" in error.problem.lower() or "no more" in error.problem.lower():
            return None
        raise
