"""Adopted projects: the names of their controls, where they are, what waits for a decision, and the rule of groups."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("project", sa.Column("ls_controls", postgresql.JSONB(), nullable=True))
    op.add_column("project", sa.Column("ls_elsewhere", sa.Boolean(), server_default="false", nullable=False))
    op.add_column("project", sa.Column("ls_problem", sa.Text(), nullable=True))
    op.add_column("project", sa.Column("group_pattern", sa.Text(), nullable=True))


def downgrade() -> None:
    for column in ("group_pattern", "ls_problem", "ls_elsewhere", "ls_controls"):
        op.drop_column("project", column)
