"""A supervisor of tiny children as a program of its own, so that a test can kill it.

python -m tests.flows.supervised STATE NAME=CODE ...
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from backend.commands.supervisor import Part, Supervisor, sole_owner


async def keep(state: Path, parts: list[Part]) -> None:
    supervisor = Supervisor(state, lambda line: print(line, flush=True))
    supervisor.stop_on_signals()
    for part in parts:
        await supervisor.start(part)
    print("ready", flush=True)
    await supervisor.until_stopped()
    await supervisor.stop()
    print("stopped", flush=True)


def main() -> None:
    state = Path(sys.argv[1])
    pairs = (argument.split("=", 1) for argument in sys.argv[2:])
    parts = [
        Part(role=name, command=[sys.executable, "-c", code], environment=dict(os.environ), stop_rank=0, grace_s=20)
        for name, code in pairs
    ]
    with sole_owner(state):
        asyncio.run(keep(state, parts))


if __name__ == "__main__":
    main()
