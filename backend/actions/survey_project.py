"""Look at a project of Label Studio that was made without us: what it holds and what would become of it.

Only reads. What it says is a value, so that a rehearsal and the real thing tell the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from backend.actions.collect_annotation import reading_problem
from backend.actions.connect_project import BACKEND_TITLE, SKIPPED_STAYS_SO
from backend.api_names import SECRET_HEADER
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.config import ConfigReading, LabelType, check_same_classes, read_config
from backend.labelstudio.controls import Controls
from backend.labelstudio.sources import source_of
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.tiling import tile_boxes
from mpamatch.errors import BadInput

# What the order and the suggestions need; everything else of a project's settings stays as it is.
SETTINGS: Final[Mapping[str, Any]] = {
    "sampling": "Uncertainty sampling",
    "show_collab_predictions": True,
    "enable_empty_annotation": True,
    "evaluate_predictions_automatically": False,
    "skip_queue": SKIPPED_STAYS_SO,
}


@dataclass(frozen=True)
class Found:
    """A project as it is in Label Studio."""

    ls_project_id: int
    title: str
    label_type: LabelType
    controls: Controls
    classes: ClassSet
    other_controls: tuple[str, ...]
    settings: Mapping[str, Any]
    model_version: str | None
    annotations_wanted: int
    predictions: Mapping[str, int]
    backends: tuple[str, ...]
    webhooks: tuple[str, ...]
    connected: bool

    @property
    def new_settings(self) -> dict[str, Any]:
        """Those that are to change."""
        return {name: value for name, value in SETTINGS.items() if self.settings.get(name) != value}

    def changes(self, version: str) -> list[str]:
        """What is changed in Label Studio, one line each; none when it was adopted before."""
        lines = [f"{name}: {self.settings.get(name)!r} becomes {value!r}" for name, value in self.new_settings.items()]
        if not self.connected:
            lines.append(f"the backend {BACKEND_TITLE!r} is added, with a password of its own")
            lines.append("a webhook with a secret is added; the one without, which comes with a backend, is removed")
        if self.model_version != version:
            lines.append(f"model_version: {self.model_version!r} becomes {version!r} once its predictions are there")
        return lines

    def kept(self) -> list[str]:
        """What is left alone, and what that means."""
        lines = ["the labelling configuration stays as it is"]
        lines += [f"it lacks {words}" for words in self.controls.missing]
        if self.other_controls:
            lines.append(f"other controls ({', '.join(self.other_controls)}): their results are kept, not learnt from")
        if self.predictions:
            counted = ", ".join(f"{version or 'without a version'}: {n}" for version, n in self.predictions.items())
            lines.append(f"predictions of others stay ({counted}); the order follows ours alone")
        if self.backends:
            lines.append(f"other backends stay ({', '.join(self.backends)}); Label Studio may ask them too")
        if self.annotations_wanted > 1:
            words = "tasks that somebody else labelled come first there, out of our order"
            lines.append(f"{self.annotations_wanted} annotations are wanted of each task: {words}")
        return lines


@dataclass
class Tally:
    """What tasks and annotations there are, and what of them comes in; grows task by task."""

    tasks: int = 0
    known: int = 0
    pictures: Counter[str] = field(default_factory=Counter)
    annotations: int = 0
    annotators: set[int] = field(default_factory=set)
    skipped: int = 0
    labelled_tasks: int = 0
    images: int = 0
    masks: int = 0
    larger_than_a_tile: int = 0
    groups: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def count_task(self, ls_task: Mapping[str, Any], url: object, server: str) -> None:
        """A task as it is listed, before its picture is fetched."""
        self.tasks += 1
        self.pictures[source_of(url, server)] += 1
        present = [a for a in ls_task.get("annotations") or [] if not a.get("was_cancelled")]
        self.annotations += len(present)
        self.skipped += len(ls_task.get("annotations") or []) - len(present)
        self.labelled_tasks += bool(present)
        self.annotators |= {by for a in present if (by := _person(a.get("completed_by"))) is not None}

    def count_picture(self, ls_task: Mapping[str, Any], width_px: int, height_px: int, classes: ClassSet) -> None:
        """A task whose picture could be read: which of its annotations make a mask."""
        self.images += 1
        self.larger_than_a_tile += len(tile_boxes(width_px, height_px)) > 1
        for annotation in ls_task.get("annotations") or []:
            if annotation.get("was_cancelled"):
                continue
            problem = reading_problem(annotation.get("result") or [], width_px, height_px, classes)
            if problem is None:
                self.masks += 1
            else:
                self.problems.append(f"annotation {annotation['id']} of task {ls_task['id']}: {problem}")


def look(client: LabelStudioClient, ls_project_id: int, class_names: tuple[str, ...]) -> Found:
    """The project as it is. ``class_names``: background first; none: the labels, after a background of that name.

    Raises NotFound, BadInput for a configuration that cannot be used, Conflict for other classes than its labels.
    """
    project = client.project(ls_project_id)
    reading = read_config(str(project.get("label_config") or ""))
    label_type, controls = _usable(reading, ls_project_id)
    classes = ClassSet.from_names(class_names or _default_names(reading))
    check_same_classes(reading, classes)
    backends = client.ml_backends(ls_project_id)
    hooks = client.webhooks(ls_project_id)
    ours = [b for b in backends if b.get("title") == BACKEND_TITLE]
    secret = [h for h in hooks if SECRET_HEADER in (h.get("headers") or {})]
    return Found(
        ls_project_id=ls_project_id,
        title=str(project["title"]),
        label_type=label_type,
        controls=controls,
        classes=classes,
        other_controls=reading.others,
        settings={name: project.get(name) for name in SETTINGS},
        model_version=project.get("model_version") or None,
        annotations_wanted=int(project.get("maximum_annotations") or 1),
        predictions={v: n for v, n in client.model_versions(ls_project_id).items() if n},
        backends=tuple(str(b.get("title") or b.get("url")) for b in backends if b not in ours),
        webhooks=tuple(str(h.get("url")) for h in hooks if h not in secret),
        connected=bool(ours and secret),
    )


def _usable(reading: ConfigReading, ls_project_id: int) -> tuple[LabelType, Controls]:
    item = f"labelling configuration of project {ls_project_id}"
    if reading.label_type is None or not reading.class_names:
        problem = "has no control for segmentation, or several"
        raise BadInput(item, problem, "leave one of BrushLabels, BitmaskLabels or PolygonLabels, or name one `seg`")
    if reading.image_key is None:
        raise BadInput(item, "shows no image of the task's data", "give it an Image with value $image")
    return reading.label_type, Controls.of(reading)


def _default_names(reading: ConfigReading) -> tuple[str, ...]:
    background = next((n for n in reading.class_names if n.casefold() == "background"), "background")
    return (background, *(n for n in reading.class_names if n != background))


def _person(completed_by: object) -> int | None:
    value = completed_by.get("id") if isinstance(completed_by, dict) else completed_by
    return value if isinstance(value, int) else None
