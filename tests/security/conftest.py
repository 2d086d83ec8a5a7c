"""The site over a project with hostile names, as the tests of the dashboard make it."""

from __future__ import annotations

from tests.backend.dashboard.conftest import made, visit

__all__ = ["made", "visit"]
