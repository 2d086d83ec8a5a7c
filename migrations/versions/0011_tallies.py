"""What is counted once of labels and predictions: tallies, efforts, agreements."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tally",
        sa.Column("mask_id", sa.BigInteger(), nullable=False),
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("counts", sa.LargeBinary(), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["mask_id"], ["mask.id"], name=op.f("fk_tally_mask_id_mask")),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name=op.f("fk_tally_model_id_model")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tally")),
        sa.UniqueConstraint("mask_id", "model_id", name=op.f("uq_tally_mask_id_model_id")),
    )
    op.create_index(op.f("ix_tally_model_id"), "tally", ["model_id"])
    op.create_table(
        "effort",
        sa.Column("mask_id", sa.BigInteger(), nullable=False),
        sa.Column("clicks", sa.Double(), nullable=True),
        sa.Column("suggested", sa.Boolean(), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["mask_id"], ["mask.id"], name=op.f("fk_effort_mask_id_mask")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_effort")),
        sa.UniqueConstraint("mask_id", name=op.f("uq_effort_mask_id")),
    )
    op.create_table(
        "agreement",
        sa.Column("first_mask_id", sa.BigInteger(), nullable=False),
        sa.Column("second_mask_id", sa.BigInteger(), nullable=False),
        sa.Column("counts", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["first_mask_id"], ["mask.id"], name=op.f("fk_agreement_first_mask_id_mask")),
        sa.ForeignKeyConstraint(["second_mask_id"], ["mask.id"], name=op.f("fk_agreement_second_mask_id_mask")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agreement")),
        sa.UniqueConstraint("first_mask_id", "second_mask_id", name=op.f("uq_agreement_first_mask_id_second_mask_id")),
    )
    op.create_index(op.f("ix_agreement_second_mask_id"), "agreement", ["second_mask_id"])


def downgrade() -> None:
    op.drop_table("agreement")
    op.drop_table("effort")
    op.drop_table("tally")
