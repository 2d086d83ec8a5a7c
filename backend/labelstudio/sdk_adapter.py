"""A project behind HumanSignal's own ML server: one class that passes every question on to our API.

For people who run `label-studio-ml` already; everybody else connects Label Studio to our API itself. This file runs in
an environment of its own (`requirements/label-studio-ml.txt`) and imports nothing else of ours, so it may be copied to
another machine:

    eval "$(mpamatch projects access)"
    .venv-label-studio-ml/bin/python backend/labelstudio/sdk_adapter.py --port 9091

Three things of label-studio-ml 1.0.9 are put right, since Label Studio needs them: `/setup` names our version and not
`INITIAL`; `/webhook` passes everything on, START_TRAINING too, which 1.0.9 drops; `GET /versions` exists. The class is
also written for 2.x, which calls `setup` and `fit` itself.
"""

from __future__ import annotations

import argparse
import atexit
import base64
import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import flask
from label_studio_ml import api
from label_studio_ml.model import LabelStudioMLBase

try:
    import label_studio_ml.response  # noqa: F401  # what only 2.x has

    SECOND = True
except ImportError:
    SECOND = False

PREFIX = "MPAMATCH_PROJECT_"
WAIT_S = 60.0
DEFAULT_PORT = 9091


class BackendError(Exception):
    """Our API refused, or did not answer; ``status`` is what to pass on."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


@dataclass(frozen=True)
class Backend:
    """One project's address at our API, and what it asks for."""

    url: str
    user: str
    password: str

    @classmethod
    def from_environment(cls) -> Backend:
        """MPAMATCH_PROJECT_URL, _USER and _PASSWORD. Raises BackendError naming what is missing."""
        found = {name: os.environ.get(PREFIX + name, "") for name in ("URL", "USER", "PASSWORD")}
        missing = [PREFIX + name for name, value in found.items() if not value]
        if missing:
            raise BackendError(500, f"{', '.join(missing)}: not set; `mpamatch projects access` prints them")
        if not found["URL"].startswith(("http://", "https://")):
            raise BackendError(500, f"{PREFIX}URL: is no http(s) address; `mpamatch projects access` prints it")
        return cls(found["URL"].rstrip("/"), found["USER"], found["PASSWORD"])

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The JSON answer to one request below the project's address. Raises BackendError."""
        sign = base64.b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")
        headers = {"Authorization": f"Basic {sign}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=body, headers=headers, method=method)
        # No proxy of the environment may see the password.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=WAIT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise BackendError(error.code, f"{method} {path}: answered with {error.code}") from error
        except (OSError, ValueError) as error:
            raise BackendError(502, f"{method} {path}: no answer from {self.url} ({error})") from error

    def version(self) -> str:
        """The version whose predictions are shown now."""
        return str(self.ask("POST", "/setup", b"{}")["model_version"])


class MpamatchModel(LabelStudioMLBase):
    """A project's stored predictions, and the way for labels and requests to train."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Under a server that `label-studio-ml init` wrote, the first request that makes a model is where we come in.
        if not SECOND and flask.has_request_context():
            app = flask.current_app._get_current_object()  # type: ignore[attr-defined]
            if adopt(app) and flask.request.path == "/setup":
                flask.after_this_request(_with_our_version)

    def setup(self) -> None:
        """Called by 2.x alone: the version that `/setup` answers."""
        self.set("model_version", Backend.from_environment().version())

    def predict(self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any) -> list[dict[str, Any]]:
        """One stored prediction per task, with the version it carries; both servers take a list."""
        # Our API reads nothing but the number of a task, and Label Studio sends megabytes with it.
        body = json.dumps({"tasks": [{"id": task.get("id")} for task in tasks]}).encode()
        results: list[dict[str, Any]] = Backend.from_environment().ask("POST", "/predict", body)["results"]
        return results

    def fit(self, *args: Any, event: str | None = None, data: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Nothing trains here: the event is passed on. 2.x calls ``fit(event, data)``, 1.0.9 with names."""
        if event is None and args and isinstance(args[0], str):
            event, data = args[0], (args[1] if len(args) > 1 else data)
        body = json.dumps({**(data or {}), "action": event}).encode()
        answer = Backend.from_environment().ask("POST", "/webhook", body)
        return {"event": event, **answer}


def adopt(app: Any) -> bool:
    """Put right what 1.0.9 answers on this Flask application; False when that has been done."""
    if getattr(app, "mpamatch_adopted", False):
        return False
    app.mpamatch_adopted = True
    original = app.view_functions["_setup"]
    app.view_functions["_setup"] = lambda: _with_our_version(app.make_response(original()))
    app.view_functions["webhook"] = _passed_on
    try:
        app.add_url_rule("/versions", "mpamatch_versions", _versions, methods=["GET"])
    except AssertionError:  # a debug server that has begun to answer takes no more routes
        app.logger.warning("GET /versions stays unanswered in debug mode")
    return True


def make_app(model_dir: str | None = None) -> Any:
    """The Flask application of the installed label-studio-ml with our class in it. Raises BackendError."""
    Backend.from_environment()
    if SECOND:
        return api.init_app(MpamatchModel)
    if model_dir is None:  # 1.0.9 insists on one and would keep the results of its own jobs there; we have none
        model_dir = tempfile.mkdtemp(prefix="mpamatch-adapter-")
        atexit.register(shutil.rmtree, model_dir, ignore_errors=True)
    app = api.init_app(MpamatchModel, model_dir=model_dir)
    adopt(app)
    return app


def _with_our_version(response: Any) -> Any:
    if response.status_code == 200:
        try:
            response.set_data(json.dumps({"model_version": Backend.from_environment().version()}))
        except BackendError as error:
            return _refusal(error)
    return response


def _passed_on() -> Any:
    """A webhook word for word, with the password that Label Studio's own webhook does not carry."""
    try:
        return flask.jsonify(Backend.from_environment().ask("POST", "/webhook", flask.request.get_data())), 201
    except BackendError as error:
        return _refusal(error)


def _versions() -> Any:
    try:
        return flask.jsonify(Backend.from_environment().ask("GET", "/versions"))
    except BackendError as error:
        return _refusal(error)


def _refusal(error: BackendError) -> Any:
    response = flask.jsonify({"detail": str(error)})
    response.status_code = error.status
    return response


def main(arguments: list[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="a project behind label-studio-ml's own server")
    parser.add_argument("--host", default="127.0.0.1", help="1.0.9 asks for no password: keep it on the loopback")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    options = parser.parse_args(arguments)
    try:
        app = make_app()
    except BackendError as error:
        parser.exit(1, f"{error}\n")
    app.run(host=options.host, port=options.port, threaded=True)


if __name__ == "__main__":
    main()
