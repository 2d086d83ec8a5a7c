"""What the ranking reads of a model: embeddings of predictions, class scores and outlines of regions, second looks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("prediction", sa.Column("embeddings_blob", sa.Text(), nullable=True))
    op.add_column("region", sa.Column("class_scores", postgresql.ARRAY(sa.REAL()), server_default="{}", nullable=False))
    op.add_column("region", sa.Column("perimeter_px", sa.Double(), nullable=True))
    op.add_column("project", sa.Column("second_looked_model_id", sa.BigInteger(), nullable=True))
    op.create_table(
        "second_look",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("prediction_id", sa.BigInteger(), nullable=False),
        sa.Column("bald", postgresql.ARRAY(sa.REAL()), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["prediction_id"], ["prediction.id"], name=op.f("fk_second_look_prediction_id_prediction")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_second_look")),
        sa.UniqueConstraint("prediction_id", name=op.f("uq_second_look_prediction_id")),
    )


def downgrade() -> None:
    op.drop_table("second_look")
    op.drop_column("project", "second_looked_model_id")
    op.drop_column("region", "perimeter_px")
    op.drop_column("region", "class_scores")
    op.drop_column("prediction", "embeddings_blob")
