"""What a person names to be registered (a folder, a manifest, one image) as items with mask, group, scale and split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.actions.register_images import RegisterItem
from mpamatch.errors import BadInput, NotFound
from mpamatch.files.folders import scan_folder
from mpamatch.files.manifest import read_manifest

MANIFEST_SUFFIX = ".csv"


@dataclass(frozen=True)
class Source:
    """The images to register, and one line for each thing that was left out."""

    items: tuple[RegisterItem, ...]
    problems: tuple[str, ...]


def read_source(
    path: Path, *, masks: Path | None = None, group_pattern: str | None = None, foreground: bool = False
) -> Source:
    """A folder with everything below it, the rows of a manifest (CSV), or one image with the mask beside it.

    Raises NotFound for nothing there, BadInput for a manifest that is none or comes with options that it replaces.
    """
    if path.suffix.lower() == MANIFEST_SUFFIX and not path.is_dir():
        return _of_manifest(path, masks, group_pattern, foreground)
    one = path.resolve() if path.is_file() else None
    if one is None and not path.is_dir():
        raise NotFound(str(path), "no such folder, manifest or image", "check the path")
    scan = scan_folder(path.parent if one else path, masks=masks, group_pattern=group_pattern)
    items = [i for i in scan.items if one is None or i.image == one]
    if one is not None and not items:
        raise BadInput(str(path), "is no image by its name", "give a folder, a manifest (.csv) or an image file")
    return Source(
        tuple(
            RegisterItem(
                path=i.image,
                group=i.group,
                mask=i.mask,
                foreground=foreground,
                # The scan falls back on the image's own path where neither a folder nor a pattern tells a group.
                group_named=not i.group.endswith(i.image.name),
            )
            for i in items
        ),
        scan.problems if one is None else (),
    )


def _of_manifest(path: Path, masks: Path | None, group_pattern: str | None, foreground: bool) -> Source:
    if masks is not None or group_pattern is not None:
        option = "--masks" if masks is not None else "--group-pattern"
        raise BadInput(option, "is given with a manifest", "use the manifest's columns mask and group")
    manifest = read_manifest(path)
    return Source(
        tuple(
            RegisterItem(
                path=i.image,
                group=i.group,
                mask=i.mask,
                split=i.split,
                um_per_px=i.um_per_px,
                foreground=foreground,
                group_named=i.group_named,
            )
            for i in manifest.items
        ),
        manifest.problems,
    )


def title_of(path: Path) -> str:
    """What a project over a source is called: as its folder or file."""
    whole = path.resolve()
    name = whole.stem if whole.is_file() else whole.name
    return name if len(name) >= 3 else f"images {name}".strip()
