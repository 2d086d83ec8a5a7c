"""Begin a project: its row, its images, and its connection; repeating it adds what is new."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backend.actions.register_images import RegisterItem, RegisterReport, register
from backend.store import projects
from backend.store.blobs import BlobFolder
from backend.store.sessions import Database
from backend.store.tables import Project
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from mpamatch.errors import Conflict, NotFound


def ensure_project(database: Database, *, title: str, classes: ClassSet, policy: Policy, seed: int) -> Project:
    """The project of that title, made when absent. Raises Conflict when it has other classes."""
    with database.transaction() as session:
        try:
            project = projects.choose(session, projects.slug(title))
        except NotFound:
            return projects.create(session, title=title, classes=classes, policy=policy, seed=seed)
        known = projects.classes_of(project)
        if known.names != classes.names:
            raise Conflict(
                f"project {project.key!r}",
                f"has the classes {', '.join(known.names)}",
                "use these, or choose another title",
            )
        return project


def add_images(
    database: Database,
    blobs: BlobFolder,
    project: Project,
    items: Sequence[RegisterItem],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RegisterReport:
    """Register images into a project."""
    return register(database, blobs, project.id, items, progress=progress)
