"""GeoJSON files as plain values, within limits. Knows nothing of what the objects mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mpamatch.errors import BadInput

LIMIT_BYTES = 512 * 1024**2


def read_geojson(path: Path) -> Any:
    """The values of a JSON file. Raises BadInput: cannot be read, over 512 MiB, no JSON, nested without end."""
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise BadInput(str(path), "is over 512 MiB", "export fewer objects")
        return json.loads(path.read_bytes(), parse_constant=_refuse)
    except OSError as error:
        raise BadInput(str(path), f"cannot be read ({error.strerror})", "check that it is a file") from error
    except (ValueError, RecursionError) as error:
        problem = f"is no JSON ({type(error).__name__}: {str(error)[:100]})"
        raise BadInput(str(path), problem, "export it again") from error


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no number")
