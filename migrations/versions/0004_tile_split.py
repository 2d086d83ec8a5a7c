"""Tiles: a split of their own where it is not their image's, for the audit block of a single slide."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tile", sa.Column("split", sa.Text(), nullable=True))
    op.create_check_constraint(op.f("ck_tile_split"), "tile", "split IN ('train', 'audit')")
