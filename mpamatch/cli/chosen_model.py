"""Which model a command's option names: the starter, a folder, or a registered version.

The library knows folders and its own starter. Where versions are registered it does not know: whoever does offers a
function under the entry point group ``mpamatch.model_sources``, name -> folder or None, and is asked last.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

from mpamatch.errors import BadInput, NotFound
from mpamatch.files.model_archive import find_model
from mpamatch.files.starter import STARTER, starter_folder

GROUP = "mpamatch.model_sources"
HELP = "starter, a registered version, or the folder that train wrote."


def choose_model(name: str) -> Path:
    """The folder of a model. Raises NotFound when nothing goes by that name, BadInput when it is damaged."""
    if name == STARTER:
        return find_model(starter_folder())
    if Path(name).is_dir():
        return find_model(Path(name))
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            find = entry.load()
        except ImportError:
            continue  # the package that keeps versions is not installed; folders work without it
        found: Path | None = find(name)
        if found is not None:
            return find_model(found)
    if Path(name).exists():
        raise BadInput(f"model {name}", "is a file", "give the folder that `mpamatch train --out` wrote")
    problem = "no such model folder, and no version of that name is registered here"
    raise NotFound(f"model {name}", problem, "give starter, a version of `mpamatch models list`, or a folder")
