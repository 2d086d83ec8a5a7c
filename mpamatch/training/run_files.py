"""The files of a run folder by name, beside ``run.json``: what a run leaves and others look for. No torch here."""

from __future__ import annotations

PROGRESS_NAME, RESULT_NAME, ERROR_NAME = "progress.jsonl", "result.json", "error.json"
MODEL_NAME, CHECKPOINT_NAME = "model", "checkpoint"
CURVES_NAME, TENSORBOARD_NAME = "curves.png", "tensorboard"
