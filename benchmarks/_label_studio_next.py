"""How long Label Studio takes for its own next task, by the order of scores as we set it up.

Makes projects in a Label Studio that runs, and deletes them again. Tasks have no picture, since none is fetched.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

CHUNK = 500
VERSION = "bench-m1"
CONFIG = """
<View><Image name="image" value="$image"/><Choices name="scope" toName="image"><Choice value="a"/></Choices></View>
"""


def next_task_ms(url: str, token: str, tasks: int, repeats: int) -> list[float]:
    """Milliseconds of ``repeats`` calls for the next task of a project of ``tasks`` with a score each."""
    client = httpx.Client(base_url=url, headers={"Authorization": f"Token {token}"}, timeout=600, trust_env=False)
    with client, _project(client, tasks) as project_id:
        found = []
        for _ in range(repeats):
            began = time.perf_counter()
            client.get(f"/api/projects/{project_id}/next").raise_for_status()
            found.append((time.perf_counter() - began) * 1000)
        return found


@contextmanager
def _project(client: httpx.Client, tasks: int) -> Iterator[int]:
    settings = {"title": f"Bench {tasks}", "label_config": CONFIG, "sampling": "Uncertainty sampling"}
    project_id = int(_sent(client, "/api/projects", settings)["id"])
    try:
        for start in range(0, tasks, CHUNK):
            rows = [_task(number, tasks) for number in range(start, min(start + CHUNK, tasks))]
            _sent(client, f"/api/projects/{project_id}/import", rows)
        client.patch(f"/api/projects/{project_id}", json={"model_version": VERSION}).raise_for_status()
        yield project_id
    finally:
        client.delete(f"/api/projects/{project_id}").raise_for_status()


def _task(number: int, tasks: int) -> dict[str, Any]:
    prediction = {"result": [], "score": (number + 1) / (tasks + 1), "model_version": VERSION}
    return {"data": {"image": f"picture-{number}.png"}, "predictions": [prediction]}


def _sent(client: httpx.Client, path: str, body: Any) -> Any:
    answer = client.post(path, json=body)
    answer.raise_for_status()
    return answer.json()
