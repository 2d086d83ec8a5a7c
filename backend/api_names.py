"""Names that both sides of the Label Studio connection use: the one who answers and the one who connects."""

from __future__ import annotations

ML_PATH = "/ml"
USER = "label-studio"
SECRET_HEADER = "X-Mpamatch-Secret"
