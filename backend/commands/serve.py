"""`mpamatch serve`: the HTTP API on its own; torch is barred from the process before anything else is imported."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on")] = None,
) -> None:
    """Serve the API, the Label Studio protocol and the images of tiles."""
    # A None here sends every `import torch` down its ImportError path, in other people's packages too.
    sys.modules["torch"] = None  # type: ignore[assignment]
    import uvicorn

    from backend.api.app import create_app
    from backend.settings import load_settings

    settings = load_settings()
    uvicorn.run(
        create_app(settings),
        host=host or settings.api_host,
        port=port or settings.api_port,
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
    )
