"""Answers that come to the queue itself, and entries that look like an artefact."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_STATES = ("present", "skipped", "quarantined", "deleted")
_SCOPES = ("whole tile", "only the boxes", "artefact", "cannot tell")
_DOOR = "(ls_annotation_id IS NULL) = (holder IS NOT NULL) AND (ls_task_id IS NULL) = (holder IS NOT NULL)"


def _one_of(column: str, words: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(word) for word in words)})"


def _states(words: tuple[str, ...]) -> None:
    op.drop_constraint(op.f("ck_annotation_state"), "annotation", type_="check")
    op.create_check_constraint(op.f("ck_annotation_state"), "annotation", _one_of("state", words))


def upgrade() -> None:
    op.alter_column("annotation", "ls_annotation_id", existing_type=sa.BigInteger(), nullable=True)
    op.alter_column("annotation", "ls_task_id", existing_type=sa.BigInteger(), nullable=True)
    op.add_column("annotation", sa.Column("holder", sa.Text(), nullable=True))
    op.add_column("annotation", sa.Column("scope", sa.Text(), nullable=True))
    _states((*_STATES, "draft"))
    op.create_check_constraint(op.f("ck_annotation_scope"), "annotation", _one_of("scope", _SCOPES))
    op.create_check_constraint(op.f("ck_annotation_door"), "annotation", _DOOR)
    # Who marked a tile was not noted before: the newest of its annotations that counts is the one that did.
    op.execute(
        """
        UPDATE annotation a SET scope = 'artefact'
        FROM (
            SELECT DISTINCT ON (n.tile_id) n.id
            FROM annotation n JOIN tile t ON t.id = n.tile_id AND t.state = 'artefact'
            WHERE n.state = 'present' ORDER BY n.tile_id, n.updated_at DESC, n.id DESC
        ) newest
        WHERE a.id = newest.id
        """
    )
    op.create_index("ix_tile_artefact", "tile", ["project_id"], postgresql_where=sa.text("state = 'artefact'"))
    op.add_column(
        "ranking",
        sa.Column("artefacts", postgresql.ARRAY(sa.BigInteger()), server_default="{}", nullable=False),
    )
    op.add_column("queue_entry", sa.Column("like_tile_id", sa.BigInteger(), nullable=True))
    op.add_column("queue_entry", sa.Column("like_cosine", sa.Double(), nullable=True))
    op.create_check_constraint(
        op.f("ck_queue_entry_alike"), "queue_entry", "(like_tile_id IS NULL) = (like_cosine IS NULL)"
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_queue_entry_alike"), "queue_entry", type_="check")
    op.drop_column("queue_entry", "like_cosine")
    op.drop_column("queue_entry", "like_tile_id")
    op.drop_column("ranking", "artefacts")
    op.drop_index("ix_tile_artefact", "tile")
    for name in ("door", "scope"):
        op.drop_constraint(op.f(f"ck_annotation_{name}"), "annotation", type_="check")
    op.execute(
        "UPDATE mask SET annotation_id = NULL WHERE annotation_id IN (SELECT id FROM annotation WHERE holder IS NOT NULL)"
    )
    op.execute("DELETE FROM annotation WHERE holder IS NOT NULL")
    _states(_STATES)
    op.drop_column("annotation", "scope")
    op.drop_column("annotation", "holder")
    op.alter_column("annotation", "ls_task_id", existing_type=sa.BigInteger(), nullable=False)
    op.alter_column("annotation", "ls_annotation_id", existing_type=sa.BigInteger(), nullable=False)
