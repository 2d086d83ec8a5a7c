"""Compare the labels of a project in Label Studio with its classes, and note a difference until a person decides.

Old masks keep their class ids: what a renamed or new label means for them is nobody's to guess. While the difference
stands, what Label Studio shows is left as it is, labels of known classes still count, and the others are set aside.
"""

from __future__ import annotations

from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.config import check_same_classes, read_config
from backend.store import events, projects
from backend.store.sessions import Database
from mpamatch.errors import BadInput, Conflict


def watch_classes(database: Database, client: LabelStudioClient, project_id: int) -> str | None:
    """The difference in one line, or None. When one is gone, every task is read again for what was set aside."""
    with database.transaction() as session:
        project = projects.get(session, project_id)
        classes, ls_project_id = projects.classes_of(project), project.ls_project_id
    if ls_project_id is None:
        return None
    problem = None
    try:
        check_same_classes(read_config(str(client.project(ls_project_id).get("label_config") or "")), classes)
    except (Conflict, BadInput) as error:
        problem = str(error)
    with database.transaction() as session:
        project = projects.get(session, project_id)
        before = project.ls_problem
        if problem == before:
            return problem
        project.ls_problem = problem
        if problem is None:
            project.ls_cursor = None
        events.record(
            session,
            project_id=project_id,
            actor="label-studio",
            what="labels differ" if problem else "labels agree again",
            subject=f"project:{project_id}",
            before={"problem": before},
            after={"problem": problem},
        )
    return problem
