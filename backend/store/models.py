"""Models: versions of a project, the champion, and the best champion so far."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.store.tables import Model, Project, Run
from mpamatch.errors import NotFound


def all_of(session: Session, project_id: int) -> Sequence[Model]:
    return session.scalars(select(Model).where(Model.project_id == project_id).order_by(Model.id)).all()


def by_version(session: Session, project_id: int, version: str) -> Model:
    """Raises NotFound."""
    model = session.scalars(select(Model).where(Model.project_id == project_id, Model.version == version)).one_or_none()
    if model is None:
        raise NotFound(f"model {version!r}", "does not exist", "see `mpamatch models list`")
    return model


def next_version(session: Session, project: Project) -> str:
    """The version that the next run's candidate will carry; numbers of failed runs are not used again."""
    runs = session.scalar(select(func.count()).select_from(Run).where(Run.project_id == project.id)) or 0
    return f"{project.key}-m{runs + 1}"


def candidate_of(session: Session, run_id: int) -> Model | None:
    return session.scalars(select(Model).where(Model.run_id == run_id)).one_or_none()


def origin(session: Session, model: Model) -> Model:
    """The model whose weights an adapted one has; any other one itself. ``metrics`` says from which it was adapted."""
    while (adapted := (model.metrics or {}).get("adapted")) is not None:
        model = by_version(session, model.project_id, adapted["from"])
    return model


def run_number(session: Session, model: Model) -> int:
    """The number of the run that made a model; 0 for one that no run made."""
    return session.scalar(select(Run.number).where(Run.id == model.run_id)) or 0


def rounds(session: Session, project_id: int) -> int:
    """How many trainings led to a champion so far; an adaptation learnt no label and is no round."""
    return sum(m.kind == "trained" and "adapted" not in (m.metrics or {}) for m in promoted(session, project_id))


def promoted(session: Session, project_id: int) -> Sequence[Model]:
    """The starter and trained models that serve or have served, oldest first."""
    return session.scalars(
        select(Model)
        .where(
            Model.project_id == project_id,
            Model.kind.in_(("starter", "trained")),
            Model.state.in_(("champion", "retired")),
        )
        .order_by(Model.id)
    ).all()
