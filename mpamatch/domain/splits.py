"""Which groups (patients, cases) train and which judge: decided once for each group, stable as the pool grows.

Pure. Reads no image and knows no tile: a spatial split of a single slide is a matter of tiles and lies elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

from mpamatch.errors import BadInput

Split = Literal["train", "audit"]

AUDIT_SHARE = 0.2


def assign_splits(
    known: Mapping[str, str], new_groups: Iterable[str], *, audit_share: float = AUDIT_SHARE
) -> dict[str, str]:
    """The split of every group: what is known stays for good, new ones are taken in the order of their hash.

    A new group goes to ``audit`` while audit holds less than ``audit_share`` of all groups, else to ``train``; so two
    groups already give one of each. A single group is ``train``: with nothing to judge on, it is better to learn.
    The order of ``new_groups`` and repeated names do not matter.

    >>> sorted(assign_splits({}, ["a", "b"]).values())
    ['audit', 'train']
    """
    assigned = dict(known)
    arriving = sorted(set(new_groups) - assigned.keys(), key=_hash)
    total = len(assigned) + len(arriving)
    audits = sum(split == "audit" for split in assigned.values())
    for group in arriving:
        audit = total > 1 and audits < audit_share * total
        assigned[group] = "audit" if audit else "train"
        audits += audit
    return assigned


def _hash(group: str) -> tuple[str, str]:
    return hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest(), group


def check_apart(trained: Iterable[tuple[str, str]], judged: Iterable[tuple[str, str]]) -> None:
    """Refuse a run whose labelled and pool images share a name or a group with those that judge it.

    Both are (name, group). Raises BadInput naming the first such image that trains; nothing when they are apart.

    >>> check_apart([("a", "patient 1")], [("b", "patient 2")])
    """
    names, holders = set[str](), dict[str, str]()
    for name, group in judged:
        names.add(name)
        holders.setdefault(group, name)
    for name, group in trained:
        if name in names:
            raise BadInput(f"image {name}", "both trains and judges", "name it in one split alone")
        if group in holders:
            problem = f"its {group!r} is also that of {holders[group]}, which judges"
            raise BadInput(f"image {name}", problem, "keep whole groups (patients, cases) in one split")
