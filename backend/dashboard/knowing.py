"""The page that tells whether it works: confidence against labels, taus, gains and their cost."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from backend.actions.advise_stopping import advise_stopping
from backend.actions.audit_tau import audit_tau
from backend.dashboard import words
from backend.dashboard.parts import chosen, page, parts_of, place_of
from backend.dashboard.reliability_chart import reliability_chart

_SIDE_PX = 380


def audit(request: Request) -> Response:
    """Reliability of all classes or of one, suggested taus, champions side by side, and what labels brought."""
    with parts_of(request).database.transaction() as session:
        project = chosen(session, request)
        found, stopping = audit_tau(session, project), advise_stopping(session, project)
        place = place_of(request, project)
    class_id = _class(request, len(found.class_names))
    shown = found.audit[0 if class_id is None else class_id + 1]
    tau = found.tau if class_id is None else found.taus[class_id]
    own = {name: one for name, one in zip(found.class_names, found.taus, strict=True) if one != found.tau}
    values = {
        "place": place,
        "found": found,
        "stopping": stopping,
        "class_id": class_id,
        "taus": words.taus(found.tau, own),
        "shown_taus": words.taus(tau, own if class_id is None else {}),
        "shown": shown,
        "chart": reliability_chart(shown.bins, tau, width=_SIDE_PX, height=_SIDE_PX),
    }
    return page(request, "audit.html", values)


def _class(request: Request, count: int) -> int | None:
    """The class that is asked for; None for all of them."""
    given = request.query_params.get("class")
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 4 and int(given) < count):
        raise HTTPException(404, "no such class")
    return int(given)
