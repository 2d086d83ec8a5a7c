"""`mpamatch draw`: drawn tissue with exact masks, as a folder to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def draw(
    out: Annotated[Path, typer.Option(help="Where the tiles go.", file_okay=False)],
    tiles: Annotated[int, typer.Option(min=1, help="How many tiles.")] = 240,
    groups: Annotated[int, typer.Option(min=1, help="Folders that the tiles are dealt to, as of patients.")] = 12,
    size: Annotated[int, typer.Option(min=16, help="Width and height of a tile in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same tiles.")] = 20250827,
    variety: Annotated[str, typer.Option(help="wide, or plain as in the demo project.")] = "wide",
) -> None:
    """Draw H&E-like gland tissue with exact masks: OUT/PATIENT/image, OUT/PATIENT/label.

    Wide tiles also have the number of each gland in OUT/PATIENT/label/instances (16-bit grey). Cut short, the same
    command completes the folder. Train on it with --dataset phantom --root OUT.
    """
    from mpamatch.datasets import phantom

    drawn = phantom.write_folder(
        out,
        tiles=tiles,
        groups=min(groups, tiles),
        size_px=size,
        seed=seed,
        variety=variety,  # type: ignore[arg-type]  # checked there
    )
    print(f"{len(drawn)} tiles of {size} px in {out}")
