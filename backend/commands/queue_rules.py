"""`mpamatch queue rules`: what a project's queue asks for, below which confidence, by which strategy and shares."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from backend.commands.opened import JsonOption, ProjectOption, opened
from backend.store import projects
from mpamatch.domain.policy import Policy
from mpamatch.domain.strategy_names import SIMULATION_ONLY, STRATEGY_NAMES
from mpamatch.errors import BadInput

_NAMES = ", ".join(name for name in STRATEGY_NAMES if name not in SIMULATION_ONLY)
_TAU_OF = re.compile(r"(?P<name>.+)=(?P<tau>\d*\.?\d+)?")
_KNOBS = ("strategy", "rank_by", "head_size", "exploration_share", "audit_share", "artefact_cosine", "tau")


def rules(
    strategy: Annotated[str | None, typer.Option(help=f"how the head is chosen: {_NAMES}")] = None,
    rank_by: Annotated[
        str | None, typer.Option(help="what a label costs counts by its root (score), or in full (worth-per-minute)")
    ] = None,
    head_size: Annotated[int | None, typer.Option(help="tiles that stand in Label Studio")] = None,
    exploration_share: Annotated[float | None, typer.Option(help="of the head, drawn by chance: 0 to 1")] = None,
    audit_share: Annotated[
        float | None, typer.Option(help="of the head, audit tiles until the gate has enough of them: 0 to 0.5")
    ] = None,
    artefact_cosine: Annotated[
        float | None, typer.Option(help="cosine with an artefact above which a tile goes to the end; 1: none does")
    ] = None,
    tau: Annotated[
        float | None, typer.Option(help="confidence below which a place is asked about: 0.5 to 1; for new predictions")
    ] = None,
    tau_of: Annotated[
        list[str] | None,
        typer.Option(help="another tau for one class: gland=0.9; gland= takes it away. May be given several times"),
    ] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose how the queue is ordered, or show it. A change makes a new order at the next look."""
    values = (strategy, rank_by, head_size, exploration_share, audit_share, artefact_cosine, tau)
    given = zip(_KNOBS, values, strict=True)
    changes: dict[str, Any] = {name: value for name, value in given if value is not None}
    with opened() as here:
        with here.database.transaction() as session:
            row = projects.choose(session, project)
            if tau_of:
                changes["tau_by_class"] = _taus(projects.policy_of(row).tau_by_class, tau_of)
            policy = projects.changed_policy(row, changes)
            writes = policy != projects.policy_of(row)
            if writes:
                projects.change_policy(session, row, changes, actor="operator")
            found = {"project": row.key, **_rules(policy), "written": writes}
        if writes:
            here.wakeups.sync(row.id)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    said = [f"{name.replace('_', ' ')} {found[name]}" for name in _KNOBS]
    said += [f"of {name} {value}" for name, value in found["tau_by_class"].items()]
    print(f"{found['project']}: {', '.join(said)}{' (set)' if writes else ''}")


def _rules(policy: Policy) -> dict[str, Any]:
    return {name: getattr(policy, name) for name in (*_KNOBS, "tau_by_class")}


def _taus(before: Mapping[str, float], typed: Sequence[str]) -> dict[str, float]:
    """By class as it was, with what was typed. Raises BadInput."""
    found = dict(before)
    for one in typed:
        parts = _TAU_OF.fullmatch(one)
        if parts is None or (parts["tau"] is None and parts["name"] not in found):
            raise BadInput(f"--tau-of {one}", "names no class and its tau", "write --tau-of gland=0.9")
        if parts["tau"] is None:
            del found[parts["name"]]
        else:
            found[parts["name"]] = float(parts["tau"])
    return found
