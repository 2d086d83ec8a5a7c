"""Make the project that `up` was asked for, register its images, and connect every project to Label Studio.

Repeating it adds what is new and mends addresses that changed between two starts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.actions.connect_project import connect_project
from backend.actions.register_images import RegisterItem, RegisterReport, register
from backend.labelstudio.client import LabelStudioClient
from backend.settings import Settings
from backend.store import projects
from backend.store.blobs import BlobFolder
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Project
from backend.wakeups import Wakeups
from mpamatch.datasets import phantom
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from mpamatch.errors import BadInput, Conflict, NotFound, Unavailable
from mpamatch.files.folders import scan_folder

LOG = logging.getLogger("mpamatch.connect")

DEMO_TITLE = "Demo: drawn glands"
DEMO_CLASSES = ("background", "gland")

Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """No progress is shown."""


@dataclass(frozen=True)
class ReadyProject:
    """A project that people can open."""

    key: str
    label_studio_id: int | None
    url: str | None
    news: tuple[str, ...] = ()


def ensure_project(
    settings: Settings,
    *,
    images: Path | None = None,
    masks: Path | None = None,
    classes: Sequence[str] = (),
    title: str | None = None,
    progress: Progress = _silent,
) -> ReadyProject:
    """The demo project, or one over a folder of images: registered, connected, its work begun."""
    database = Database(settings.require_database_url())
    try:
        blobs = BlobFolder(settings.blobs_folder)
        if images is None:
            folder = demo_folder(settings)
            project = ensure_row(database, settings, title or DEMO_TITLE, classes or DEMO_CLASSES)
        else:
            folder = images
            project = ensure_row(database, settings, title or _title_of(folder), classes)
        report = register_folder(database, blobs, project, folder, masks=masks, progress=progress)
        if report.images + report.known == 0:
            why = report.problems[0] if report.problems else "holds no PNG, JPEG or TIFF image"
            raise BadInput(str(folder), why, "name a folder with images")
        connected = connect_all(settings, database)
        Wakeups(settings.require_broker_url()).sync(project.id, full=True)
        ls_project_id = connected.get(project.id)
        came = (
            f"project {project.key}: {report.images} images are new, {report.known} were known;"
            f" {report.tiles} tiles and {report.masks} masks came in"
        )
        news = (came, *report.problems)
        return ReadyProject(project.key, ls_project_id, project_url(settings, ls_project_id), news)
    finally:
        database.close()


def reconnect(settings: Settings) -> ReadyProject | None:
    """Mend every project's connection after a start; answers the newest project, None when there is none."""
    database = Database(settings.require_database_url())
    try:
        connected = connect_all(settings, database)
        with database.transaction() as session:
            rows = projects.all_of(session)
        if not rows:
            return None
        wakeups = Wakeups(settings.require_broker_url())
        for project in rows:
            wakeups.sync(project.id, full=True)
        newest = rows[-1]
        ls_project_id = connected.get(newest.id)
        return ReadyProject(newest.key, ls_project_id, project_url(settings, ls_project_id))
    finally:
        database.close()


def connect_all(settings: Settings, database: Database) -> dict[int, int]:
    """Connect every project to the Label Studio in use, or mend its connection; by project, the id there.

    A project whose counterpart is gone is said in the log and left out; the others go on.
    """
    if settings.label_studio_url is None or settings.label_studio_token is None:
        return {}
    token = settings.label_studio_token.get_secret_value()
    keys = KeyRing.at(settings.state / "key")
    client = LabelStudioClient(settings.label_studio_url, token, timeout_s=settings.label_studio_timeout_s)
    with database.transaction() as session:
        rows = projects.all_of(session)
    connected: dict[int, int] = {}
    with client:
        for project in rows:
            try:
                connected[project.id] = connect_project(
                    database,
                    keys,
                    client,
                    project.id,
                    url=settings.label_studio_url,
                    token=token,
                    backend_url=settings.api_address,
                )
            except (NotFound, Conflict, BadInput) as error:
                LOG.warning("project=%s not connected: %s", project.key, error)
    return connected


def project_url(settings: Settings, ls_project_id: int | None) -> str | None:
    """Where people open a project."""
    if ls_project_id is None or settings.label_studio_url is None:
        return None
    return f"{settings.label_studio_url}/projects/{ls_project_id}/data"


def ensure_row(database: Database, settings: Settings, title: str, class_names: Sequence[str]) -> Project:
    """The project of that title, made when absent. Raises Conflict when it has other classes."""
    classes = ClassSet.from_names(class_names)
    with database.transaction() as session:
        try:
            project = projects.choose(session, projects.slug(title))
        except NotFound:
            return projects.create(
                session, title=title, classes=classes, policy=_policy(settings), seed=settings.demo_seed
            )
        known = projects.classes_of(project)
        if known.names != classes.names:
            raise Conflict(
                f"project {project.key!r}",
                f"has the classes {', '.join(known.names)}",
                "use these, or choose another title",
            )
        return project


def register_folder(
    database: Database,
    blobs: BlobFolder,
    project: Project,
    folder: Path,
    *,
    masks: Path | None = None,
    group_pattern: str | None = None,
    progress: Progress = _silent,
) -> RegisterReport:
    """Register every image of a folder with the masks that lie beside it."""
    scan = scan_folder(folder, masks=masks, group_pattern=group_pattern)
    items = [RegisterItem(path=i.image, group=i.group, mask=i.mask) for i in scan.items]
    report = register(database, blobs, project.id, items, progress=progress)
    report.problems[:0] = list(scan.problems)
    return report


def demo_folder(settings: Settings) -> Path:
    """Drawn tissue in the state folder, made once; whole or not there at all."""
    folder = settings.state / "demo" / f"drawn-{settings.demo_images}-{settings.demo_size_px}-{settings.demo_seed}"
    if not folder.exists():
        part = folder.with_name(f".{folder.name}")
        try:
            phantom.write_folder(
                part,
                tiles=settings.demo_images,
                groups=max(4, settings.demo_images // 4),
                size_px=settings.demo_size_px,
                masked=settings.demo_masks,
                seed=settings.demo_seed,
            )
            part.rename(folder)
        except OSError as error:
            raise Unavailable("demo images", f"could not be written ({error.strerror})", "free disk space") from error
    return folder


def _policy(settings: Settings) -> Policy:
    return Policy(
        tau=settings.tau,
        head_size=settings.head_size,
        retrain_after_tiles=settings.retrain_after_tiles,
        debounce_s=settings.debounce_s,
        train_profile=settings.train_profile,
    )


def _title_of(folder: Path) -> str:
    name = folder.resolve().name
    return name if len(name) >= 3 else f"images {name}".strip()
