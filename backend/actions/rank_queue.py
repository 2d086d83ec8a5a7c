"""Rank what waits: read the champion's regions, ask the domain, write the next generation and flip to it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from backend.actions.fit_costs import fitted_costs
from backend.actions.read_embeddings import ModelEmbeddings
from backend.store import events, generations, look_alikes, masks, models, predictions, projects
from backend.store import pool as pools
from backend.store.blobs import BlobStore
from backend.store.sessions import Database
from backend.store.tables import Model, Project, Ranking
from mpamatch.domain.cost import CostModel
from mpamatch.domain.cost_fit import worth_an_order
from mpamatch.domain.look_alikes import Marks
from mpamatch.domain.look_alikes import look_alikes as find_look_alikes
from mpamatch.domain.policy import Policy
from mpamatch.domain.pool import Pool
from mpamatch.domain.ranked import Ranked
from mpamatch.domain.ranking import rank
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.record import RankedBy
from mpamatch.domain.strategies import strategy
from mpamatch.domain.survey import Labelled

REVIEW: Final = (
    "its mask came with the images and nobody has looked at it here; what you see is the model's suggestion:"
    " please go over the whole tile"
)


@dataclass(frozen=True)
class _Facts:
    """What one order is made of, as read in one transaction."""

    champion: Model
    digest: str
    policy: Policy
    ranking: RankingPolicy
    seed: int
    round_number: int
    pool: Pool
    labelled: Labelled
    marks: Marks
    imported: frozenset[int]


def rank_queue(database: Database, project_id: int, *, blobs: BlobStore | None = None) -> bool:
    """Rank if the champion has seen every tile and the order is stale; True when a new generation went live.

    It is stale when another model serves, when a tile is not in it, when its policy is another, when labels take much
    more or less time than it was ranked by, and when other tiles are marked as artefacts: what looks like one goes to
    the end. ``blobs`` hold the champion's embeddings; without them nothing is novel, and nothing looks like anything.
    """
    with database.transaction() as session:
        facts = _facts(session, projects.get(session, project_id))
    if facts is None:
        return False
    champion = facts.champion
    ranked = _ranked(facts, None if blobs is None else ModelEmbeddings(database, blobs, champion.id))
    # Whole, since boxes would take the rest of the mask out of training.
    notes = {tile: REVIEW for tile in ranked.tile_ids.tolist() if tile in facts.imported}
    with database.transaction() as session:
        generation = generations.write_generation(
            session,
            projects.get(session, project_id),
            ranked,
            model_id=champion.id,
            config_hash=facts.digest,
            artefacts=facts.marks.artefacts.tolist(),
            notes=notes,
        )
    with database.transaction() as session:
        project = projects.get(session, project_id)
        if project.champion_id != champion.id:
            return False
        generations.flip_to(session, project, generation, model_id=champion.id)
        told = {"entries": len(ranked), "model": champion.version, "strategy": facts.policy.strategy}
        events.record(
            session,
            project_id=project_id,
            actor="ranking",
            what="queue ranked",
            subject=f"queue:{generation}",
            after={**told, "sunk": ranked.sunk_count},
        )
    return True


def _facts(session: Session, project: Project) -> _Facts | None:
    """None while the live order stands, or the champion has not seen every tile."""
    pools.join_in_memory(session)
    champion, policy = projects.champion(session, project), projects.policy_of(project)
    taus = policy.taus(projects.classes_of(project))
    marked = look_alikes.artefacts(session, project.id, champion.id)
    live = generations.live(session, project)
    # What is quick to tell comes first: the last two look at every tile and at every label.
    stale = (
        project.ranked_model_id != champion.id
        or live is None
        or live.config_hash != _digest(policy, taus, project, champion, _ranking_policy(live).cost)
        or live.artefacts != marked
        or pools.unranked(session, project)
        or _costs_moved(session, project, live, champion)
    )
    if not stale or predictions.missing_for(session, project.id, champion.id, live_tasks_only=False):
        return None
    fit = fitted_costs(session, project.id).overall
    audit = [m for m in masks.current(session, project.id) if m.split == "audit"]
    # Read before the pool, so that a mask that comes in between is not taken for one to be gone over.
    imported = masks.imported_tile_ids(session, project.id)
    return _Facts(
        champion=champion,
        digest=_digest(policy, taus, project, champion, fit.model),
        policy=policy,
        ranking=policy.ranking_with(
            audit_tiles=len(audit), audit_groups=len({m.group for m in audit}), taus=taus, cost=fit.model
        ),
        seed=project.seed,
        round_number=models.rounds(session, project.id),
        pool=pools.read_pool(session, project, champion.id),
        labelled=pools.labelled(session, project.id),
        marks=look_alikes.marks(session, project.id, marked),
        imported=imported,
    )


def _ranked(facts: _Facts, seen: ModelEmbeddings | None) -> Ranked:
    ranked = rank(
        facts.pool,
        facts.ranking,
        seed=facts.seed,
        round_number=facts.round_number,
        blank=facts.champion.kind == "blank",
        embed=None if seen is None else seen.of_tiles,
        labelled=facts.labelled,
    )
    if seen is None:
        return ranked
    first = ranked.asked[: facts.ranking.front_tiles]
    return ranked.sunk(find_look_alikes(first, facts.marks, seen.of_whole_tiles, facts.ranking.artefact_cosine))


def _ranking_policy(live: Ranking) -> RankingPolicy:
    return RankedBy.from_json(live.ranked_by).policy


def _costs_moved(session: Session, project: Project, live: Ranking, champion: Model) -> bool:
    """Whether labels take so much more or less than the live order was ranked by that another one is worth it."""
    by = _ranking_policy(live)
    if champion.kind == "blank" or not strategy(by.strategy).weighs_costs:
        return False
    return worth_an_order(fitted_costs(session, project.id).overall, by.cost, most_clicks=by.full_cost_clicks)


def _digest(policy: Policy, taus: tuple[float, ...], project: Project, champion: Model, cost: CostModel) -> str:
    """Of all that decides an order but the tiles and their labels; what only the audit share hangs on is left out."""
    knobs = policy.ranking_with(audit_tiles=0, audit_groups=0, taus=taus, cost=cost).to_json()
    return hashlib.sha256(json.dumps([knobs, project.seed, champion.version], sort_keys=True).encode()).hexdigest()[:16]
