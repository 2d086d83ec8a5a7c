"""What a new project begins with: the starter model, its encoder alone, or nothing learned from tissue. Pure."""

from __future__ import annotations

import re
from typing import Literal, get_args

from mpamatch.domain.classes import ClassSet
from mpamatch.errors import BadInput

Start = Literal["starter", "encoder", "blank"]
"""``starter``: it serves at once and is trained on; ``encoder``: nothing serves, runs begin from the starter's
encoder and a fresh head; ``blank``: nothing serves, runs begin from the encoder's general weights."""

STARTS: tuple[str, ...] = get_args(Start)

# What the starter has seen as its second class, under the names people give it. Whole words or their beginnings.
_GLAND_LIKE = re.compile(
    r"\b(gland|crypt|acin|epithel|tumou?r|cancer|(adeno)?carcinoma|adenoma|malignan|neoplas|foreground)", re.IGNORECASE
)
_NOT_GLAND_LIKE = re.compile(r"\b(stroma|lymph|necro|vessel|muscle|nucle|glomerul|(fat|non|not|no)\b)", re.IGNORECASE)


def choose_start(wanted: str, classes: ClassSet) -> Start:
    """The start for a project's classes: ``auto`` takes the starter where it can know the second class.

    Raises BadInput for an unknown word, and for ``starter`` with another number of classes than its two.

    >>> choose_start("auto", ClassSet.from_names(["background", "gland"]))
    'starter'
    >>> choose_start("auto", ClassSet.from_names(["background", "tumour", "stroma"]))
    'encoder'
    """
    if wanted == "auto":
        return "starter" if is_gland_like(classes) else "encoder"
    for start in STARTS:
        if wanted == start:
            if start == "starter" and classes.count != 2:
                problem = f"knows two classes, the project has {classes.count}"
                raise BadInput("start 'starter'", problem, "start from its encoder: --start encoder")
            return start  # type: ignore[return-value]  # one of STARTS
    raise BadInput(f"start {wanted!r}", "is unknown", f"one of auto, {', '.join(STARTS)}")


def is_gland_like(classes: ClassSet) -> bool:
    """Whether these are two classes whose second goes by a name for glands, crypts or tumour epithelium."""
    if classes.count != 2:
        return False
    name = re.sub(r"[^a-z]+", " ", classes.names[1].casefold())
    return bool(_GLAND_LIKE.search(name)) and not _NOT_GLAND_LIKE.search(name)
