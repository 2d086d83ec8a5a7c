"""Options that several commands share and that need nothing loaded."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.labelstudio.config import LabelType

LabelTypeOption = Annotated[
    LabelType | None, typer.Option(help="how people label a new project; unset: brush. It stays as it was made")
]
ForegroundOption = Annotated[
    bool, typer.Option("--foreground", help="any mask value above 0 is the second class (instances, 0/255)")
]
TilePxOption = Annotated[
    int | None,
    typer.Option("--tile-px", help="side of a new project's tiles in px; unset: 1024. It stays as it was made"),
]
UmPerPxOption = Annotated[
    float | None,
    typer.Option(
        "--um-per-px", help="micrometres per px of a new project's tiles, where an image's scale is known; unset: 0.5"
    ),
]
StartOption = Annotated[
    str,
    typer.Option(help="what a new project begins with: starter, encoder or blank; auto: the starter for glands"),
]
