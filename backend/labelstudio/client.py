"""Label Studio's REST API, as far as we use it: small, typed, synchronous.

Only GETs are retried; a write that may have happened is never repeated here. Nothing follows a redirect to another
host, and no token is logged or put into an error. Both kinds of token work (``connection.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import httpx

from backend.labelstudio.connection import Connection
from mpamatch.errors import BadInput, Conflict, NotFound, Unavailable

Json = dict[str, Any]

PAGE_SIZE: Final = 100
# One import of 100 tasks with brush masks is about 5 MB and keeps SQLite busy for half a second.
IMPORT_CHUNK: Final = 100
MAX_IMAGE_BYTES: Final = 200 << 20
# Columns of the Data Manager that cost a subquery each; light listings name those they want.
_COLUMNS: Final = (
    "annotations_ids",
    "annotations_results",
    "annotators",
    "avg_lead_time",
    "completed_at",
    "draft_exists",
    "predictions_model_versions",
    "predictions_results",
    "predictions_score",
)


class LabelStudioClient:
    """One server, one token. Close it or use it as a context manager.

    Every method raises Unavailable (try later), NotFound, Conflict, or BadInput (wrong token, wrong request).
    """

    def __init__(
        self, url: str, token: str, timeout_s: float = 60.0, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._connection = Connection(url, token, timeout_s, transport=transport)

    def __enter__(self) -> LabelStudioClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    @property
    def url(self) -> str:
        return self._connection.url

    # -- people and server

    def current_user(self) -> Json:
        return self._object("GET", "/api/current-user/whoami")

    def version(self) -> str:
        """The server's release, e.g. ``1.23.2``."""
        found = self._object("GET", "/api/version")
        release = found.get("release") or (found.get("label-studio-os-package") or {}).get("version")
        return str(release)

    # -- projects

    def projects(self) -> list[Json]:
        """Every project that the token may see."""
        found: list[Json] = []
        page = 1
        while True:
            params = {"page": page, "page_size": PAGE_SIZE}
            answer = self._object("GET", "/api/projects", params=params, holding="results")
            found += answer["results"]
            if not answer.get("next"):
                return found
            page += 1

    def create_project(self, title: str, label_config: str, **settings: Any) -> Json:
        body = {"title": title, "label_config": label_config, **settings}
        return self._object("POST", "/api/projects", json=body)

    def project(self, project_id: int) -> Json:
        return self._object("GET", f"/api/projects/{project_id}")

    def update_project(self, project_id: int, **fields: Any) -> Json:
        return self._object("PATCH", f"/api/projects/{project_id}", json=fields)

    # -- our backend and its webhook

    def add_ml_backend(self, project_id: int, url: str, title: str, user: str, password: str) -> Json:
        """Label Studio calls ``/health`` and ``/setup`` of ``url`` before it answers."""
        return self._object("POST", "/api/ml", json=_backend(project_id, url, title, user, password))

    def ml_backends(self, project_id: int) -> list[Json]:
        return self._list("GET", "/api/ml", params={"project": project_id})

    def delete_ml_backend(self, ml_id: int) -> None:
        self._call("DELETE", f"/api/ml/{ml_id}")

    def webhooks(self, project_id: int) -> list[Json]:
        return self._list("GET", "/api/webhooks/", params={"project": project_id})

    def add_webhook(self, project_id: int, url: str, headers: Mapping[str, str], actions: Sequence[str] = ()) -> Json:
        """``actions``: none means all."""
        return self._object("POST", "/api/webhooks/", json={"project": project_id} | _hook(url, headers, actions))

    def delete_webhook(self, webhook_id: int) -> None:
        self._call("DELETE", f"/api/webhooks/{webhook_id}/")

    # -- tasks

    def import_tasks(self, project_id: int, tasks: Sequence[Json]) -> list[int]:
        """Task ids in the order given; ``tasks`` are ``{"data": ..., "predictions": [...]}``.

        Raises Conflict when the server made another number than asked: what it made stays and must be reconciled.
        """
        ids: list[int] = []
        for chunk in _chunks(tasks):
            path = f"/api/projects/{project_id}/import"
            answer = self._object("POST", path, params={"return_task_ids": "true"}, json=chunk)
            made = [int(i) for i in answer.get("task_ids") or ()]
            ids += made
            expected = sum(len(t.get("predictions") or ()) for t in chunk)
            if len(made) != len(chunk) or answer.get("prediction_count", expected) != expected:
                predictions = f"{answer.get('prediction_count')} of {expected} predictions"
                problem = f"made {len(made)} of {len(chunk)} tasks, {predictions}"
                raise Conflict("import of tasks", problem, "compare tasks with the server and send what is missing")
        return ids

    def tasks(
        self,
        project_id: int,
        changed_since: datetime | None = None,
        *,
        fields_all: bool = True,
        unlabelled_only: bool = False,
        columns: Sequence[str] = (),
    ) -> Iterator[Json]:
        """Tasks by id, page by page; annotations and predictions inline when ``fields_all``.

        ``changed_since`` is exclusive and aware. ``unlabelled_only``: no annotation but skips. ``columns``: what a
        light listing (``fields_all=False``) shall hold besides, e.g. ``draft_exists`` or ``annotations_ids``.
        """
        filters = []
        if changed_since is not None:
            if changed_since.tzinfo is None:
                raise BadInput("changed_since", "has no time zone", "use an aware time")
            filters.append(_filter("updated_at", "greater", "Datetime", _utc_text(changed_since)))
        if unlabelled_only:
            filters.append(_filter("total_annotations", "equal", "Number", 0))
        query: Json = {"filters": {"conjunction": "and", "items": filters}, "ordering": ["tasks:id"]}
        if columns and not fields_all:
            hidden = [f"tasks:{c}" for c in _COLUMNS if c not in columns]
            query["hiddenColumns"] = {"explore": hidden, "labeling": hidden}
        params: Json = {
            "project": project_id,
            "page_size": PAGE_SIZE,
            "query": json.dumps(query),
            "resolve_uri": "false",
        }
        if fields_all:
            params["fields"] = "all"
        page = 1
        while True:
            try:
                found = self._object("GET", "/api/tasks", params=params | {"page": page}, holding="tasks")["tasks"]
            except NotFound:
                if page == 1:
                    raise  # the project itself
                return
            yield from found
            if len(found) < PAGE_SIZE:
                return
            page += 1

    def task(self, task_id: int) -> Json:
        """One task with annotations, predictions of all versions, and the drafts of the token's own user."""
        return self._object("GET", f"/api/tasks/{task_id}", params={"resolve_uri": "false"}, holding="annotations")

    def delete_tasks(self, project_id: int, task_ids: Sequence[int]) -> int:
        """Returns how many were there to delete."""
        return self._action("delete_tasks", project_id, task_ids)

    def update_task_data(self, task_id: int, data: Json) -> Json:
        """``data`` replaces what is there: send the whole."""
        return self._object("PATCH", f"/api/tasks/{task_id}", json={"data": data})

    # -- predictions

    def import_predictions(self, project_id: int, predictions: Sequence[Json]) -> int:
        """``predictions`` are ``{"task", "result", "score", "model_version"}``; returns how many were made.

        Raises Conflict when the server made fewer: it drops invalid ones without a word.
        """
        created = 0
        for chunk in _chunks(predictions):
            answer = self._object("POST", f"/api/projects/{project_id}/import/predictions", json=chunk)
            created += int(answer.get("created", 0))
        if created != len(predictions):
            problem = f"{len(predictions) - created} of {len(predictions)} were dropped by the server"
            raise Conflict("import of predictions", problem, "check their labels, control names and ranges")
        return created

    def prediction(self, prediction_id: int) -> Json:
        return self._object("GET", f"/api/predictions/{prediction_id}/")

    def update_prediction(self, prediction_id: int, **fields: Any) -> Json:
        """``score``, ``result``, ``model_version``, in place: the id stays, so an open page can still submit."""
        return self._object("PATCH", f"/api/predictions/{prediction_id}/", json=fields)

    def delete_prediction(self, prediction_id: int) -> None:
        """Who has its task open cannot submit any more: the page names a prediction that is gone, and gets a 400."""
        self._call("DELETE", f"/api/predictions/{prediction_id}/")

    def model_versions(self, project_id: int) -> dict[str, int]:
        """Predictions by version."""
        return self._object("GET", f"/api/projects/{project_id}/model-versions")

    def set_model_version(self, project_id: int, version: str) -> None:
        """The version must have a prediction, or be a backend's title, or be empty."""
        self.update_project(project_id, model_version=version)

    def delete_model_version(self, project_id: int, version: str) -> int:
        """Its predictions; deleting the project's current one empties that setting, so switch first.

        Not while tasks that show it are open, see ``delete_prediction``.
        """
        path = f"/api/projects/{project_id}/model-versions"
        return int(self._object("DELETE", path, json={"model_version": version}).get("deleted_predictions", 0))

    # -- annotations

    def create_annotation(
        self, task_id: int, result: Sequence[Json], lead_time_s: float | None = None, **fields: Any
    ) -> Json:
        """``fields``: ``was_cancelled``, ``parent_prediction``, ``unique_id`` (a UUID: sent twice, Conflict)."""
        body = {"result": list(result), **({"lead_time": lead_time_s} if lead_time_s is not None else {}), **fields}
        return self._object("POST", f"/api/tasks/{task_id}/annotations/", json=body)

    def annotation_ids(self, project_id: int) -> dict[int, tuple[int, ...]]:
        """Annotation ids by task, skips included, for finding what was deleted: tasks without any are left out."""
        found: dict[int, tuple[int, ...]] = {}
        for task in self.tasks(project_id, fields_all=False, columns=("annotations_ids",)):
            ids = str(task.get("annotations_ids") or "")
            if len(ids) >= 490:  # the server cuts this text at 500 characters
                ids = ",".join(str(a["id"]) for a in self.task(int(task["id"])).get("annotations", ()))
            if ids:
                found[int(task["id"])] = tuple(sorted(int(i) for i in ids.split(",")))
        return found

    # -- pictures

    def fetch_image(self, path_or_url: str, *, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
        """A picture of a task, only from below the connected server's address.

        Raises BadInput for another host or scheme and for more than ``max_bytes``.
        """
        try:
            url = urljoin(self.url + "/", path_or_url)
            own, host = self._connection.is_own(url), urlsplit(url).netloc or urlsplit(url).scheme
        except ValueError:  # a person wrote it, and no parser reads it
            url, own, host = "", False, path_or_url[:100]
        if not own or not url.isprintable():
            raise BadInput(
                f"picture at {host!r}", "is not below the connected Label Studio", f"upload it to {self.url}"
            )
        return self._connection.download(url, max_bytes)

    # -- calls

    def _action(self, name: str, project_id: int, task_ids: Sequence[int]) -> int:
        if not task_ids:
            return 0
        body = {"selectedItems": {"all": False, "included": list(task_ids)}}
        answer = self._object("POST", "/api/dm/actions", params={"id": name, "project": project_id}, json=body)
        return int(answer.get("processed_items", 0))

    def _call(self, method: str, path: str, *, params: Json | None = None, json: Any = None) -> Any:
        return self._connection.call(method, path, params=params, json=json)

    def _object(
        self, method: str, path: str, *, params: Json | None = None, json: Any = None, holding: str | None = None
    ) -> Json:
        """``holding``: the field without which the answer is not the one that we know."""
        answer = self._call(method, path, params=params, json=json)
        if not isinstance(answer, dict):
            raise Unavailable(f"{method} {path}", "answered no JSON object", "is this address a Label Studio?")
        if holding is not None and holding not in answer:
            problem = f"answers differently than expected: without `{holding}`"
            raise Unavailable(f"{method} {path}", problem, "is it another version of Label Studio?")
        return answer

    def _list(self, method: str, path: str, *, params: Json | None = None) -> list[Json]:
        answer = self._call(method, path, params=params)
        if not isinstance(answer, list):
            raise Unavailable(f"{method} {path}", "answered no JSON list", "is this address a Label Studio?")
        return answer


def _backend(project_id: int, url: str, title: str, user: str, password: str) -> Json:
    return {
        "project": project_id,
        "url": url,
        "title": title,
        "is_interactive": False,
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": user,
        "basic_auth_pass": password,
    }


def _hook(url: str, headers: Mapping[str, str], actions: Sequence[str]) -> Json:
    return {
        "url": url,
        "headers": dict(headers),
        "actions": list(actions),
        "send_payload": True,
        "send_for_all_actions": not actions,
        "is_active": True,
    }


def _utc_text(moment: datetime) -> str:
    """The one form that the server reads: microseconds and a Z, anything else is its 500."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _filter(column: str, operator: str, kind: str, value: Any) -> Json:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def _chunks(items: Sequence[Json]) -> Iterator[list[Json]]:
    for start in range(0, len(items), IMPORT_CHUNK):
        yield list(items[start : start + IMPORT_CHUNK])
