"""What led to each place in the queue, as columns; the words are made from them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_STRATA = ("score", "exploration", "audit", "cold")
_FIGURES = (
    *("class_worth", "um_per_px", "area_px", "uncertainty", "margin", "impurity", "disagreement", "mean_confidence"),
    *("bald", "distance", "clicks", "seconds", "uncertainty_factor", "novelty", "cost", "support"),
)


def _strata(words: tuple[str, ...]) -> None:
    op.drop_constraint(op.f("ck_queue_entry_stratum"), "queue_entry", type_="check")
    listed = ", ".join(repr(word) for word in words)
    op.create_check_constraint(op.f("ck_queue_entry_stratum"), "queue_entry", f"stratum IN ({listed})")


def upgrade() -> None:
    op.create_table(
        "ranking",
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("ranked_by", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("config_hash", sa.Text(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name=op.f("fk_ranking_model_id_model")),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_ranking_project_id_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ranking")),
        sa.UniqueConstraint("project_id", "generation", name=op.f("uq_ranking_project_id_generation")),
    )
    op.add_column("tile", sa.Column("look_hash", sa.BigInteger(), nullable=True))
    for name in _FIGURES:
        op.add_column("queue_entry", sa.Column(name, sa.Double(), nullable=True))
    for name in ("class_id", "predicted_class"):
        op.add_column("queue_entry", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("queue_entry", sa.Column("note", sa.Text(), nullable=True))
    op.execute(
        """
        UPDATE queue_entry e SET note = (SELECT string_agg(word, '; ') FROM jsonb_array_elements_text(e.reasons) word)
        WHERE cardinality(e.region_ids) > 0
        """
    )
    op.drop_column("queue_entry", "reasons")
    _strata((*_STRATA, "class"))
    op.create_index(
        "ix_queue_entry_held",
        "queue_entry",
        ["project_id", "generation"],
        postgresql_where=sa.text("attempt > 0"),
    )
    # A new order writes a row for each tile: looking each up on its own would take longer than all the rest.
    for name in ("project", "tile"):
        op.drop_constraint(op.f(f"fk_queue_entry_{name}_id_{name}"), "queue_entry", type_="foreignkey")
    # Orders that were made before stand as they are, in the words they had, until the next look makes them anew.
    op.execute(
        """
        INSERT INTO ranking (project_id, generation, model_id, ranked_by, config_hash)
        SELECT DISTINCT e.project_id, e.generation, p.champion_id, jsonb_build_object(
            'policy', '{}'::jsonb, 'scales', '{}'::jsonb, 'seed', p.seed, 'round_number', e.round), ''
        FROM queue_entry e JOIN project p ON p.id = e.project_id
        """
    )
    op.add_column("queue_entry", sa.Column("ranking_id", sa.BigInteger(), nullable=True))
    op.execute(
        """
        UPDATE queue_entry e SET ranking_id = r.id FROM ranking r
        WHERE r.project_id = e.project_id AND r.generation = e.generation
        """
    )
    op.alter_column("queue_entry", "ranking_id", nullable=False)
    op.execute("UPDATE project SET ranked_model_id = NULL")


def downgrade() -> None:
    op.drop_index("ix_queue_entry_held", "queue_entry")
    op.execute("UPDATE queue_entry SET stratum = 'score' WHERE stratum = 'class'")
    _strata(_STRATA)
    op.add_column(
        "queue_entry",
        sa.Column("reasons", postgresql.JSONB(astext_type=sa.Text()), server_default="[]", nullable=False),
    )
    op.alter_column("queue_entry", "reasons", server_default=None)
    for name in ("ranking_id", "note", "class_id", "predicted_class", *_FIGURES):
        op.drop_column("queue_entry", name)
    op.drop_column("tile", "look_hash")
    for name in ("project", "tile"):
        op.create_foreign_key(op.f(f"fk_queue_entry_{name}_id_{name}"), "queue_entry", name, [f"{name}_id"], ["id"])
    op.drop_table("ranking")
