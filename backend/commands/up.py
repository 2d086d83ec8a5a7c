"""`mpamatch up`: the whole embedded profile in one terminal, until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from backend.commands import stack
from backend.commands.gpus import visible_gpus
from backend.commands.migrate import migrate_database
from backend.commands.options import ForegroundOption, LabelTypeOption, StartOption, TilePxOption, UmPerPxOption
from backend.commands.ports import PortHolds, free_port
from backend.commands.startup import Startup
from backend.commands.status import collect_status
from backend.commands.supervisor import Part, Supervisor, in_background, sole_owner
from backend.credentials import ensure_credentials
from backend.label_studio_server import EmbeddedLabelStudio, find_label_studio
from backend.labelstudio.config import LabelType
from backend.logs import set_up_logs
from backend.servers import EmbeddedPostgres, EmbeddedRedis
from backend.settings import (
    Endpoints,
    Settings,
    clear_endpoints,
    inherited_environment,
    load_settings,
    save_endpoints,
)
from backend.sockets import drop_socket_folder
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.pyramid import TILE_PX, TILE_UM_PER_PX, TileScale
from mpamatch.domain.starting import choose_start
from mpamatch.errors import BadInput, Cancelled, Conflict

# A link that leads to an empty list is no good start: it is printed once tasks are there, or after this time.
FIRST_TASKS_S = 45.0


@dataclass(frozen=True)
class UpRequest:
    """What the command line asked for."""

    demo: bool = False
    images: Path | None = None
    masks: Path | None = None
    classes: tuple[str, ...] = ()
    label_studio: bool = True
    label_type: LabelType | None = None
    start: str = "auto"
    foreground: bool = False
    tile_px: int | None = None
    um_per_px: float | None = None
    group_pattern: str | None = None

    @property
    def wants_project(self) -> bool:
        """Whether a project is to be there when all runs."""
        return self.demo or self.images is not None


def up(
    demo: Annotated[bool, typer.Option("--demo", help="make a project of drawn tissue")] = False,
    images: Annotated[
        Path | None, typer.Option(help="make a project of this folder of images (or manifest, or image)")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="folder of masks with the images' names")] = None,
    classes: Annotated[str, typer.Option(help="class names, background first: background,gland")] = "",
    group_pattern: Annotated[
        str | None, typer.Option(help="regular expression that finds the patient or case in a path")
    ] = None,
    foreground: ForegroundOption = False,
    label_type: LabelTypeOption = None,
    start: StartOption = "auto",
    tile_px: TilePxOption = None,
    um_per_px: UmPerPxOption = None,
    no_label_studio: Annotated[bool, typer.Option("--no-label-studio", help="start none of our own")] = False,
    port: Annotated[int | None, typer.Option(help="first port to try for the API")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the status as JSON once all is ready")] = False,
) -> None:
    """Start databases, Label Studio, API and workers; keep them running; stop all on Ctrl-C."""
    request = _checked(
        UpRequest(
            demo,
            images,
            masks,
            _names(classes),
            not no_label_studio,
            label_type,
            start,
            foreground,
            tile_px,
            um_per_px,
            group_pattern,
        )
    )
    settings = load_settings(running=False)
    if port is not None:
        settings = settings.model_copy(update={"api_port": port})
    from backend.actions.restore_backup import interrupted

    with sole_owner(settings.state):
        if interrupted(settings.state):
            raise Conflict(str(settings.state), "holds a restore that was cut", "run the same `mpamatch restore` again")
        code = asyncio.run(_run(settings, request, as_json=as_json))
    raise typer.Exit(code)


def prepare_project(
    settings: Settings, endpoints: Endpoints, request: UpRequest, say: Callable[[str], None]
) -> Endpoints:
    """Make or find the project that was asked for, else mend the ties of those that are there (addresses may move)."""
    from backend.actions.first_project import TileWish, await_tasks, ensure_project, reconnect

    if not request.wants_project:
        project = reconnect(settings)
    else:
        project = ensure_project(
            settings,
            images=request.images,
            masks=request.masks,
            classes=request.classes,
            label_type=request.label_type,
            start=request.start,
            foreground=request.foreground,
            tiles=TileWish(request.tile_px, request.um_per_px),
            group_pattern=request.group_pattern,
        )
    if project is None:
        return endpoints
    for line in project.news:
        say(line)
    if project.label_studio_id is not None and not await_tasks(settings, project.key, limit_s=FIRST_TASKS_S):
        say("no task is there yet: the first ones come while tiles are predicted; reload Label Studio's page")
    found = {"label_studio_project": project.label_studio_id, "project_url": project.url}
    return endpoints.model_copy(update=found)


async def _run(settings: Settings, request: UpRequest, *, as_json: bool) -> int:
    console = Console(stderr=as_json)
    by_machine = settings.log_format == "json"
    if by_machine:  # people read the console, and want no more on it than the news
        set_up_logs(settings.log_format, settings.log_level)
    startup = Startup(console, logged=by_machine)
    supervisor = Supervisor(settings.state, startup.say, log_size_mb=settings.log_size_mb)
    supervisor.stop_on_signals()
    holds = PortHolds()
    try:
        with startup:
            start = asyncio.create_task(_bring_up(settings, request, supervisor, startup, holds))
            await supervisor.unless_stopped(start)
        if as_json:
            print(json.dumps({**collect_status(load_settings()), "seconds": _rounded(startup)}), flush=True)
        else:
            _print_welcome(console, settings, startup)
        await supervisor.until_stopped()
    except Cancelled:
        startup.say("stopped while starting")
    except BaseExceptionGroup as several:
        raise _first_of(several) from several
    finally:
        startup.say("stopping (Ctrl-C again: at once)")
        await supervisor.stop()
        holds.release()
        clear_endpoints(settings.state)
        for name in ("postgres", "redis"):
            drop_socket_folder(settings.state, name)
        startup.say("stopped")
    return 1 if supervisor.failure else 0


async def _bring_up(
    settings: Settings, request: UpRequest, supervisor: Supervisor, startup: Startup, holds: PortHolds
) -> None:
    """Start everything in the order of its needs; Label Studio, the slowest, beside the rest."""
    async with asyncio.TaskGroup() as group:
        label_studio = _label_studio(settings, request, startup.say, holds)
        if label_studio is not None:
            part = stack.label_studio_part(label_studio, settings.state)
            group.create_task(_start(supervisor, startup, part, "Label Studio"))
        taken = {label_studio.port} if label_studio else set()
        port = free_port(settings.api_host, settings.api_port, startup.say, what="API", taken=taken, holds=holds)
        database_url, broker_url = await _databases(settings, supervisor, startup)
        endpoints = Endpoints(
            database_url=database_url,
            broker_url=broker_url,
            api_url=settings.public_url or f"http://{settings.api_host}:{port}",
            label_studio_url=label_studio.url if label_studio else settings.label_studio_url,
        )
        save_endpoints(settings.state, endpoints)
        await _start(supervisor, startup, stack.api_part(settings, port), "API")
        trainers = stack.train_parts(settings, visible_gpus(inherited_environment()))
        for part in (stack.worker_part(settings, "io"), stack.worker_part(settings, "predict"), *trainers):
            await supervisor.start(part)
        await supervisor.start(stack.beat_part(settings))
    with startup.step("project"):
        in_use = load_settings()
        endpoints = await in_background(lambda: prepare_project(in_use, endpoints, request, startup.say))
    save_endpoints(settings.state, endpoints)


async def _databases(settings: Settings, supervisor: Supervisor, startup: Startup) -> tuple[str, str]:
    """The URLs of database (with every table) and broker, ours being started when none is configured."""
    broker_url, database_url = settings.broker_url, settings.database_url
    if broker_url is None:
        redis = EmbeddedRedis(settings.state)
        await _start(supervisor, startup, stack.broker_part(redis), "Redis")
        broker_url = redis.url
    if database_url is None:
        postgres = await in_background(lambda: EmbeddedPostgres(settings.state))
        await _start(supervisor, startup, stack.database_part(postgres), "PostgreSQL")
        await in_background(postgres.bootstrap)
        database_url = postgres.url()
    url = database_url
    with startup.step("tables"):
        await in_background(lambda: migrate_database(url))
    return database_url, broker_url


def _label_studio(
    settings: Settings, request: UpRequest, say: Callable[[str], None], holds: PortHolds
) -> EmbeddedLabelStudio | None:
    """Our own Label Studio, unless another one is configured or none is wanted."""
    if not request.label_studio or settings.label_studio_url is not None:
        return None
    host = settings.label_studio_host
    return EmbeddedLabelStudio(
        settings.state,
        program=find_label_studio(settings.label_studio_command),
        host=host,
        port=free_port(host, settings.label_studio_port, say, what="Label Studio", holds=holds),
        credentials=ensure_credentials(settings.state),
    )


async def _start(supervisor: Supervisor, startup: Startup, part: Part, name: str) -> None:
    with startup.step(name):
        await supervisor.start(part)


def _first_of(several: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure of a start; the others follow from its cancelling."""
    first = several.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


def _names(classes: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in classes.split(",") if name.strip())


def _checked(request: UpRequest) -> UpRequest:
    """The request with absolute folders. Raises `BadInput` for what cannot be meant."""
    if request.demo and request.images is not None:
        raise BadInput("--demo and --images", "exclude each other", "give one of them")
    folders = {"images": request.images, "masks": request.masks}
    for name, folder in folders.items():
        if name == "images" and folder is not None and folder.expanduser().is_file():
            continue
        if folder is not None and not folder.expanduser().is_dir():
            problem = "is no folder" if folder.expanduser().exists() else "does not exist"
            raise BadInput(f"--{name} {folder}", problem, "check the path")
    if request.label_type is not None and not request.wants_project:
        raise BadInput("--label-type", "is given without a project", "give --images FOLDER or --demo with it")
    if request.images is not None and len(request.classes) < 2:
        problem = "names one class alone" if request.classes else "is missing"
        raise BadInput("--classes", problem, 'give at least two, with commas: --classes "background,gland"')
    if request.classes:
        # Said now, and not after everything has started.
        choose_start(request.start, ClassSet.from_names(request.classes))
    if request.images is not None:
        _check_images(request)
    TileScale(request.tile_px or TILE_PX, request.um_per_px or TILE_UM_PER_PX)
    found = {name: folder.expanduser().resolve() if folder else None for name, folder in folders.items()}
    return replace(request, images=found["images"], masks=found["masks"])


def _check_images(request: UpRequest) -> None:
    """Raises BadInput when nothing would come of the images: before everything has started."""
    from backend.actions.register_source import read_source

    assert request.images is not None
    source = read_source(request.images.expanduser(), masks=request.masks, group_pattern=request.group_pattern)
    if not source.items:
        why = source.problems[0] if source.problems else "holds no PNG, JPEG, TIFF or SVS image"
        raise BadInput(f"--images {request.images}", why, "name a folder with images")


def _rounded(startup: Startup) -> dict[str, float]:
    return {name: round(seconds, 2) for name, seconds in [*startup.seconds.items(), ("all", startup.total_s)]}


def _print_welcome(console: Console, settings: Settings, startup: Startup) -> None:
    found = collect_status(load_settings(), secrets=True)
    studio = found["label_studio"]
    lines = [f"ready after {startup.total_s:.0f} s", ""]
    if studio["url"]:
        lines.append(f"  Label Studio  {studio['url']}")
    if studio.get("login"):
        lines.append(f"  login         {studio['login']}   password {studio['password']}")
    if studio["project_url"]:
        lines.append(f"  project       {studio['project_url']}")
    lines.append(f"  dashboard     {found['dashboard']['url']}   token {found['dashboard']['token']}")
    lines.append(f"  backend       {found['api']['url']}")
    lines.append(f"  logs          {found['logs']}")
    lines.append("  stop          Ctrl-C")
    # No frame and no wrapping: addresses stay whole for terminals that make links of them and for programs.
    console.print(Text("\n".join(lines)), soft_wrap=True)
