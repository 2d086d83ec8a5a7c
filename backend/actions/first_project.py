"""Make the project that `up` was asked for, register its images, and connect every project to Label Studio.

Repeating it adds what is new and mends addresses that changed between two starts.
"""

from __future__ import annotations

import dataclasses
import logging
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from backend.actions.alike_slides import group_alike
from backend.actions.connect_project import connect_project
from backend.actions.register_images import RegisterReport, register
from backend.actions.register_source import read_source, title_of
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.config import LabelType
from backend.settings import Settings
from backend.store import images as stored_images
from backend.store import projects, tasks
from backend.store.blobs import BlobStore
from backend.store.open_blobs import open_blobs
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Project
from backend.wakeups import Wakeups
from mpamatch.datasets import phantom
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from mpamatch.domain.starting import Start, choose_start
from mpamatch.errors import BadInput, Conflict, NotFound, Unavailable
from mpamatch.files.starter import starter_archive

LOG = logging.getLogger("mpamatch.connect")

DEMO_TITLE = "Demo: drawn glands"
DEMO_CLASSES = ("background", "gland")

Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """No progress is shown."""


@dataclass(frozen=True)
class TileWish:
    """The side of tiles and the micrometres of their pixels, as far as somebody asked for them."""

    tile_px: int | None = None
    um_per_px: float | None = None

    def applied(self, policy: Policy) -> Policy:
        """Raises BadInput for what no tile can have."""
        wished = {"tile_px": self.tile_px, "tile_um_per_px": self.um_per_px}
        given = {name: value for name, value in wished.items() if value is not None}
        return dataclasses.replace(policy, **given)  # type: ignore[arg-type]  # by name


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
    label_type: LabelType | None = None,
    start: str = "auto",
    foreground: bool = False,
    tiles: TileWish = TileWish(),
    group_pattern: str | None = None,
    progress: Progress = _silent,
) -> ReadyProject:
    """The demo project, or one over a folder of images: registered, connected, its work begun."""
    database = Database(settings.require_database_url())
    try:
        blobs = open_blobs(settings)
        if images is None:
            folder = demo_folder(settings)
            project = ensure_row(
                database, settings, title or DEMO_TITLE, classes or DEMO_CLASSES, label_type=label_type, start=start
            )
        else:
            folder = images
            project = ensure_row(
                database, settings, title or title_of(folder), classes, label_type=label_type, start=start, tiles=tiles
            )
        report = register_folder(
            database,
            blobs,
            project,
            folder,
            masks=masks,
            group_pattern=group_pattern,
            foreground=foreground,
            progress=progress,
        )
        if report.images + report.known == 0:
            why = report.problems[0] if report.problems else "holds no PNG, JPEG, TIFF or SVS image"
            raise BadInput(str(folder), why, "name a folder with images")
        connected = connect_all(settings, database)
        Wakeups(settings.require_broker_url()).sync(project.id, full=True)
        ls_project_id = connected.get(project.id)
        came = (
            f"project {project.key}: {report.images} images are new, {report.known} were known;"
            f" {report.tiles} tiles and {report.masks} masks came in"
        )
        news = (came, *report.notes, *report.problems)
        return ReadyProject(project.key, ls_project_id, project_url(settings, project, ls_project_id), news)
    finally:
        database.close()


def await_tasks(settings: Settings, key: str, *, limit_s: float) -> bool:
    """Wait until the project has tasks in Label Studio, or has nothing to make any of; False when the time is over."""
    database = Database(settings.require_database_url())
    deadline = time.monotonic() + limit_s
    try:
        while True:
            with database.transaction() as session:
                project = projects.choose(session, key)
                if tasks.any_there(session, project.id) or not stored_images.any_ready(session, project.id):
                    return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
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
        return ReadyProject(newest.key, ls_project_id, project_url(settings, newest, ls_project_id))
    finally:
        database.close()


def connect_all(settings: Settings, database: Database, *, elsewhere: str | None = None) -> dict[int, int]:
    """Connect every project to the Label Studio in use, or mend its connection; by project, the id there.

    ``elsewhere``: only the projects that were adopted from the server of that address; this installation's own stay.
    A project whose counterpart is gone is said in the log and left out; the others go on.
    """
    keys = KeyRing.at(settings.state / "key")
    with database.transaction() as session:
        rows = projects.all_of(session)
    connected: dict[int, int] = {}
    for project in rows:
        if elsewhere is not None and not (project.ls_elsewhere and project.ls_url == elsewhere):
            continue
        where = _server_of(settings, keys, project)
        if where is None:
            continue
        url, token = where
        try:
            with LabelStudioClient(url, token, timeout_s=settings.label_studio_timeout_s) as client:
                connected[project.id] = connect_project(
                    database, keys, client, project.id, url=url, token=token, backend_url=settings.backend_address
                )
        except (NotFound, Conflict, BadInput) as error:
            LOG.warning("project=%s not connected: %s", project.key, error)
        except Unavailable as error:
            if not project.ls_elsewhere:
                raise
            LOG.warning("project=%s not connected: %s", project.key, error)
    return connected


def _server_of(settings: Settings, keys: KeyRing, project: Project) -> tuple[str, str] | None:
    """Address and token of a project's Label Studio: this installation's, unless it was adopted from another one."""
    given = None
    if settings.label_studio_url is not None and settings.label_studio_token is not None:
        given = settings.label_studio_url, settings.label_studio_token.get_secret_value()
    if project.ls_elsewhere:
        if given is not None and given[0] == project.ls_url:
            return given
        known = project.ls_url is not None and project.ls_token is not None
        return (str(project.ls_url), keys.open(bytes(project.ls_token or b""))) if known else None
    return given


def project_url(settings: Settings, project: Project, ls_project_id: int | None) -> str | None:
    """Where people open a project, whose number there may be newer than its row.

    The address for browsers is that of this installation's Label Studio; another one has its own alone.
    """
    ours = settings.label_studio_public_url or settings.label_studio_url
    address = project.ls_url if project.ls_elsewhere else ours
    if ls_project_id is None or address is None:
        return None
    return f"{address.rstrip('/')}/projects/{ls_project_id}/data"


def ensure_row(
    database: Database,
    settings: Settings,
    title: str,
    class_names: Sequence[str],
    *,
    label_type: LabelType | None = None,
    start: str = "auto",
    tiles: TileWish = TileWish(),
) -> Project:
    """The project of that title, made when absent: ``label_type`` None is brush, ``start`` auto is what fits.

    Raises Conflict when it has other classes or, where one is given, another label type or scale of tiles; BadInput
    for a start that these classes cannot have.
    """
    classes = ClassSet.from_names(class_names)
    chosen = choose_start(start, classes)
    with database.transaction() as session:
        try:
            project = projects.choose(session, projects.slug(title))
        except NotFound:
            blobs = open_blobs(settings)
            return create_row(
                session,
                settings,
                blobs,
                title,
                classes,
                label_type=label_type or "brush",
                start=chosen,
                tiles=tiles,
            )
        known = projects.classes_of(project)
        if known.names != classes.names:
            raise Conflict(
                f"project {project.key!r}",
                f"has the classes {', '.join(known.names)}",
                f"give --classes {_option(known)}, or make another project:"
                f" `mpamatch register FOLDER --project NAME --classes {_option(classes)}`",
            )
        check_label_type(project, label_type)
        check_start(project, start)
        check_tiles(project, tiles)
        return project


def _option(classes: ClassSet) -> str:
    """Class names as one option of a command line takes them."""
    return shlex.quote(",".join(classes.names))


def check_start(project: Project, start: str) -> None:
    """Raises Conflict when a start is asked for that the project did not have: it has begun already."""
    begun = projects.policy_of(project).start
    if start in ("auto", begun):
        return
    raise Conflict(
        f"project {project.key!r}",
        f"began with {begun}, not with {start}",
        "leave --start out, or make another project:"
        f" `mpamatch register FOLDER --project NAME --classes ... --start {start}`",
    )


def create_row(
    session: Session,
    settings: Settings,
    blobs: BlobStore,
    title: str,
    classes: ClassSet,
    *,
    label_type: LabelType,
    start: Start,
    tiles: TileWish = TileWish(),
) -> Project:
    """A new project with the first champion that ``start`` (as `choose_start` answers) means. Raises Conflict."""
    return projects.create(
        session,
        title=title,
        classes=classes,
        policy=tiles.applied(dataclasses.replace(_policy(settings), start=start)),
        seed=settings.demo_seed,
        label_type=label_type,
        starter_blob=blobs.put(starter_archive(classes)) if start == "starter" else None,
    )


def check_label_type(project: Project, label_type: LabelType | None) -> None:
    """Raises Conflict when one is asked for that the project does not have: its labels would not fit any more."""
    if label_type is None or label_type == project.label_type:
        return
    raise Conflict(
        f"project {project.key!r}",
        f"is labelled with {project.label_type}, not with {label_type}",
        "leave --label-type out, or make another project:"
        f" `mpamatch register FOLDER --project NAME --classes ... --label-type {label_type}`",
    )


def check_tiles(project: Project, tiles: TileWish) -> None:
    """Raises Conflict when another scale of tiles is asked for than the project has: its models learn at one."""
    policy = projects.policy_of(project)
    if tiles.applied(policy) == policy:
        return
    raise Conflict(
        f"project {project.key!r}",
        f"has tiles of {policy.tile_px} px at {policy.tile_um_per_px} um per px",
        "leave --tile-px and --um-per-px out, or make another project with them",
    )


def register_folder(
    database: Database,
    blobs: BlobStore,
    project: Project,
    folder: Path,
    *,
    masks: Path | None = None,
    group_pattern: str | None = None,
    foreground: bool = False,
    progress: Progress = _silent,
) -> RegisterReport:
    """Register every image of a folder with the masks that lie beside it; or of a manifest, or one image.

    ``foreground``: any mask value above 0 is class 1. Raises BadInput for it where there are more than two classes.
    """
    if foreground and projects.classes_of(project).count != 2:
        raise BadInput("--foreground", f"project {project.key} has more than two classes", "give masks of class ids")
    source = read_source(folder, masks=masks, group_pattern=group_pattern, foreground=foreground)
    grouped = group_alike(database, project.id, source.items)
    report = register(database, blobs, project.id, grouped.items, progress=progress)
    report.problems[:0] = list(source.problems)
    report.notes[:0] = list(grouped.notes)
    if report.images and len(source.items) > 1 and not any(item.group_named for item in source.items):
        report.notes.append(
            f"{len(source.items)} images: no folder or pattern says whose they are, so each counts as a patient of its"
            " own; --group-pattern or a manifest tells patients apart, before the first labels"
        )
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
        train_method=settings.train_method,
    )
