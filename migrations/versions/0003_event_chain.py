"""The audit chain: each event's place in its project's chain, and the hash that seals it there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("event", sa.Column("seal_number", sa.BigInteger(), nullable=True))
    op.add_column("event", sa.Column("seal", sa.Text(), nullable=True))
    op.create_check_constraint(op.f("ck_event_sealed"), "event", "(seal_number IS NULL) = (seal IS NULL)")
    op.create_index("uq_event_seal", "event", ["project_id", "seal_number"], unique=True)
    op.create_index("ix_event_unsealed", "event", ["project_id", "id"], postgresql_where=sa.text("seal_number IS NULL"))
