"""`mpamatch connect`: tie every project to a Label Studio, mend the tie, or adopt a project that is there already."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from backend.actions import first_project
from backend.actions.adopt_project import Adoption, AdoptReport, AdoptRequest
from backend.clock import utc_now
from backend.commands.opened import Opened, opened, progress_bar, show
from backend.commands.options import StartOption
from backend.labelstudio.client import LabelStudioClient
from backend.settings import Settings
from backend.store import projects
from mpamatch.errors import BadInput


def connect(
    url: Annotated[str | None, typer.Argument(help="address of Label Studio; unset: the one that `up` runs")] = None,
    token: Annotated[
        str | None, typer.Option(help="its token (legacy or personal access)", envvar="LABEL_STUDIO_TOKEN")
    ] = None,
    project: Annotated[
        int | None, typer.Option(help="number of a project there, to adopt with its tasks and annotations")
    ] = None,
    classes: Annotated[str, typer.Option(help="its classes, background first; unset: its labels as they are")] = "",
    group_pattern: Annotated[
        str | None,
        typer.Option(help="regular expression that finds the patient or case in a picture's path; unset: its name"),
    ] = None,
    start: StartOption = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what adopting would do, and change nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Make each project's counterpart in Label Studio with our backend and webhook, or adopt one that exists."""
    names = tuple(name.strip() for name in classes.split(",") if name.strip())
    if project is None and (dry_run or names or group_pattern is not None):
        raise BadInput("--project", "is missing", "name the project to adopt by its number in Label Studio's address")
    with opened() as here:
        address, secret = _server(here.settings, url, token)
        with LabelStudioClient(address, secret, timeout_s=here.settings.label_studio_timeout_s) as client:
            client.current_user()
            if project is not None:
                request = AdoptRequest(project, address, secret, names, group_pattern, start)
                report = _adopt(here, client, request, dry_run=dry_run)
                say_adopted(report, as_json=as_json)
                return
        settings = here.settings.model_copy(
            update={"label_studio_url": address, "label_studio_token": SecretStr(secret)}
        )
        with here.database.transaction() as session:
            adopted = {p.ls_url for p in projects.all_of(session) if p.ls_elsewhere}
        # A new token for another server that projects were adopted from does not move ours there.
        other = address in adopted and here.settings.label_studio_url not in (None, address)
        made = first_project.connect_all(settings, here.database, elsewhere=address if other else None)
        with here.database.transaction() as session:
            found = projects.all_of(session)
        rows = {p.id: first_project.project_url(settings, p, made[p.id]) for p in found if p.id in made}
        problems = [f"{p.key}: {p.ls_problem}" for p in found if p.ls_problem is not None]
    for problem in problems:
        print(problem, file=sys.stderr)
    if as_json:
        print(json.dumps(rows))
        return
    for link in rows.values():
        print(link)
    if not rows:
        print("connected; no project yet: `mpamatch register FOLDER --classes background,gland`")


def _server(settings: Settings, url: str | None, token: str | None) -> tuple[str, str]:
    if url is not None:
        if token is None:
            raise BadInput("--token", "is missing", "copy it from Label Studio's account page")
        return url.rstrip("/"), token
    if settings.label_studio_url is None or settings.label_studio_token is None:
        raise BadInput("Label Studio", "is not configured", "give its address and --token")
    return settings.label_studio_url, settings.label_studio_token.get_secret_value()


def _adopt(here: Opened, client: LabelStudioClient, request: AdoptRequest, *, dry_run: bool) -> AdoptReport:
    adoption = Adoption(here.settings, here.database, here.blobs, client, request, now=utc_now())
    with progress_bar("looking" if dry_run else "adopting") as bar:
        report = adoption.run(dry_run=dry_run, progress=bar)
    if not dry_run and report.project_id is not None:
        here.wakeups.sync(report.project_id, full=True)
        here.wakeups.predict()
    return report


def as_row(report: AdoptReport) -> dict[str, Any]:
    """For machines: what was found, what is or would be changed in Label Studio, what came or would come in."""
    found, tally = report.found, report.tally
    return {
        "dry_run": report.dry_run,
        "project": report.key,
        "label_studio_project": found.ls_project_id,
        "title": found.title,
        "found": {
            "tasks": tally.tasks,
            "pictures": dict(tally.pictures),
            "annotations": tally.annotations,
            "labelled_tasks": tally.labelled_tasks,
            "annotators": len(tally.annotators),
            "skipped": tally.skipped,
            "label_type": found.label_type,
            "classes": list(found.classes.names),
            "predictions": dict(found.predictions),
            "backends": list(found.backends),
            "webhooks": list(found.webhooks),
        },
        "changes": list(report.changes),
        "kept": found.kept(),
        "imports": {
            "known_tasks": tally.known,
            "images": tally.images,
            "masks": tally.masks,
            "changed_labels": report.changed_labels,
            "groups": len(tally.groups),
            "audit_groups": sum(split == "audit" for split in tally.groups.values()),
            "larger_than_a_tile": tally.larger_than_a_tile,
            "problems": tally.problems,
        },
    }


def say_adopted(report: AdoptReport, *, as_json: bool) -> None:
    """Print it, for people or for machines."""
    row = as_row(report)
    if as_json:
        print(json.dumps(row, indent=2))
        return
    found, imports = row["found"], row["imports"]
    pictures = ", ".join(f"{n} {kind}" for kind, n in found["pictures"].items()) or "none"
    lines = [
        ("found", f"{found['tasks']} tasks (pictures: {pictures}), {imports['known_tasks']} of them known here"),
        ("found", f"{found['annotations']} annotations of {found['annotators']} people, {found['skipped']} skips"),
        ("found", f"{found['label_type']} labels; classes {', '.join(found['classes'])}"),
        *(("found", f"a webhook to {url}, which stays unless it is ours") for url in found["webhooks"]),
        *(("would change there" if report.dry_run else "changed there", line) for line in row["changes"]),
        *(("kept there", line) for line in row["kept"]),
    ]
    word = "would come in" if report.dry_run else "came in"
    lines.append((word, f"{imports['images']} images, {imports['masks']} masks"))
    lines.append((word, f"{imports['groups']} groups, {imports['audit_groups']} of them for the audit"))
    if imports["larger_than_a_tile"]:
        words = "each is shown and labelled whole; to have it cut into tiles, register the file instead"
        lines.append((word, f"larger than a tile: {imports['larger_than_a_tile']} of them; {words}"))
    lines += [("left out", line) for line in imports["problems"]]
    title = f"{found_title(report)}: {'a rehearsal, nothing was changed' if report.dry_run else 'adopted'}"
    show([{"what": what, "line": line} for what, line in lines], ("what", "line"), as_json=False, title=title)


def found_title(report: AdoptReport) -> str:
    """How the project is called here and there."""
    there = f"project {report.found.ls_project_id} ({report.found.title})"
    return there if report.key is None else f"{report.key}, {there}"
