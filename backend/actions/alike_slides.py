"""Slides that show the same tissue take one group, so that no tissue is in both splits.

Looks at slides only: their small levels cost little, and plain pictures of one case often look alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backend.actions.register_images import RegisterItem
from backend.store import images
from backend.store.sessions import Database
from mpamatch.domain.likeness import SIDE_PX, Look, Seen, groups_by_look
from mpamatch.errors import MpamatchError
from mpamatch.files.slides import WholeImage, open_slide, overview, resampled, slide_size

SLIDE_SUFFIXES = frozenset({".tif", ".tiff", ".svs", ".ndpi", ".scn"})
# The small picture is made from one of this side, so that every pixel of it is a mean.
_FROM_PX = 16 * SIDE_PX


@dataclass(frozen=True)
class Grouped:
    """The items with the groups that they take, and one line for each that changed."""

    items: tuple[RegisterItem, ...]
    notes: tuple[str, ...]


def group_alike(database: Database, project_id: int, items: Sequence[RegisterItem]) -> Grouped:
    """Compare the slides among ``items`` whose group nobody named with each other and with those of the project.

    A slide that cannot be opened is left as it is: registering it tells why.
    """
    unnamed = [i for i in items if not i.group_named and i.path.suffix.lower() in SLIDE_SUFFIXES]
    if not unnamed:
        return Grouped(tuple(items), ())
    with database.transaction() as session:
        known = {Path(uri): group for uri, group in images.groups_of_files(session, project_id)}
    here = {i.path for i in items}
    seen = [
        *(_seen(path, group, True) for path, group in known.items() if path not in here and _is_slide(path)),
        *(
            _seen(i.path, known.get(i.path, i.group), i.group_named or i.path in known)
            for i in items
            if _is_slide(i.path)
        ),
    ]
    moved = groups_by_look([s for s in seen if s is not None])
    notes = tuple(
        f"{name}: shows the same tissue as {twin}, so it is of its group {group}; a manifest can say otherwise"
        for name, (group, twin) in moved.items()
    )
    found = (replace(i, group=moved[str(i.path)][0]) if str(i.path) in moved else i for i in items)
    return Grouped(tuple(found), notes)


def _is_slide(path: Path) -> bool:
    return path.suffix.lower() in SLIDE_SUFFIXES and path.is_file()


def _seen(path: Path, group: str, named: bool) -> Seen | None:
    try:
        with open_slide(path) as slide:
            if isinstance(slide, WholeImage):
                return None
            width, height = slide_size(slide)
            small = resampled(overview(slide, _FROM_PX, str(path)), (SIDE_PX, SIDE_PX))
            return Seen(str(path), group, named, Look(small, width / height))
    except MpamatchError:
        return None
