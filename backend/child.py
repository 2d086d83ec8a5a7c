"""A tiny program between the supervisor and a server: it ties the server's life to the supervisor's, then becomes it.

Started by path in isolated mode, before any package is importable; so it imports the standard library alone.
    child.py --parent PID --signal N [--user UID:GID] [--nice N] -- PROGRAM ARGUMENTS...
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Drop to the given account, ask the kernel for a signal when the parent dies, and exec the program."""
    cut = arguments.index("--")
    options = dict(zip(arguments[:cut:2], arguments[1:cut:2], strict=True))
    command = arguments[cut + 1 :]
    if "--nice" in options:
        os.nice(int(options["--nice"]))
    if "--user" in options:
        user, group = (int(part) for part in options["--user"].split(":"))
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
    _die_with_parent(int(options["--parent"]), int(options["--signal"]))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: cannot be started: {error.strerror}")


def _die_with_parent(parent: int, signal_number: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    # After the change of account: the kernel forgets the wish when credentials change.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    # The parent may have died before the wish was heard.
    if os.getppid() != parent:
        sys.exit("the supervisor is gone")


if __name__ == "__main__":
    main(sys.argv[1:])
