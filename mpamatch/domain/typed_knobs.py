"""Knobs of a recipe as people type them: ``tau=0.9``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mpamatch.errors import BadInput


def parse_knobs(pairs: Sequence[str], where: str) -> dict[str, Any]:
    """Knobs by name; what is not JSON is text. Raises BadInput, whose item begins with ``where``.

    >>> parse_knobs(["tau=0.9", "method=fixmatch"], "--set")
    {'tau': 0.9, 'method': 'fixmatch'}
    """
    knobs: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise BadInput(f"{where} {pair}", "has no =", "write tau=0.9")
        try:
            knobs[name] = json.loads(text)
        except ValueError:
            knobs[name] = text
    return knobs
