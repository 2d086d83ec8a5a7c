"""`mpamatch recipe`: the knobs of a run and their values."""

from __future__ import annotations

import json
from typing import Annotated

import typer

METHOD_HELP = (
    "supervised, mean-teacher, cps, fixmatch, unimatch, unimatch-ema, mpamatch-image, mpamatch-text or mpamatch."
)


def recipe(
    profile: Annotated[str, typer.Option(help="demo, small or medium.")] = "demo",
    method: Annotated[str | None, typer.Option(help=METHOD_HELP)] = None,
    preset: Annotated[str | None, typer.Option(help="light, tiny, paper, bn or strong.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Show the recipe of a profile; without options the one that is shipped."""
    from mpamatch.domain.recipe import Recipe

    chosen = Recipe.for_profile(profile, method, preset=preset)
    values = chosen.to_json()
    print(json.dumps(values) if as_json else "\n".join(f"{name:22} {value}" for name, value in values.items()))
