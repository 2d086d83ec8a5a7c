"""How much people agree where two of them labelled one tile."""

from __future__ import annotations

import math

import numpy as np
from sqlalchemy.orm import Session

from backend.store import projects, tallies
from backend.store.tables import Project
from mpamatch.domain.agreement import Agreement, Pair, agreements
from mpamatch.domain.reliability import Precision


def see_agreement(session: Session, project: Project) -> tuple[Agreement, ...]:
    """All pairs together first, then each two people by user number of Label Studio, or token or command; empty where
    no tile has two."""
    count = projects.classes_of(project).count
    pairs = [
        Pair(one.tile_id, one.group, (one.first, one.second), _matrix(one.counts, count), one.split == "audit")
        for one in tallies.compared(session, project.id)
        if one.counts
    ]
    return agreements(pairs, Precision(), seed=project.seed)


def _matrix(counts: list[int], class_count: int) -> np.ndarray:
    """Square, with nothing in the classes that came later."""
    side = math.isqrt(len(counts))
    found = np.zeros((class_count, class_count), np.int64)
    found[:side, :side] = np.array(counts, np.int64).reshape(side, side)
    return found
