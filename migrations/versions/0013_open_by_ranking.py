"""Waiting entries are found by their order's number: no other index finds these, so none is taken in its place."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

OPEN = "ix_queue_entry_open"
WAITING = sa.text("state IN ('open', 'leased')")


def upgrade() -> None:
    op.drop_index(OPEN, table_name="queue_entry")
    op.create_index(OPEN, "queue_entry", ["ranking_id", "rank"], postgresql_where=WAITING)


def downgrade() -> None:
    op.drop_index(OPEN, table_name="queue_entry")
    op.create_index(OPEN, "queue_entry", ["project_id", "generation", "rank"], postgresql_where=WAITING)
