"""Both directions to Label Studio: that we reach it and may speak, how it is set up, and that it reaches us."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from backend.actions.connect_project import ACTIONS, BACKEND_TITLE, SKIPPED_STAYS_SO
from backend.api_names import SECRET_HEADER
from backend.doctor.check import Check, fail, failed_by, ok, skipped, warn
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.config import check_same_classes, read_config
from mpamatch.domain.classes import ClassSet
from mpamatch.errors import MpamatchError, NotFound

TESTED = "1.23.2"
CONNECTED = "CO"
LOOK_S = 10.0
GUARD = (
    "a Label Studio that `mpamatch up` did not start refuses loopback and private addresses: start it with"
    " ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false, or with USE_DEFAULT_BANNED_SUBNETS=false and"
    " USER_ADDITIONAL_BANNED_SUBNETS set to what it shall refuse"
)


@dataclass(frozen=True)
class Tie:
    """What we believe of one project's connection. ``address``: our backend, as Label Studio should know it."""

    key: str
    url: str
    ls_project_id: int
    token: str
    secret: str | None
    address: str
    classes: ClassSet
    label_type: str
    shown_version: str | None
    champion: str
    live_tasks: int
    annotations: int
    deliveries: int
    adopted: bool


@dataclass(frozen=True)
class LookedAtServer:
    """``ahead_s``: how far its clock is ahead of ours; None when it was not reached."""

    checks: list[Check]
    ahead_s: float | None


def check_server(url: str, tokens: Mapping[str, str], *, name: str, now: Callable[[], datetime]) -> LookedAtServer:
    """Reachable, version, and each token by the item that it is checked under. ``name`` is the server's item."""
    parts = (f"{name} version", *tokens)
    before = now()
    try:
        answer = httpx.get(f"{url}/health", timeout=LOOK_S, trust_env=False)
        release = httpx.get(f"{url}/api/version", timeout=LOOK_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        remedy = "start it, or correct MPAMATCH_LABEL_STUDIO_URL and run `mpamatch connect`"
        problem = f"no answer from {url} ({type(error).__name__})"
        return LookedAtServer([fail(name, problem, remedy), *(skipped(p, "it is not reached") for p in parts)], None)
    if answer.status_code != 200:
        problem = f"{url} answers {answer.status_code} when asked whether it is well"
        remedy = "see its log; check that this address is a Label Studio"
        return LookedAtServer([fail(name, problem, remedy), *(skipped(p, "it is not well") for p in parts)], None)
    checks = [ok(name, f"{url} answers"), judge_release(parts[0], _release(release))]
    checks += [_check_token(item, url, token) for item, token in tokens.items()]
    ahead_s = None
    if "date" in answer.headers:
        ahead_s = (parsedate_to_datetime(answer.headers["date"]) - before).total_seconds()
    return LookedAtServer(checks, ahead_s)


def _release(answer: httpx.Response) -> str:
    try:
        found = answer.json()
        return str(found.get("release") or (found.get("label-studio-os-package") or {}).get("version"))
    except (ValueError, AttributeError):
        return "unknown"


def judge_release(item: str, release: str) -> Check:
    """Its API changes between versions; one is tried."""
    if release != TESTED:
        return warn(item, f"{release}; tried is {TESTED}", f"expect surprises, or install label-studio=={TESTED}")
    return ok(item, release)


def _check_token(item: str, url: str, token: str) -> Check:
    kind = "a personal access token" if token.strip().count(".") == 2 else "a legacy token"
    try:
        with LabelStudioClient(url, token, timeout_s=LOOK_S) as client:
            user = client.current_user()
    except MpamatchError as error:
        remedy = f"{error.remedy}; then `mpamatch connect {url} --token TOKEN`"
        return fail(item, f"{kind} is not accepted: {error.problem}", remedy)
    return ok(item, f"{kind} of user {user.get('id')}")


def check_tie(tie: Tie, *, ours: bool, api_well: bool) -> list[Check]:
    """One project: its counterpart and settings there, our backend and webhook, and the way back to us.

    ``ours``: `mpamatch up` runs this Label Studio. ``api_well``: our API answers from here.
    """
    name = f"project {tie.key}"
    try:
        with LabelStudioClient(tie.url, tie.token, timeout_s=60.0) as client:
            there = client.project(tie.ls_project_id)
            # Asking for the backends makes Label Studio call our /health and /setup: that is the way back.
            backends = client.ml_backends(tie.ls_project_id)
            hooks = client.webhooks(tie.ls_project_id)
    except NotFound:
        remedy = "restore it from a backup of Label Studio, or register the images as a new project"
        return [fail(f"{name}: counterpart", f"project {tie.ls_project_id} is gone from {tie.url}", remedy)]
    except MpamatchError as error:
        return [failed_by(f"{name}: counterpart", error)]
    guard = "" if ours or not is_private(tie.address) else f"; {GUARD}"
    return [
        ok(f"{name}: counterpart", f"project {tie.ls_project_id} of {tie.url}"),
        _config(f"{name}: labelling config", tie, str(there.get("label_config") or "")),
        _order(f"{name}: order", there, adopted=tie.adopted),
        _version(f"{name}: model version", tie, str(there.get("model_version") or "")),
        *_backend(name, tie, backends, guard, api_well=api_well),
        *_webhook(name, tie, hooks, guard),
    ]


def _config(item: str, tie: Tie, xml: str) -> Check:
    try:
        reading = read_config(xml)
        check_same_classes(reading, tie.classes)
    except MpamatchError as error:
        return fail(item, f"{error.item}: {error.problem}", error.remedy)
    if reading.label_type != tie.label_type:
        problem = f"is labelled with {reading.label_type}, but the project was made for {tie.label_type}"
        return fail(item, problem, f"set the control `seg` back to {tie.label_type} in Label Studio")
    parts = {"review": reading.review, "scope": reading.scope, "$why": reading.why, "seg": reading.seg}
    missing = [part for part, is_there in parts.items() if not is_there]
    if missing:
        remedy = "add them in Label Studio as in a project that `mpamatch register` makes; without, whole tiles count"
        return warn(item, f"lacks {', '.join(missing)}", remedy)
    return ok(item, f"{reading.label_type}, {', '.join(reading.class_names)}")


# Field, the value that keeps our order and our predictions, and where people find it.
_ORDER: tuple[tuple[str, Any, str], ...] = (
    ("sampling", "Uncertainty sampling", "Task Sampling: Uncertainty sampling"),
    ("maximum_annotations", 1, "Annotations per task: 1"),
    ("show_collab_predictions", True, "Use predictions to prelabel tasks: on"),
    ("evaluate_predictions_automatically", False, "Retrieve predictions automatically: off"),
    ("skip_queue", SKIPPED_STAYS_SO, "Skip queue: ignore skipped, or others are asked for what one skipped"),
)


def _order(item: str, there: Mapping[str, Any], *, adopted: bool) -> Check:
    """An adopted project keeps the number of annotations that it wants."""
    wrong = [(name, there.get(name), how) for name, wanted, how in _ORDER if there.get(name, wanted) != wanted]
    if adopted and [name for name, _, _ in wrong] == ["maximum_annotations"]:
        problem = f"each task wants {wrong[0][1]} annotations, as it was adopted: it is shown until it has them"
        return warn(item, problem, "nothing, if that is meant; else Annotations per task: 1 in its settings there")
    if wrong:
        told = ", ".join(f"{name} is {value!r}" for name, value, _ in wrong)
        hows = "; ".join(how for _, _, how in wrong)
        return fail(item, f"{told}: tasks do not come in our order", f"in the project's settings there, {hows}")
    return ok(item, "tasks come in the order of the queue")


def _version(item: str, tie: Tie, version: str) -> Check:
    if not tie.live_tasks or tie.shown_version is None:
        return skipped(item, "no task is there yet")
    if version != tie.shown_version:
        problem = f"is {version or 'empty'}, while the tasks show {tie.shown_version}: their order is random"
        return fail(item, problem, "the worker `io` sets it at its next look; see its log if this stays")
    if version != tie.champion:
        return warn(item, f"{version}; the champion is {tie.champion}", "wait: its predictions are made first")
    return ok(item, version)


def _backend(name: str, tie: Tie, backends: list[dict[str, Any]], guard: str, *, api_well: bool) -> list[Check]:
    item, back = f"{name}: backend", f"{name}: way back"
    right = [b for b in backends if b.get("url") == tie.address]
    if not right:
        others = [str(b.get("url")) for b in backends if b.get("title") == BACKEND_TITLE]
        problem = f"points to {others[0]}, not to {tie.address}" if others else f"{tie.address} is not registered"
        return [fail(item, problem, f"`mpamatch connect`{guard}"), skipped(back, "there is no backend to ask")]
    found = ok(item, f"{tie.address} is registered")
    if not api_well:
        return [found, skipped(back, "our API does not answer from here either")]
    state, said = str(right[0].get("state")), str(right[0].get("error_message") or "it gets no answer")
    if state != CONNECTED:
        problem = f"Label Studio does not reach {tie.address} as it should: {said[:200]}"
        remedy = "check that its machine reaches this address (MPAMATCH_BACKEND_URL); if so, delete the backend there"
        return [found, fail(back, problem, f"{remedy} and run `mpamatch connect`{guard}")]
    return [found, ok(back, "Label Studio reaches our backend")]


def _webhook(name: str, tie: Tie, hooks: list[dict[str, Any]], guard: str) -> list[Check]:
    item, secret = f"{name}: webhook", f"{name}: webhook secret"
    address = f"{tie.address}/webhook"
    there = [hook for hook in hooks if hook.get("url") == address]
    if not there:
        problem = f"{address} is not registered: labels arrive with the poll only"
        return [fail(item, problem, f"`mpamatch connect`{guard}"), skipped(secret, "there is no webhook")]
    hearing = [hook for hook in there if hook.get("is_active", True) and not _unheard(hook)]
    if not hearing:
        why = (
            "is switched off" if not there[0].get("is_active", True) else f"leaves out {', '.join(_unheard(there[0]))}"
        )
        remedy = "delete it there and run `mpamatch connect`"
        return [fail(item, f"{address} {why}", remedy), skipped(secret, "the webhook is of no use")]
    found = ok(item, f"{address} is registered")
    expected = (tie.secret or "").encode()
    given = [str((hook.get("headers") or {}).get(SECRET_HEADER, "")).encode() for hook in hearing]
    with_secret = [one for one in given if expected and hmac.compare_digest(one, expected)]
    if not with_secret:
        problem = "does not carry this project's secret: what it sends is refused"
        return [found, fail(secret, problem, "`mpamatch connect` puts one with the secret in its place")]
    return [found, ok(secret, "is this project's"), _deliveries(f"{name}: deliveries", tie, guard)]


def _deliveries(item: str, tie: Tie, guard: str) -> Check:
    """Label Studio asks its guard again for every delivery, so one that is registered may still never arrive."""
    if tie.annotations and not tie.deliveries:
        problem = f"{tie.annotations} annotations were found by the poll, and no webhook ever arrived"
        return warn(item, problem, f"check that Label Studio's machine reaches {tie.address}{guard}")
    return ok(item, f"{tie.deliveries} webhooks arrived")


def _unheard(hook: Mapping[str, Any]) -> list[str]:
    if hook.get("send_for_all_actions"):
        return []
    return sorted(set(ACTIONS) - set(hook.get("actions") or ()))


def is_private(address: str) -> bool:
    """Whether an address leads to a network that Label Studio refuses by default. A name is looked up."""
    host = urlsplit(address).hostname or ""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return any(not ipaddress.ip_address(str(one).partition("%")[0]).is_global for one in found)
