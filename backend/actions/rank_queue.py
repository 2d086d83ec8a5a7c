"""Rank what waits: read the champion's regions, ask the domain, write the next generation and flip to it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from backend.store import events, masks, models, predictions, projects, queue
from backend.store.sessions import Database
from mpamatch.domain.ranking import RankedTile, rank

REVIEW = (
    "its mask came with the images and nobody has looked at it here; what you see is the model's suggestion:"
    " please go over the whole tile"
)


def rank_queue(database: Database, project_id: int) -> bool:
    """Rank if the champion has seen every tile and the order is stale; True when a new generation went live."""
    with database.transaction() as session:
        project = projects.get(session, project_id)
        champion = projects.champion(session, project)
        stale = project.ranked_model_id != champion.id or queue.unranked(session, project)
        if not stale or predictions.missing_for(session, project_id, champion.id, live_tasks_only=False):
            return False
        policy = projects.policy_of(project)
        audit = [m for m in masks.current(session, project_id) if m.split == "audit"]
        tiles = queue.candidates(session, project_id, champion.id)
        masked = masks.labelled_tile_ids(session, project_id)
        round_number = sum(m.kind == "trained" for m in models.promoted(session, project_id))
        seed = project.seed
    ranking = policy.ranking_with(audit_tiles=len(audit), audit_groups=len({m.group for m in audit}))
    ranked = rank(tiles, ranking, seed=seed, round_number=round_number, blank=champion.kind == "blank")
    ranked = tuple(_for_review(entry) if entry.tile_id in masked else entry for entry in ranked)
    digest = hashlib.sha256(json.dumps([policy.to_json(), seed, champion.version], sort_keys=True).encode()).hexdigest()
    with database.transaction() as session:
        project = projects.get(session, project_id)
        if project.champion_id != champion.id:
            return False
        generation = queue.write_generation(
            session, project, ranked, model_id=champion.id, round_number=round_number, config_hash=digest[:16]
        )
        events.record(
            session,
            project_id=project_id,
            actor="ranking",
            what="queue ranked",
            subject=f"queue:{generation}",
            after={"entries": len(ranked), "model": champion.version},
        )
    return True


def _for_review(entry: RankedTile) -> RankedTile:
    """Whole, since boxes would take the rest of the mask out of training."""
    return replace(entry, region_ids=(), reasons=(REVIEW, *entry.reasons))
