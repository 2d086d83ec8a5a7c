"""The pages. Each reads in one transaction, and hands plain values to its template."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from backend.actions.fit_costs import see_costs
from backend.actions.see_agreement import see_agreement
from backend.actions.see_image import PER_PAGE, see_image
from backend.actions.see_people import see_people
from backend.actions.see_queue import see_queue
from backend.actions.see_ring import see_depth, see_ranked_at, see_ring
from backend.actions.see_runs import read_losses, see_learning, see_run, see_runs
from backend.actions.see_tile import see_tile
from backend.clock import utc_now
from backend.dashboard import charts, words
from backend.dashboard.numerals import numerals
from backend.dashboard.parts import chosen, page, parts_of, place_of
from backend.dashboard.stations import happening, stations
from backend.dashboard.trouble import troubles
from backend.store import images, projects
from mpamatch.domain.ranked import STRATA

REFRESH_S = (10, 60)
# Drawn in about the size in which they are shown, so that their texts stay as large as the page's.
_FULL, _WIDE, _NARROW = (1126, 340), (760, 300), (340, 260)
# A slide has more tiles than a page should load pictures of; beyond this they are shaded squares.
MOST_PICTURES = 64


def first(request: Request) -> Response:
    """The only project at once, else the list of all."""
    with parts_of(request).database.transaction() as session:
        found = projects.all_of(session)
        if len(found) == 1:
            return RedirectResponse(place_of(request, found[0]).path, status_code=303)
        rows = [
            {
                "place": place_of(request, p),
                "champion": projects.champion(session, p).version,
                "counts": images.counts(session, p.id),
            }
            for p in found
        ]
    return page(request, "projects.html", {"rows": rows})


def ring(request: Request) -> Response:
    """Live state, trouble, queue depth and learning curve of one project."""
    parts, now = parts_of(request), utc_now()
    with parts.database.transaction() as session:
        project = chosen(session, request)
        place, label_studio_url = place_of(request, project), project.ls_url
        seen = see_ring(session, project, now=now)
        learning = see_learning(session, project)
        told = parts.knowing.of(session, project)
    refresh = request.query_params.get("refresh", "")
    values = {
        "place": place,
        "ring": seen,
        "stations": stations(seen, now),
        "happening": happening(seen, now),
        "troubles": troubles(
            seen,
            state=parts.settings.state,
            label_studio_url=label_studio_url,
            watch=parts.watch,
            drift=told.drift,
            now=now,
        ),
        "bars": charts.depth_bars(seen.depth),
        "learning": learning,
        "stopping": told.stopping,
        "curves": [
            ("wide", charts.learning_curve(learning, width=_WIDE[0], height=_WIDE[1])),
            ("narrow", charts.learning_curve(learning[-8:], width=_NARROW[0], height=_NARROW[1])),
        ],
        "refresh_s": next((s for s in REFRESH_S if refresh == str(s)), None),
    }
    return page(request, "ring.html", values)


def queue(request: Request) -> Response:
    """The ranked list with pictures and reasons."""
    stratum = request.query_params.get("stratum") or None
    if stratum is not None and stratum not in STRATA:
        raise HTTPException(404, "no such stratum")
    with parts_of(request).database.transaction() as session:
        project = chosen(session, request)
        found = see_queue(session, project, page=_page_number(request), stratum=stratum)
        place, bars = place_of(request, project), charts.depth_bars(see_depth(session, project))
        ranked_at = see_ranked_at(session, project)
    values = {"place": place, "found": found, "stratum": stratum, "bars": bars, "ranked_at": ranked_at}
    return page(request, "queue.html", values)


def tile(request: Request) -> Response:
    """Why one tile was chosen."""
    with parts_of(request).database.transaction() as session:
        project = chosen(session, request)
        seen = see_tile(session, project, request.path_params["tile_id"])
        place, classes = place_of(request, project), projects.classes_of(project)
        policy = projects.policy_of(project)
    taus = words.taus(policy.tau, policy.tau_by_class)
    numbers = numerals(seen.regions, seen.width_px, seen.height_px)
    values = {"place": place, "tile": seen, "classes": classes.foreground, "taus": taus, "numbers": numbers}
    return page(request, "tile.html", values)


def image(request: Request) -> Response:
    """Where the champion is in doubt over one image, and its tiles."""
    number = _page_number(request)
    with parts_of(request).database.transaction() as session:
        project = chosen(session, request)
        seen = see_image(session, project, request.path_params["image_id"])
        place = place_of(request, project)
    pages = max(1, -(-len(seen.tiles) // PER_PAGE))
    number = min(number, pages)
    values = {
        "place": place,
        "image": seen,
        "listed": seen.tiles[(number - 1) * PER_PAGE : number * PER_PAGE],
        "page_number": number,
        "pages": pages,
        "pictured": len(seen.tiles) <= MOST_PICTURES,
    }
    return page(request, "image.html", values)


def runs(request: Request) -> Response:
    """All runs, the newest first."""
    number = _page_number(request)
    with parts_of(request).database.transaction() as session:
        project = chosen(session, request)
        found, more = see_runs(session, project, page=number)
        place = place_of(request, project)
    return page(request, "runs.html", {"place": place, "runs": found, "page_number": number, "more": more})


def run(request: Request) -> Response:
    """One run: why, how far, its losses, its verdict."""
    parts = parts_of(request)
    with parts.database.transaction() as session:
        project = chosen(session, request)
        seen = see_run(session, project, request.path_params["number"])
        place = place_of(request, project)
    losses = read_losses(parts.settings.state / "runs" / seen.folder)
    sizes = (("full", *_FULL), ("wide", *_WIDE), ("narrow", *_NARROW))
    drawn = [
        (name, charts.loss_chart(losses, words.LOSSES, width=width, height=height))
        for name, width, height in sizes
        if losses is not None
    ]
    return page(request, "run.html", {"place": place, "run": seen, "losses": losses, "loss_charts": drawn})


def people(request: Request) -> Response:
    """What each annotator did."""
    with parts_of(request).database.transaction() as session:
        project = chosen(session, request)
        found, costs = see_people(session, project), see_costs(session, project)
        place, agreement = place_of(request, project), see_agreement(session, project)
    values = {"place": place, "people": found, "costs": costs, "agreement": agreement}
    return page(request, "people.html", values)


def _page_number(request: Request) -> int:
    given = request.query_params.get("page", "1")
    number = int(given) if given.isascii() and given.isdigit() and len(given) < 7 else 0
    if number < 1:
        raise HTTPException(404, "no such page")
    return number
