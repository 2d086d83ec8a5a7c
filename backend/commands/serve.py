"""`mpamatch serve`: API and dashboard on their own; torch is barred from the process before all other imports."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on")] = None,
) -> None:
    """Serve the dashboard, the Label Studio protocol and the images of tiles."""
    # A None here sends every `import torch` down its ImportError path, in other people's packages too.
    sys.modules["torch"] = None  # type: ignore[assignment]
    import uvicorn

    from backend.logs import set_up_logs
    from backend.settings import load_settings
    from backend.site import create_site

    settings = load_settings()
    set_up_logs(settings.log_format, settings.log_level)
    settings = settings.model_copy(update={"api_host": host or settings.api_host})  # it is answered under this name
    uvicorn.run(
        create_site(settings),
        host=settings.api_host,
        port=port or settings.api_port,
        log_config=None,
        access_log=False,
        server_header=False,
        # Of uvicorn's two parsers the one that stops reading a head that grows too large.
        http="h11",
        h11_max_incomplete_event_size=settings.header_limit_kb * 1024,
        timeout_graceful_shutdown=3,
    )
