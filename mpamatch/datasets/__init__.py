"""Published data sets, plain folders and drawn tissue behind one face. Knows files, no network, no project.

A new layout is a module here and a line in ``_OPENERS``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mpamatch.datasets.crag import open_crag
from mpamatch.datasets.ebhi import open_ebhi
from mpamatch.datasets.folder import open_folder
from mpamatch.datasets.glas import open_glas
from mpamatch.datasets.items import Dataset, DatasetItem
from mpamatch.datasets.kpis import open_kpis
from mpamatch.datasets.phantom import open_phantom
from mpamatch.errors import BadInput

__all__ = ["DATASET_NAMES", "Dataset", "DatasetItem", "open_dataset"]

_OPENERS: dict[str, Callable[..., Dataset]] = {
    "folder": open_folder,
    "glas": open_glas,
    "ebhi": open_ebhi,
    "ebhi-gland": partial(open_ebhi, subset="gland"),
    "ebhi-cancer": partial(open_ebhi, subset="cancer"),
    "crag": open_crag,
    "kpis": open_kpis,
    "phantom": open_phantom,
}
DATASET_NAMES = tuple(_OPENERS)


def open_dataset(name: str, root: Path, *, subset: str | None = None) -> Dataset:
    """A data set by the name of its layout. ``subset`` picks a task where a data set has several (ebhi: gland, cancer);
    ``ebhi-gland`` and ``ebhi-cancer`` are names for the same.

    Raises BadInput for an unknown name or subset or a folder without its images, NotFound when ``root`` is missing.
    """
    if name not in _OPENERS:
        raise BadInput(f"data set {name!r}", "unknown", f"known: {', '.join(DATASET_NAMES)}")
    if subset is None:
        return _OPENERS[name](root)
    if name != "ebhi":
        raise BadInput(f"subset {subset!r}", f"{name} has no subsets", "leave it out")
    return open_ebhi(root, subset=subset)
