"""A person's own prompt file, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mpamatch.domain.prompts import PROMPT_SETS


def write_prompts(path: Path, *names: str, aliases: tuple[str, ...] = (), **sets: Any) -> Path:
    """A file that says ``my SET NAME`` of each class; ``aliases`` are of the last one, ``sets`` replace its sets."""
    rows = [{"name": n, "aliases": [], "sets": {s: [f"my {s} {n}"] for s in PROMPT_SETS}} for n in names]
    rows[-1]["aliases"] = list(aliases)
    rows[-1]["sets"] |= {name.replace("_", "-"): texts for name, texts in sets.items()}  # type: ignore[operator]
    path.write_text(json.dumps({"dataset": "mine", "classes": rows}), encoding="utf-8")
    return path
