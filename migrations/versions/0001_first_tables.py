"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "project",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("classes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("policy", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("label_type", sa.Text(), server_default="brush", nullable=False),
        sa.Column("seed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("champion_id", sa.BigInteger(), nullable=True),
        sa.Column("queue_generation", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("ranked_model_id", sa.BigInteger(), nullable=True),
        sa.Column("requested_run", sa.Text(), nullable=True),
        sa.Column("ls_url", sa.Text(), nullable=True),
        sa.Column("ls_project_id", sa.BigInteger(), nullable=True),
        sa.Column("ls_token", sa.LargeBinary(), nullable=True),
        sa.Column("ls_auth_password", sa.LargeBinary(), nullable=True),
        sa.Column("ls_webhook_secret", sa.LargeBinary(), nullable=True),
        sa.Column("ls_model_version", sa.Text(), nullable=True),
        sa.Column("ls_cursor", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ls_compared_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("label_type IN ('brush', 'bitmask', 'polygon')", name=op.f("ck_project_label_type")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_project")),
        sa.UniqueConstraint("key", name=op.f("uq_project_key")),
    )
    op.create_table(
        "event",
        sa.Column("project_id", sa.BigInteger(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("before", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("after", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_event_project_id_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    op.create_index(op.f("ix_event_project_id"), "event", ["project_id"], unique=False)
    op.create_table(
        "image",
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("width_px", sa.BigInteger(), nullable=False),
        sa.Column("height_px", sa.BigInteger(), nullable=False),
        sa.Column("um_per_px", sa.Double(), nullable=True),
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("split IN ('train', 'audit')", name=op.f("ck_image_split")),
        sa.CheckConstraint("state IN ('registered', 'ready', 'quarantined')", name=op.f("ck_image_state")),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_image_project_id_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_image")),
        sa.UniqueConstraint("project_id", "sha256", name=op.f("uq_image_project_id_sha256")),
    )
    op.create_index(op.f("ix_image_project_id"), "image", ["project_id"], unique=False)
    op.create_table(
        "inbox",
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("dedupe_key", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_inbox_project_id_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inbox")),
        sa.UniqueConstraint("project_id", "dedupe_key", name=op.f("uq_inbox_project_id_dedupe_key")),
    )
    op.create_index(
        "ix_inbox_waiting", "inbox", ["project_id", "id"], unique=False, postgresql_where=sa.text("applied_at IS NULL")
    )
    op.create_table(
        "run",
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("reasons", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("recipe", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("recipe_hash", sa.Text(), nullable=False),
        sa.Column("snapshot_blob", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("crashes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_holder", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('queued', 'training', 'judging', 'done', 'failed', 'cancelled')", name=op.f("ck_run_state")
        ),
        sa.CheckConstraint("trigger IN ('labels', 'manual', 'label-studio', 'schedule')", name=op.f("ck_run_trigger")),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_run_project_id_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
        sa.UniqueConstraint("project_id", "number", name=op.f("uq_run_project_id_number")),
    )
    op.create_index(
        "uq_run_one_open",
        "run",
        ["project_id"],
        unique=True,
        postgresql_where=sa.text("state IN ('queued', 'training', 'judging')"),
    )
    op.create_table(
        "model",
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("provisional", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("blob", sa.Text(), nullable=True),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("previous_id", sa.BigInteger(), nullable=True),
        sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("verdict", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("promoted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('blank', 'starter', 'trained')", name=op.f("ck_model_kind")),
        sa.CheckConstraint("state IN ('candidate', 'champion', 'retired', 'rejected')", name=op.f("ck_model_state")),
        sa.ForeignKeyConstraint(["previous_id"], ["model.id"], name=op.f("fk_model_previous_id_model")),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_model_project_id_project")),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_model_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model")),
        sa.UniqueConstraint("project_id", "version", name=op.f("uq_model_project_id_version")),
    )
    op.create_index(op.f("ix_model_project_id"), "model", ["project_id"], unique=False)
    op.create_index(
        "uq_model_one_champion", "model", ["project_id"], unique=True, postgresql_where=sa.text("state = 'champion'")
    )
    op.create_table(
        "tile",
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("x_px", sa.BigInteger(), nullable=False),
        sa.Column("y_px", sa.BigInteger(), nullable=False),
        sa.Column("width_px", sa.BigInteger(), nullable=False),
        sa.Column("height_px", sa.BigInteger(), nullable=False),
        sa.Column("scale", sa.Double(), nullable=False),
        sa.Column("tissue_share", sa.Double(), nullable=False),
        sa.Column("png_blob", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="ready", nullable=False),
        sa.Column("wanted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_holder", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('ready', 'artefact')", name=op.f("ck_tile_state")),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_tile_image_id_image")),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_tile_project_id_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tile")),
        sa.UniqueConstraint(
            "image_id",
            "x_px",
            "y_px",
            "width_px",
            "height_px",
            name=op.f("uq_tile_image_id_x_px_y_px_width_px_height_px"),
        ),
    )
    op.create_index("ix_tile_lease", "tile", ["lease_until"], unique=False)
    op.create_index(op.f("ix_tile_project_id"), "tile", ["project_id"], unique=False)
    op.create_table(
        "annotation",
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("tile_id", sa.BigInteger(), nullable=False),
        sa.Column("ls_annotation_id", sa.BigInteger(), nullable=False),
        sa.Column("ls_task_id", sa.BigInteger(), nullable=False),
        sa.Column("result_blob", sa.Text(), nullable=False),
        sa.Column("annotator", sa.BigInteger(), nullable=True),
        sa.Column("lead_time_s", sa.Double(), nullable=True),
        sa.Column("shown_version", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('present', 'skipped', 'quarantined', 'deleted')", name=op.f("ck_annotation_state")
        ),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_annotation_project_id_project")),
        sa.ForeignKeyConstraint(["tile_id"], ["tile.id"], name=op.f("fk_annotation_tile_id_tile")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotation")),
        sa.UniqueConstraint("project_id", "ls_annotation_id", name=op.f("uq_annotation_project_id_ls_annotation_id")),
    )
    op.create_index(op.f("ix_annotation_tile_id"), "annotation", ["tile_id"], unique=False)
    op.create_table(
        "prediction",
        sa.Column("tile_id", sa.BigInteger(), nullable=False),
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("class_blob", sa.Text(), nullable=False),
        sa.Column("confidence_blob", sa.Text(), nullable=False),
        sa.Column("class_areas", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name=op.f("fk_prediction_model_id_model")),
        sa.ForeignKeyConstraint(["tile_id"], ["tile.id"], name=op.f("fk_prediction_tile_id_tile")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prediction")),
        sa.UniqueConstraint("tile_id", "model_id", name=op.f("uq_prediction_tile_id_model_id")),
    )
    op.create_index(op.f("ix_prediction_model_id"), "prediction", ["model_id"], unique=False)
    op.create_table(
        "queue_entry",
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("tile_id", sa.BigInteger(), nullable=False),
        sa.Column("region_ids", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("noise", sa.Double(), nullable=False),
        sa.Column("stratum", sa.Text(), nullable=False),
        sa.Column("propensity", sa.Double(), nullable=False),
        sa.Column("round", sa.BigInteger(), nullable=False),
        sa.Column("config_hash", sa.Text(), nullable=False),
        sa.Column("reasons", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column("lease_holder", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('open', 'leased', 'done', 'skipped')", name=op.f("ck_queue_entry_state")),
        sa.CheckConstraint("stratum IN ('score', 'exploration', 'audit', 'cold')", name=op.f("ck_queue_entry_stratum")),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_queue_entry_project_id_project")),
        sa.ForeignKeyConstraint(["tile_id"], ["tile.id"], name=op.f("fk_queue_entry_tile_id_tile")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queue_entry")),
        sa.UniqueConstraint("project_id", "generation", "rank", name=op.f("uq_queue_entry_project_id_generation_rank")),
        sa.UniqueConstraint(
            "project_id", "generation", "tile_id", name=op.f("uq_queue_entry_project_id_generation_tile_id")
        ),
    )
    op.create_index(
        "ix_queue_entry_open",
        "queue_entry",
        ["project_id", "generation", "rank"],
        unique=False,
        postgresql_where=sa.text("state IN ('open', 'leased')"),
    )
    op.create_table(
        "task",
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("tile_id", sa.BigInteger(), nullable=False),
        sa.Column("ls_task_id", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="live", nullable=False),
        sa.Column("model_version", sa.Text(), nullable=True),
        sa.Column("score_sent", sa.Double(), nullable=True),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("url_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("published_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("refreshed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("origin IN ('head', 'uploaded')", name=op.f("ck_task_origin")),
        sa.CheckConstraint("state IN ('live', 'labelled', 'gone')", name=op.f("ck_task_state")),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_task_project_id_project")),
        sa.ForeignKeyConstraint(["tile_id"], ["tile.id"], name=op.f("fk_task_tile_id_tile")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task")),
        sa.UniqueConstraint("project_id", "ls_task_id", name=op.f("uq_task_project_id_ls_task_id")),
    )
    op.create_index("uq_task_live_tile", "task", ["tile_id"], unique=True, postgresql_where=sa.text("state <> 'gone'"))
    op.create_table(
        "mask",
        sa.Column("tile_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("reviewed_share", sa.Double(), nullable=False),
        sa.Column("annotation_id", sa.BigInteger(), nullable=True),
        sa.Column("prediction_id", sa.BigInteger(), nullable=True),
        sa.Column("first_run_id", sa.BigInteger(), nullable=True),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("origin IN ('imported', 'annotated', 'confirmed')", name=op.f("ck_mask_origin")),
        sa.ForeignKeyConstraint(["annotation_id"], ["annotation.id"], name=op.f("fk_mask_annotation_id_annotation")),
        sa.ForeignKeyConstraint(["first_run_id"], ["run.id"], name=op.f("fk_mask_first_run_id_run")),
        sa.ForeignKeyConstraint(["prediction_id"], ["prediction.id"], name=op.f("fk_mask_prediction_id_prediction")),
        sa.ForeignKeyConstraint(["tile_id"], ["tile.id"], name=op.f("fk_mask_tile_id_tile")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mask")),
        sa.UniqueConstraint("tile_id", "version", name=op.f("uq_mask_tile_id_version")),
    )
    op.create_index(op.f("ix_mask_annotation_id"), "mask", ["annotation_id"], unique=False)
    op.create_table(
        "region",
        sa.Column("prediction_id", sa.BigInteger(), nullable=False),
        sa.Column("x_px", sa.BigInteger(), nullable=False),
        sa.Column("y_px", sa.BigInteger(), nullable=False),
        sa.Column("width_px", sa.BigInteger(), nullable=False),
        sa.Column("height_px", sa.BigInteger(), nullable=False),
        sa.Column("polygon", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("area_px", sa.BigInteger(), nullable=False),
        sa.Column("uncertainty", sa.Double(), nullable=False),
        sa.Column("margin", sa.Double(), nullable=False),
        sa.Column("impurity", sa.Double(), nullable=False),
        sa.Column("disagreement", sa.Double(), nullable=False),
        sa.Column("mean_confidence", sa.Double(), nullable=False),
        sa.Column("predicted_class", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["prediction_id"], ["prediction.id"], name=op.f("fk_region_prediction_id_prediction")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_region")),
    )
    op.create_index(op.f("ix_region_prediction_id"), "region", ["prediction_id"], unique=False)
    # project and model name each other, so this one comes when both are there
    op.create_foreign_key(op.f("fk_project_champion_id_model"), "project", "model", ["champion_id"], ["id"])
