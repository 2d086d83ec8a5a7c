"""`mpamatch connect`: tie every project to a Label Studio, or mend the tie."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from pydantic import SecretStr

from backend.actions import first_project
from backend.commands.opened import opened
from backend.labelstudio.client import LabelStudioClient
from mpamatch.errors import BadInput


def connect(
    url: Annotated[str | None, typer.Argument(help="address of Label Studio; unset: the one that `up` runs")] = None,
    token: Annotated[
        str | None, typer.Option(help="its token (legacy or personal access)", envvar="LABEL_STUDIO_TOKEN")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Make each project's counterpart in Label Studio with our backend and webhook, and check that it answers."""
    with opened() as here:
        settings = here.settings
        if url is not None:
            if token is None:
                raise BadInput("--token", "is missing", "copy it from Label Studio's account page")
            settings = settings.model_copy(
                update={"label_studio_url": url.rstrip("/"), "label_studio_token": SecretStr(token)}
            )
        if settings.label_studio_url is None or settings.label_studio_token is None:
            raise BadInput("Label Studio", "is not configured", "give its address and --token")
        LabelStudioClient(settings.label_studio_url, settings.label_studio_token.get_secret_value()).current_user()
        made = first_project.connect_all(settings, here.database)
        rows = {project_id: first_project.project_url(settings, there) for project_id, there in made.items()}
    if as_json:
        print(json.dumps(rows))
        return
    for address in rows.values():
        print(address)
    if not rows:
        print("connected; no project yet: `mpamatch register FOLDER --classes background,gland`")
