"""Adopt a project of Label Studio that has tasks, pictures and annotations: nothing of it is lost or shown again.

Each task becomes an image, a tile and a task row, each annotation a row and, where it can be read, a mask. What cannot
be is said and the rest goes on. Repeating it changes nothing; a rehearsal reads the same and writes nothing anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from backend.actions import first_project, show_tile
from backend.actions.collect_annotation import collect_task
from backend.actions.connect_project import connect_project
from backend.actions.survey_project import Found, Tally, look
from backend.actions.take_in_uploads import fetch_picture, take_in
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.sources import compiled, group_of
from backend.settings import Settings
from backend.store import events, images, projects, tasks
from backend.store.blobs import BlobStore
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Project
from mpamatch.domain.splits import assign_splits
from mpamatch.domain.starting import choose_start
from mpamatch.errors import BadInput, Conflict

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class AdoptRequest:
    """What is asked for. ``classes``: background first, or none to take the labels as they are."""

    ls_project_id: int
    url: str
    token: str
    classes: tuple[str, ...] = ()
    group_pattern: str | None = None
    start: str = "auto"


@dataclass(frozen=True)
class AdoptReport:
    """What was found and what was done, or would be. ``key``: of the project; None while a rehearsal has none.

    ``changed_labels``: annotation rows that changed here, none when all was known.
    """

    key: str | None
    project_id: int | None
    found: Found
    tally: Tally
    changes: tuple[str, ...]
    changed_labels: int
    dry_run: bool


class Adoption:
    """One adoption: what both the rehearsal and the real one work with."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        blobs: BlobStore,
        client: LabelStudioClient,
        request: AdoptRequest,
        *,
        now: datetime,
    ) -> None:
        self.settings = settings
        self.database = database
        self.blobs = blobs
        self.client = client
        self.request = request
        self.now = now

    def run(self, *, dry_run: bool, progress: Progress = lambda done, total: None) -> AdoptReport:
        """Adopt, or with ``dry_run`` only say what that would do.

        Raises NotFound, BadInput for a configuration that cannot be used, Conflict for classes that differ from its
        labels or a project that another installation serves, Unavailable when either side does not reach the other.
        """
        compiled(self.request.group_pattern)
        project = self._known()
        found = self._look(project)
        pattern = self.request.group_pattern if project is None else project.group_pattern
        addresses = self._addresses(found, project)
        splits = self._splits(project, {group_of(url, pattern) for url in addresses.values() if isinstance(url, str)})
        changes = tuple(found.changes(self._version(project, found)))
        if project is None and not dry_run:
            project = self._create(found)
        tally = Tally(groups=splits)
        changed = 0
        for done, ls_task in enumerate(self.client.tasks(self.request.ls_project_id), start=1):
            tally.count_task(ls_task, addresses.get(int(ls_task["id"])), self.client.url)
            changed += self._one(found, tally, ls_task, project, pattern, dry_run=dry_run)
            progress(done, len(addresses))
        if not dry_run:
            assert project is not None
            self._connect(found, project)
        return AdoptReport(
            key=None if project is None else project.key,
            project_id=None if project is None else project.id,
            found=found,
            tally=tally,
            changes=changes,
            changed_labels=changed,
            dry_run=dry_run,
        )

    # -- what is there ------------------------------------------------------------------------------------------

    def _known(self) -> Project | None:
        """The project that this one in Label Studio belongs to already."""
        with self.database.transaction() as session:
            query = select(Project).where(
                Project.ls_project_id == self.request.ls_project_id, Project.ls_url == self.request.url
            )
            return session.scalars(query).one_or_none()

    def _look(self, project: Project | None) -> Found:
        known = None if project is None else projects.classes_of(project).names
        found = look(self.client, self.request.ls_project_id, self.request.classes or known or ())
        if known is not None and found.classes.names != known:
            remedy = "leave --classes out: they stay as they were adopted"
            raise Conflict(f"the project of {found.title!r}", f"has the classes {', '.join(known)}", remedy)
        return found

    def _addresses(self, found: Found, project: Project | None) -> dict[int, object]:
        """By task: the address of its picture. Raises Conflict for tasks of another installation of ours."""
        listed = {int(t["id"]): t.get("data") or {} for t in self.client.tasks(found.ls_project_id, fields_all=False)}
        with self.database.transaction() as session:
            ours = tasks.known_ids(session, project.id, list(listed)) if project is not None else set()
        for number, data in listed.items():
            if number not in ours and show_tile.tile_of(data) is not None:
                problem = f"task {number} was made by another installation of mpamatch"
                remedy = "restore that one's backup here, or delete its tasks"
                raise Conflict(f"Label Studio project {found.ls_project_id}", problem, remedy)
        return {number: data.get(found.controls.image_key) for number, data in listed.items()}

    def _splits(self, project: Project | None, groups: set[str]) -> dict[str, str]:
        known: dict[str, str] = {}
        if project is not None:
            with self.database.transaction() as session:
                known = images.known_splits(session, project.id)
        assigned = assign_splits(known, groups)
        return {group: assigned[group] for group in sorted(groups)}

    def _version(self, project: Project | None, found: Found) -> str:
        if project is None:
            return f"{projects.slug(self._title(found))}-m0"
        with self.database.transaction() as session:
            fresh = projects.get(session, project.id)
            return fresh.ls_model_version or projects.champion(session, fresh).version

    # -- what is done -------------------------------------------------------------------------------------------

    def _title(self, found: Found) -> str:
        """Its title; with its number where another project of ours has that name."""
        with self.database.transaction() as session:
            taken = {row.key for row in projects.all_of(session)}
        return found.title if projects.slug(found.title) not in taken else f"{found.title} {found.ls_project_id}"

    def _create(self, found: Found) -> Project:
        start = choose_start(self.request.start, found.classes)
        title = self._title(found)
        with self.database.transaction() as session:
            project = first_project.create_row(
                session, self.settings, self.blobs, title, found.classes, label_type=found.label_type, start=start
            )
            project.ls_project_id = found.ls_project_id
            project.ls_url = self.request.url
            project.ls_elsewhere = self.request.url != self.settings.label_studio_url
            project.ls_controls = found.controls.to_json()
            project.group_pattern = self.request.group_pattern
            events.record(
                session,
                project_id=project.id,
                actor="connect",
                what="project adopted",
                subject=f"project:{project.id}",
                after={"label_studio_project": found.ls_project_id, "predictions_of_others": dict(found.predictions)},
            )
            return project

    def _one(
        self,
        found: Found,
        tally: Tally,
        ls_task: dict[str, Any],
        project: Project | None,
        pattern: str | None,
        *,
        dry_run: bool,
    ) -> int:
        """One task; how many annotation rows changed. What is wrong with it is a line, and the rest goes on."""
        if self._is_known(project, int(ls_task["id"])):
            tally.known += 1
        else:
            try:
                self._take_in(found, tally, ls_task, project, pattern, dry_run=dry_run)
            except BadInput as error:
                tally.problems.append(str(error))
                return 0
        if dry_run or project is None:
            return 0
        return collect_task(self.database, self.blobs, project.id, ls_task, now=self.now)

    def _take_in(
        self,
        found: Found,
        tally: Tally,
        ls_task: Mapping[str, Any],
        project: Project | None,
        pattern: str | None,
        *,
        dry_run: bool,
    ) -> None:
        picture = fetch_picture(self.client, dict(ls_task), image_key=found.controls.image_key)
        if picture.sha256 in tally.hashes:
            problem = f"shows the same picture as task {tally.hashes[picture.sha256]}"
            raise BadInput(f"Label Studio task {ls_task['id']}", problem, "delete one of the two")
        tally.hashes[picture.sha256] = int(ls_task["id"])
        if not dry_run and project is not None:
            group = group_of(picture.url, pattern)
            number = int(ls_task["id"])
            take_in(
                self.database, self.blobs, project.id, number, picture, group=group, splits=tally.groups, now=self.now
            )
        height_px, width_px = picture.pixels.shape[:2]
        tally.count_picture(ls_task, width_px, height_px, found.classes)

    def _is_known(self, project: Project | None, ls_task_id: int) -> bool:
        if project is None:
            return False
        with self.database.transaction() as session:
            return tasks.by_ls_id(session, project.id, ls_task_id) is not None

    def _connect(self, found: Found, project: Project) -> None:
        """Our settings, backend and webhook; tasks that were made meanwhile are found by the poll."""
        if found.new_settings:
            self.client.update_project(found.ls_project_id, **found.new_settings)
        connect_project(
            self.database,
            KeyRing.at(self.settings.state / "key"),
            self.client,
            project.id,
            url=self.request.url,
            token=self.request.token,
            backend_url=self.settings.backend_address,
            verify=True,
        )
