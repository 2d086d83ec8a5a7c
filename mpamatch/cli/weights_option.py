"""The options that say where published encoder weights may come from, the same for every command that loads a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WeightsDir = Annotated[
    Path | None,
    typer.Option(help="A folder of encoder weights as NAME.safetensors, .pth or .bin, or one such file.", exists=True),
]
AllowHub = Annotated[bool, typer.Option("--allow-hub", help="Fetch encoder weights that are not here from the hub.")]
