"""Networks and streams by name, to be laid under a profile, which says how long and at which scale a run trains.

Source of ``paper``: MPAMatch (arXiv 2508.19574) as far as it tells its settings; of ``strong``: UniMatch V2
(Yang et al. 2024) with low-rank tuning, and a stem where objects are small. ``light`` is what is shipped, ``tiny``
needs no weights at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpamatch.errors import BadInput

_PAPER: Mapping[str, Any] = {
    "method": "mpamatch",
    "streams": "unimatch",
    "encoder": "uni",
    "prototype_attention": True,
    "labelled_batch": 1,
    "unlabelled_batch": 1,
    "embedding_channels": 256,
    "prototypes_per_class": 5,
    "text": "conch",
    "prompts": "P-nonsim",
    "context_tokens": 1,
    "text_every": 1,
    "tau": 0.95,
    "teacher_flips": 1,
    "crop_px": 256,
    "ramp_start": 0.05,
    "ramp_end": 0.2,
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "light": {},
    "tiny": {"encoder": "tiny"},
    "paper": _PAPER,
    "bn": {**_PAPER, "decoder_norm": "batch"},
    "strong": {
        "method": "mpamatch",
        "encoder": "uni",
        "tuning": "lora",
        "skips": "auto",
        "strong_views": 2,
        "embedding_channels": 256,
        "text": "conch",
        "text_every": 1,
        "crop_px": 256,
    },
}


def preset(name: str) -> Mapping[str, Any]:
    """The knobs of a preset. Raises BadInput naming what is known."""
    if name not in PRESETS:
        raise BadInput(f"preset {name!r}", "unknown", f"known presets: {', '.join(PRESETS)}")
    return PRESETS[name]
