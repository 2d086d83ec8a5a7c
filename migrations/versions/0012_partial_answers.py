"""Answers that add to each other: what a mask's own source said, what a look knew, and a second task for a tile."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

ONE_TASK = "uq_task_live_tile"


def upgrade() -> None:
    op.add_column("mask", sa.Column("said_blob", sa.Text(), nullable=True))
    op.add_column("mask", sa.Column("said_share", sa.Double(), nullable=True))
    op.create_check_constraint(op.f("ck_mask_said"), "mask", "(said_blob IS NULL) = (said_share IS NULL)")
    op.add_column("prediction", sa.Column("known_mask_id", sa.BigInteger(), nullable=True))
    op.drop_index(ONE_TASK, table_name="task")
    op.create_index(ONE_TASK, "task", ["tile_id"], unique=True, postgresql_where=sa.text("state = 'live'"))


def downgrade() -> None:
    # Of a tile's tasks only the last may stay.
    op.execute(
        "UPDATE task SET state = 'gone' WHERE state <> 'gone' AND EXISTS"
        " (SELECT 1 FROM task o WHERE o.tile_id = task.tile_id AND o.state <> 'gone' AND o.id > task.id)"
    )
    op.drop_index(ONE_TASK, table_name="task")
    op.create_index(ONE_TASK, "task", ["tile_id"], unique=True, postgresql_where=sa.text("state <> 'gone'"))
    op.drop_column("prediction", "known_mask_id")
    op.drop_constraint(op.f("ck_mask_said"), "mask")
    op.drop_column("mask", "said_share")
    op.drop_column("mask", "said_blob")
