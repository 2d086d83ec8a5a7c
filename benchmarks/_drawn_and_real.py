"""The picture of drawn and real tissue side by side, docs/images/drawn-and-real.png.

Not one of `make bench`: it needs EBHI-Seg. Nothing is picked: the drawn tiles are the first ones of a seed, the real
ones stand at equal steps through the published train list.

    .venv/bin/python benchmarks/_drawn_and_real.py --ebhi DIR --out docs/images/drawn-and-real.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

# Benchmarks are run as files; the repository's root is then not on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mpamatch.datasets import open_dataset
from mpamatch.datasets.drawn.wide import draw_wide
from mpamatch.files.images import read_image

SEED = 0
TILE_PX, SHOWN_PX, GAP_PX = 224, 150, 14
COLUMNS, ROWS = 4, 4


def side_by_side(drawn: Sequence[Image.Image], real: Sequence[Image.Image]) -> Image.Image:
    """Drawn tiles in the left block, real ones in the right; 256 colours, for a small file."""
    width = COLUMNS * SHOWN_PX
    sheet = Image.new("RGB", (2 * width + GAP_PX, ROWS * SHOWN_PX), "white")
    for left, tiles in ((0, drawn), (width + GAP_PX, real)):
        for at, tile in enumerate(tiles):
            row, column = divmod(at, COLUMNS)
            shown = tile.resize((SHOWN_PX, SHOWN_PX), Image.Resampling.LANCZOS)
            sheet.paste(shown, (left + column * SHOWN_PX, row * SHOWN_PX))
    return sheet.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ebhi", type=Path, required=True, help="the folder that holds EBHI-SEG and splits")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    count = COLUMNS * ROWS
    drawn = [Image.fromarray(tile.image) for tile in draw_wide(SEED, count, TILE_PX)]
    items = open_dataset("ebhi", options.ebhi).items("train")
    real = [Image.fromarray(read_image(items[at * len(items) // count].image)) for at in range(count)]
    side_by_side(drawn, real).save(options.out, "PNG", optimize=True)


if __name__ == "__main__":
    main()
