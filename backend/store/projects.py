"""Projects: finding one, and reading its classes and policy as values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.store import events
from backend.store.tables import Model, Project
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from mpamatch.errors import BadInput, Conflict, NotFound


def slug(title: str) -> str:
    """A short key from a title: lower case letters, digits and dashes; it begins every model version's name."""
    key = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-")
    return key or "project"


def create(
    session: Session,
    *,
    title: str,
    classes: ClassSet,
    policy: Policy,
    seed: int,
    label_type: str = "brush",
    starter_blob: str | None = None,
) -> Project:
    """A project with a champion, so that something serves at once: the starter, or a blank model without its blob.

    Raises BadInput or Conflict.
    """
    if len(title.strip()) < 3:
        problem = "has a name shorter than three characters"
        raise BadInput(f"project {title!r}", problem, "give a longer --project: Label Studio asks for three or more")
    key = slug(title)
    if has(session, key):
        raise Conflict(f"project {key!r}", "exists already", "give another --project")
    project = Project(
        key=key,
        title=title.strip(),
        classes=classes.to_json(),
        policy=policy.to_json(),
        seed=seed,
        label_type=label_type,
    )
    session.add(project)
    session.flush()
    first = Model(
        project_id=project.id,
        version=f"{key}-m0",
        kind="blank" if starter_blob is None else "starter",
        blob=starter_blob,
        state="champion",
        provisional=True,
    )
    session.add(first)
    session.flush()
    project.champion_id = first.id
    return project


def all_of(session: Session) -> Sequence[Project]:
    return session.scalars(select(Project).order_by(Project.id)).all()


def has(session: Session, key: str) -> bool:
    """Whether there is a project of that key."""
    return session.scalar(select(Project.id).where(Project.key == key)) is not None


def get(session: Session, project_id: int) -> Project:
    """Raises NotFound."""
    project = session.get(Project, project_id)
    if project is None:
        raise NotFound(f"project {project_id}", "does not exist", "see `mpamatch projects list`")
    return project


def choose(session: Session, key: str | None) -> Project:
    """The project of that key, or the only one. Raises NotFound or BadInput."""
    if key is not None:
        project = session.scalars(select(Project).where(Project.key == key)).one_or_none()
        if project is None:
            raise NotFound(f"project {key!r}", "does not exist", "see `mpamatch projects list`")
        return project
    projects = all_of(session)
    if not projects:
        raise NotFound(
            "project", "there is none yet", "make one with `mpamatch register FOLDER --classes background,gland`"
        )
    if len(projects) > 1:
        raise BadInput("project", "there are several", f"name one with --project: {', '.join(p.key for p in projects)}")
    return projects[0]


def champion(session: Session, project: Project) -> Model:
    """The model that serves."""
    model = session.get(Model, project.champion_id) if project.champion_id is not None else None
    if model is None:
        raise NotFound(f"champion of {project.key}", "is missing", "promote a model with `mpamatch models promote`")
    return model


def classes_of(project: Project) -> ClassSet:
    return ClassSet.from_json(project.classes)


def change_texts(session: Session, project: Project, texts: Sequence[Sequence[str]], *, actor: str) -> None:
    """Give the classes texts of their own, a row for each in id order (empty: the shipped ones), for runs to come."""
    before, changed = classes_of(project), classes_of(project).with_prompts(texts)
    project.classes = changed.to_json()
    events.record(
        session,
        project_id=project.id,
        actor=actor,
        what="texts changed",
        subject=f"project:{project.id}",
        before={one.name: list(one.prompts) for one in before.classes},
        after={one.name: list(one.prompts) for one in changed.classes},
    )


def policy_of(project: Project) -> Policy:
    return Policy.from_json(project.policy)


def changed_policy(project: Project, changes: Mapping[str, Any]) -> Policy:
    """The policy as it would be with some knobs changed. Raises BadInput."""
    changed = Policy.from_json({**project.policy, **changes})
    _ = changed.trigger, changed.gate, changed.taus(classes_of(project))  # these check their ranges
    return changed


def change_policy(session: Session, project: Project, changes: Mapping[str, Any], *, actor: str) -> Policy:
    """Change some knobs of a project; the next decision follows them. Raises BadInput."""
    changed = changed_policy(project, changes)
    before = {name: project.policy.get(name) for name in changes}
    project.policy = changed.to_json()
    events.record(
        session,
        project_id=project.id,
        actor=actor,
        what="policy changed",
        subject=f"project:{project.id}",
        before=before,
        after=dict(changes),
    )
    return changed
