"""A run may adapt the champion's norms to the pool; the wish for one stands beside the wish for a training."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

CHECK = "ck_run_trigger"
BEFORE = "trigger IN ('labels', 'manual', 'label-studio', 'schedule')"
AFTER = "trigger IN ('labels', 'manual', 'label-studio', 'schedule', 'adapt')"


def upgrade() -> None:
    op.add_column("project", sa.Column("requested_adaptation", sa.Boolean(), nullable=False, server_default="false"))
    op.drop_constraint(op.f(CHECK), "run", type_="check")
    op.create_check_constraint(op.f(CHECK), "run", AFTER)


def downgrade() -> None:
    # The program of before would judge an open one as a training, and let it serve without a bound.
    op.execute(
        "UPDATE model SET state = 'rejected' WHERE state = 'candidate'"
        " AND run_id IN (SELECT id FROM run WHERE trigger = 'adapt')"
    )
    op.execute(
        "UPDATE run SET state = 'cancelled', cancel_requested = true, finished_at = now(), lease_until = NULL"
        " WHERE trigger = 'adapt' AND state IN ('queued', 'training', 'judging')"
    )
    # Rows of the old table cannot say it otherwise: somebody asked for these runs by hand.
    op.execute("UPDATE run SET trigger = 'manual' WHERE trigger = 'adapt'")
    op.drop_constraint(op.f(CHECK), "run", type_="check")
    op.create_check_constraint(op.f(CHECK), "run", BEFORE)
    op.drop_column("project", "requested_adaptation")
