"""The picture of a run's figures over its steps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("curves_blob", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("run", "curves_blob")
