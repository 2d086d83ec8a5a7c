"""What people see while the parts start: what is being waited for, since when, and what is done."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

LOG = logging.getLogger("mpamatch.up")


class Startup:
    """Steps with their seconds: drawn in place on a terminal, one line per finished step elsewhere.

    With ``logged`` the news are log lines instead, for whoever reads those by program.
    """

    def __init__(self, console: Console, *, logged: bool = False) -> None:
        self.console = console
        self._logged = logged
        self.seconds: dict[str, float] = {}
        self._open: dict[str, float] = {}
        self._began = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Startup:
        if self.console.is_terminal and not self._logged:
            self._live = Live(console=self.console, get_renderable=self._picture, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    @property
    def total_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show `name` as waited for while the block runs; steps may overlap."""
        self._open[name] = time.monotonic()
        try:
            yield
        except BaseException:
            self._open.pop(name)
            raise
        self.seconds[name] = time.monotonic() - self._open.pop(name)
        self.say(f"{name}: ready after {self.seconds[name]:.1f} s")

    def say(self, line: str) -> None:
        """One line of news."""
        if self._logged:
            LOG.info("%s", line)
            return
        self.console.print(Text(line), soft_wrap=True)

    def _picture(self) -> Group:
        now = time.monotonic()
        lines = [Spinner("dots", Text(f"{name} ... {now - since:.0f} s")) for name, since in self._open.items()]
        return Group(*lines)
