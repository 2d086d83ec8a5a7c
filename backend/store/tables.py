"""Every table. State lives here; a Celery message is only a wake-up.

Bigint keys, ``timestamptz``, closed sets as text with a check constraint, JSONB only for what is never
filtered on. ``mpamatch.domain.states`` says which moves of a state column are allowed; the store modules
beside this one make them.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime, time
from typing import Any

from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    Time,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, foreign, mapped_column, relationship

from mpamatch.domain.look_alikes import LookAlike
from mpamatch.domain.reasons import reasons
from mpamatch.domain.record import FirstRegion, RankedBy, Record
from mpamatch.domain.tiling import Box, tile_size

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def one_of(column: str, *values: str) -> CheckConstraint:
    """A check constraint for a closed set of words."""
    words = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({words})", name=column)


class Base(DeclarativeBase):
    """The root of all tables: names for every constraint, so that migrations can speak of them."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - read by SQLAlchemy, never changed
        int: BigInteger,
        str: Text,
        float: Double,
        bool: Boolean,
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
        time: Time(),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        list[int]: ARRAY(BigInteger),
        list[float]: ARRAY(REAL),
    }

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)


class Project(Base):
    """Classes, policy, the champion, the live queue generation and the Label Studio connection.

    ``second_looked_model_id``: the champion whose first entries had their second looks, as far as these can be had.
    ``ls_controls``: what the controls of an adopted project are called, None for our own configuration;
    ``ls_elsewhere``: it was adopted from a Label Studio that is not this installation's; ``ls_problem``: what waits for
    a person's decision there. ``requested_run`` and ``requested_adaptation``: who asked for a training, and whether
    somebody asked to adapt the champion; neither takes the other's place.
    """

    __tablename__ = "project"
    __table_args__ = (UniqueConstraint("key"), one_of("label_type", "brush", "bitmask", "polygon"))

    key: Mapped[str]
    title: Mapped[str]
    classes: Mapped[list[Any]]
    policy: Mapped[dict[str, Any]]
    label_type: Mapped[str] = mapped_column(server_default="brush")
    seed: Mapped[int] = mapped_column(server_default="0")
    champion_id: Mapped[int | None] = mapped_column(ForeignKey("model.id", use_alter=True))
    queue_generation: Mapped[int] = mapped_column(server_default="0")
    ranked_model_id: Mapped[int | None]
    second_looked_model_id: Mapped[int | None]
    requested_run: Mapped[str | None]
    requested_adaptation: Mapped[bool] = mapped_column(server_default="false")
    ls_url: Mapped[str | None]
    ls_project_id: Mapped[int | None]
    ls_token: Mapped[bytes | None]
    ls_auth_password: Mapped[bytes | None]
    ls_webhook_secret: Mapped[bytes | None]
    ls_model_version: Mapped[str | None]
    ls_cursor: Mapped[datetime | None]
    ls_compared_at: Mapped[datetime | None]
    ls_controls: Mapped[dict[str, Any] | None]
    ls_elsewhere: Mapped[bool] = mapped_column(server_default="false")
    ls_problem: Mapped[str | None]
    group_pattern: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Image(Base):
    """One registered raster or slide."""

    __tablename__ = "image"
    __table_args__ = (
        UniqueConstraint("project_id", "sha256"),
        one_of("split", "train", "audit"),
        one_of("state", "registered", "ready", "quarantined"),
    )

    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"), index=True)
    uri: Mapped[str]
    sha256: Mapped[str]
    width_px: Mapped[int]
    height_px: Mapped[int]
    um_per_px: Mapped[float | None]
    group_name: Mapped[str]
    split: Mapped[str]
    state: Mapped[str]
    problem: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Tile(Base):
    """A fixed square of an image: the unit a person labels. ``png_blob``: its picture, one to one with mask pixels.

    The box is in level-0 pixels, ``scale`` level-0 pixels per pixel of the picture. ``split`` is empty unless it is
    another than the image's: the audit block of a single slide. `backend.store.images.tile_split` is what counts.
    """

    __tablename__ = "tile"
    __table_args__ = (
        UniqueConstraint("image_id", "x_px", "y_px", "width_px", "height_px"),
        one_of("state", "ready", "artefact"),
        one_of("split", "train", "audit"),
        Index("ix_tile_lease", "lease_until"),
        # Few of many, asked for at every look.
        Index("ix_tile_artefact", "project_id", postgresql_where=text("state = 'artefact'")),
    )

    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"), index=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"))
    x_px: Mapped[int]
    y_px: Mapped[int]
    width_px: Mapped[int]
    height_px: Mapped[int]
    scale: Mapped[float]
    tissue_share: Mapped[float]
    split: Mapped[str | None]
    png_blob: Mapped[str]
    # 64 bits as a signed number: of pictures that look the same they are the same but for a few.
    look_hash: Mapped[int | None]
    state: Mapped[str] = mapped_column(server_default="ready")
    wanted_at: Mapped[datetime | None]
    lease_holder: Mapped[str | None]
    lease_until: Mapped[datetime | None]

    @property
    def box(self) -> Box:
        """Where it lies, in level-0 pixels."""
        return Box(self.x_px, self.y_px, self.width_px, self.height_px)

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) of its picture, and so of its masks and predictions."""
        return tile_size(self.box, self.scale)


class Model(Base):
    """Immutable weights, recipe and classes, with what the gate said of them."""

    __tablename__ = "model"
    __table_args__ = (
        UniqueConstraint("project_id", "version"),
        one_of("kind", "blank", "starter", "trained"),
        one_of("state", "candidate", "champion", "retired", "rejected"),
        Index("uq_model_one_champion", "project_id", unique=True, postgresql_where=text("state = 'champion'")),
    )

    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"), index=True)
    version: Mapped[str]
    kind: Mapped[str]
    state: Mapped[str]
    provisional: Mapped[bool] = mapped_column(server_default="false")
    blob: Mapped[str | None]
    run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id"))
    previous_id: Mapped[int | None] = mapped_column(ForeignKey("model.id"))
    metrics: Mapped[dict[str, Any] | None]
    verdict: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    promoted_at: Mapped[datetime | None]


class Prediction(Base):
    """What one model says of one tile: class ids and confidence (0..255) as blobs. Immutable.

    ``embeddings_blob``: what it looks like, float16 rows: the whole tile's, then that of each region in the order of
    their ids. Empty for a model that knows nothing, and for predictions of earlier versions. ``known_mask_id``: the
    mask of a tile that was labelled in part, outside of which the regions lie; None where nothing was known, and on
    audit tiles. No foreign key: masks name predictions already.
    """

    __tablename__ = "prediction"
    __table_args__ = (UniqueConstraint("tile_id", "model_id"),)

    tile_id: Mapped[int] = mapped_column(ForeignKey("tile.id"))
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"), index=True)
    class_blob: Mapped[str]
    confidence_blob: Mapped[str]
    embeddings_blob: Mapped[str | None]
    class_areas: Mapped[dict[str, Any]]
    known_mask_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Region(Base):
    """Connected pixels of doubt in one prediction, with what the model alone says of them. Immutable.

    ``class_scores`` by class id; empty, as ``perimeter_px``, for regions of earlier versions.
    """

    __tablename__ = "region"

    prediction_id: Mapped[int] = mapped_column(ForeignKey("prediction.id"), index=True)
    x_px: Mapped[int]
    y_px: Mapped[int]
    width_px: Mapped[int]
    height_px: Mapped[int]
    polygon: Mapped[list[Any]]
    area_px: Mapped[int]
    uncertainty: Mapped[float]
    margin: Mapped[float]
    impurity: Mapped[float]
    disagreement: Mapped[float]
    mean_confidence: Mapped[float]
    predicted_class: Mapped[int]
    class_scores: Mapped[list[float]] = mapped_column(server_default="{}")
    perimeter_px: Mapped[float | None]


class SecondLook(Base):
    """What a model could learn from a label in each region of a prediction (BALD), in the order of their ids.

    Made for the first entries of an order alone, since it costs several predictions. Immutable.
    """

    __tablename__ = "second_look"
    __table_args__ = (UniqueConstraint("prediction_id"),)

    prediction_id: Mapped[int] = mapped_column(ForeignKey("prediction.id"))
    bald: Mapped[list[float]]
    made_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Ranking(Base):
    """What one generation of the queue was ranked by: every knob, the pool's scales, and what chance hung on.

    Kept for good, as are the entries that were answered: with both, each choice can be computed again. ``artefacts``:
    the tiles marked as such that it knows of; with other ones the order is made anew.
    """

    __tablename__ = "ranking"
    __table_args__ = (UniqueConstraint("project_id", "generation"),)

    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    generation: Mapped[int]
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"))
    ranked_by: Mapped[dict[str, Any]]
    config_hash: Mapped[str]
    artefacts: Mapped[list[int]] = mapped_column(server_default="{}")
    made_at: Mapped[datetime] = mapped_column(server_default=func.now())


class QueueEntry(Base):
    """One tile with its ordered regions at its rank in one generation, and what led there: `mpamatch.domain.record`.

    The figures are those of the region for which the tile was chosen, first raw, then in 0..1, NULL where there is none
    or one is not known. ``like_tile_id``: the artefact that it looks like, which is why it stands at the end, with
    their cosine. ``note``: what is to be said of the entry before its reasons. ``skip_reason``: set when a person left
    it out through the queue itself; such a skip outlives a new ranking.
    """

    __tablename__ = "queue_entry"
    __table_args__ = (
        UniqueConstraint("project_id", "generation", "rank"),
        UniqueConstraint("project_id", "generation", "tile_id"),
        one_of("state", "open", "leased", "done", "skipped"),
        one_of("stratum", "score", "class", "exploration", "audit", "cold"),
        CheckConstraint("(like_tile_id IS NULL) = (like_cosine IS NULL)", name="alike"),
        # By another column than the constraints above: an index of theirs holds what was answered too, and as long as
        # the database does not know how much that is, it takes either for the same work.
        Index("ix_queue_entry_open", "ranking_id", "rank", postgresql_where=text("state IN ('open', 'leased')")),
        Index("ix_queue_entry_lease_until", "lease_until", postgresql_where=text("lease_until IS NOT NULL")),
        Index("ix_queue_entry_held", "project_id", "generation", postgresql_where=text("attempt > 0")),
    )

    # No foreign keys: each of a new order's rows would be looked up on its own. The numbers were read a moment before,
    # and neither projects nor tiles are ever deleted.
    project_id: Mapped[int]
    generation: Mapped[int]
    ranking_id: Mapped[int]
    rank: Mapped[int]
    tile_id: Mapped[int]
    region_ids: Mapped[list[int]]
    score: Mapped[float]
    noise: Mapped[float]
    stratum: Mapped[str]
    propensity: Mapped[float]
    round: Mapped[int]
    config_hash: Mapped[str]
    class_id: Mapped[int | None]
    class_worth: Mapped[float | None]
    um_per_px: Mapped[float | None]
    area_px: Mapped[float | None]
    uncertainty: Mapped[float | None]
    margin: Mapped[float | None]
    impurity: Mapped[float | None]
    disagreement: Mapped[float | None]
    mean_confidence: Mapped[float | None]
    predicted_class: Mapped[int | None]
    bald: Mapped[float | None]
    distance: Mapped[float | None]
    clicks: Mapped[float | None]
    seconds: Mapped[float | None]
    uncertainty_factor: Mapped[float | None]
    novelty: Mapped[float | None]
    cost: Mapped[float | None]
    support: Mapped[float | None]
    like_tile_id: Mapped[int | None]
    like_cosine: Mapped[float | None]
    note: Mapped[str | None]
    state: Mapped[str] = mapped_column(server_default="open")
    lease_holder: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    # The fencing token: each claim raises it, so that a holder whose lease ran out cannot speak for the next one.
    attempt: Mapped[int] = mapped_column(server_default="0")
    skip_reason: Mapped[str | None]

    # Read by a query of its own, once for all entries: a join would be locked along with an entry.
    ranking: Mapped[Ranking] = relationship(
        primaryjoin=lambda: foreign(QueueEntry.ranking_id) == Ranking.id, viewonly=True, lazy="selectin"
    )

    @property
    def record(self) -> Record:
        """All that led to this place."""
        region = None
        if self.area_px is not None:
            names = [field.name for field in dataclasses.fields(FirstRegion)]
            region = FirstRegion(**{name: getattr(self, name) for name in names})
        like = None
        if self.like_tile_id is not None and self.like_cosine is not None:
            like = LookAlike(self.like_tile_id, self.like_cosine)
        return Record(
            ranked_by=RankedBy.from_json(self.ranking.ranked_by),
            tile_id=self.tile_id,
            stratum=self.stratum,  # type: ignore[arg-type]  # the column holds only these words
            score=self.score,
            noise=self.noise,
            propensity=self.propensity,
            regions=len(self.region_ids),
            region=region,
            class_id=self.class_id,
            class_worth=self.class_worth,
            um_per_px=self.um_per_px,
            like=like,
            note=self.note,
        )

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it stands here, in words, the strongest first."""
        return reasons(self.record)


class Task(Base):
    """A tile's task in Label Studio: which prediction and score it shows there.

    One of a tile waits at most. A tile that was labelled in part and is asked for again gets another, since Label
    Studio serves a labelled one no more.
    """

    __tablename__ = "task"
    __table_args__ = (
        UniqueConstraint("project_id", "ls_task_id"),
        one_of("origin", "head", "uploaded"),
        one_of("state", "live", "labelled", "gone"),
        Index("uq_task_live_tile", "tile_id", unique=True, postgresql_where=text("state = 'live'")),
    )

    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    tile_id: Mapped[int] = mapped_column(ForeignKey("tile.id"))
    ls_task_id: Mapped[int]
    origin: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="live")
    model_version: Mapped[str | None]
    score_sent: Mapped[float | None]
    why: Mapped[str | None]
    url_expires_at: Mapped[datetime | None]
    opened_at: Mapped[datetime | None]
    published_at: Mapped[datetime] = mapped_column(server_default=func.now())
    refreshed_at: Mapped[datetime | None]


class Inbox(Base):
    """Every webhook as received; the durable half of «write first, acknowledge second»."""

    __tablename__ = "inbox"
    __table_args__ = (
        UniqueConstraint("project_id", "dedupe_key"),
        Index("ix_inbox_waiting", "project_id", "id", postgresql_where=text("applied_at IS NULL")),
    )

    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    dedupe_key: Mapped[str]
    action: Mapped[str]
    payload: Mapped[dict[str, Any]]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    applied_at: Mapped[datetime | None]
    problem: Mapped[str | None]


class Annotation(Base):
    """What a person submitted, verbatim (``result_blob``): as last read from Label Studio, or as it came to the queue.

    Of Label Studio's, ``annotator`` is the user's number there. What came to the queue has a ``holder`` instead, who
    had taken the tile, and no number of Label Studio's. A ``draft`` came too late to count; ``problem`` says why.
    """

    __tablename__ = "annotation"
    __table_args__ = (
        UniqueConstraint("project_id", "ls_annotation_id"),
        one_of("state", "present", "skipped", "quarantined", "deleted", "draft"),
        one_of("scope", "whole tile", "only the boxes", "artefact", "cannot tell"),
        CheckConstraint(
            "(ls_annotation_id IS NULL) = (holder IS NOT NULL) AND (ls_task_id IS NULL) = (holder IS NOT NULL)",
            name="door",
        ),
    )

    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    tile_id: Mapped[int] = mapped_column(ForeignKey("tile.id"), index=True)
    ls_annotation_id: Mapped[int | None]
    ls_task_id: Mapped[int | None]
    holder: Mapped[str | None]
    scope: Mapped[str | None]
    result_blob: Mapped[str]
    annotator: Mapped[int | None]
    lead_time_s: Mapped[float | None]
    shown_version: Mapped[str | None]
    updated_at: Mapped[datetime]
    state: Mapped[str]
    problem: Mapped[str | None]


class Mask(Base):
    """Class ids made by a person, 255 = no supervision. Append-only; the newest not withdrawn counts.

    ``blob`` is all that is known of the tile, ``said_blob`` what this mask's own source said of it, with the share of
    that; empty where both are the same.
    """

    __tablename__ = "mask"
    __table_args__ = (
        UniqueConstraint("tile_id", "version"),
        one_of("origin", "imported", "annotated", "confirmed"),
        CheckConstraint("(said_blob IS NULL) = (said_share IS NULL)", name="said"),
    )

    tile_id: Mapped[int] = mapped_column(ForeignKey("tile.id"))
    version: Mapped[int]
    origin: Mapped[str]
    blob: Mapped[str]
    reviewed_share: Mapped[float]
    said_blob: Mapped[str | None]
    said_share: Mapped[float | None]
    annotation_id: Mapped[int | None] = mapped_column(ForeignKey("annotation.id"), index=True)
    prediction_id: Mapped[int | None] = mapped_column(ForeignKey("prediction.id"))
    first_run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id"))
    withdrawn_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Run(Base):
    """One training, or an adaptation (``trigger`` adapt), which learns no label. ``attempt`` is the fencing token: a
    write that carries an older one is refused."""

    __tablename__ = "run"
    __table_args__ = (
        UniqueConstraint("project_id", "number"),
        one_of("trigger", "labels", "manual", "label-studio", "schedule", "adapt"),
        one_of("state", "queued", "training", "judging", "done", "failed", "cancelled"),
        Index(
            "uq_run_one_open",
            "project_id",
            unique=True,
            postgresql_where=text("state IN ('queued', 'training', 'judging')"),
        ),
    )

    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    number: Mapped[int]
    trigger: Mapped[str]
    reasons: Mapped[list[Any]]
    recipe: Mapped[dict[str, Any]]
    recipe_hash: Mapped[str]
    snapshot_blob: Mapped[str]
    version: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="queued")
    attempt: Mapped[int] = mapped_column(Integer, server_default="0")
    crashes: Mapped[int] = mapped_column(Integer, server_default="0")
    lease_holder: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(server_default="false")
    progress: Mapped[dict[str, Any] | None]
    metrics: Mapped[dict[str, Any] | None]
    curves_blob: Mapped[str | None]
    problem: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Schedule(Base):
    """When a project trains by the clock, and when it must not: one row per project. Without ``cron``, quiet hours
    alone. ``next_due_at`` is the truth about what fires next; whoever moves it answers the period."""

    __tablename__ = "schedule"
    __table_args__ = (
        UniqueConstraint("project_id"),
        CheckConstraint("(cron IS NULL) = (next_due_at IS NULL)", name="due"),
        CheckConstraint("(quiet_start IS NULL) = (quiet_end IS NULL)", name="quiet"),
    )

    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    cron: Mapped[str | None]
    tz: Mapped[str]
    quiet_start: Mapped[time | None]
    quiet_end: Mapped[time | None]
    always: Mapped[bool] = mapped_column(server_default="false")
    next_due_at: Mapped[datetime | None]
    last_fired_at: Mapped[datetime | None]
    last_outcome: Mapped[str | None]
    last_outcome_at: Mapped[datetime | None]


class Event(Base):
    """Append-only audit log: who did what to which row. ``seal``: its hash in its project's chain, set afterwards."""

    __tablename__ = "event"
    __table_args__ = (
        CheckConstraint("(seal_number IS NULL) = (seal IS NULL)", name="sealed"),
        Index("uq_event_seal", "project_id", "seal_number", unique=True),
        Index("ix_event_unsealed", "project_id", "id", postgresql_where=text("seal_number IS NULL")),
    )

    project_id: Mapped[int | None] = mapped_column(ForeignKey("project.id"), index=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]
    what: Mapped[str]
    subject: Mapped[str]
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    seal_number: Mapped[int | None]
    seal: Mapped[str | None]


class Token(Base):
    """A key to the API: who it was made for, what it may do, and a digest from which it cannot be had back.

    ``key_id`` is the public half, by which the row is found; ``digest`` is the SHA-256 of the whole token.
    """

    __tablename__ = "token"
    __table_args__ = (
        UniqueConstraint("key_id"),
        one_of("role", "viewer", "annotator", "operator"),
        CheckConstraint("octet_length(digest) = 32", name="digest"),
    )

    key_id: Mapped[str]
    name: Mapped[str]
    role: Mapped[str]
    digest: Mapped[bytes]
    project_id: Mapped[int | None] = mapped_column(ForeignKey("project.id"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Session(Base):
    """One browser at the dashboard; ``digest`` is the SHA-256 of what its cookie holds. Without ``token_id`` it was
    opened with the token of the state folder."""

    __tablename__ = "session"
    __table_args__ = (UniqueConstraint("digest"), Index("ix_session_opened_at", "opened_at"))

    digest: Mapped[bytes]
    token_id: Mapped[int | None] = mapped_column(ForeignKey("token.id"))
    opened_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class Reply(Base):
    """What a write with an ``Idempotency-Key`` was answered, to be said again when the same write comes again."""

    __tablename__ = "reply"
    __table_args__ = (UniqueConstraint("token_id", "idempotency_key"), Index("ix_reply_created_at", "created_at"))

    token_id: Mapped[int] = mapped_column(ForeignKey("token.id"))
    idempotency_key: Mapped[str]
    request_digest: Mapped[bytes]
    status: Mapped[int | None]
    body: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]


class Tally(Base):
    """How one model's prediction stands to one mask, counted (`mpamatch.domain.tallies`): made when missing, from what
    never changes."""

    __tablename__ = "tally"
    __table_args__ = (UniqueConstraint("mask_id", "model_id"),)

    mask_id: Mapped[int] = mapped_column(ForeignKey("mask.id"))
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"), index=True)
    counts: Mapped[bytes]


class Effort(Base):
    """The clicks that a mask's changes are worth, counted once. ``clicks`` None: what was shown is not known any more;
    ``suggested``: a suggestion was in view, so that the mask corrects or confirms it."""

    __tablename__ = "effort"
    __table_args__ = (UniqueConstraint("mask_id"),)

    mask_id: Mapped[int] = mapped_column(ForeignKey("mask.id"))
    clicks: Mapped[float | None]
    suggested: Mapped[bool]


class Agreement(Base):
    """Two people's masks of one tile, compared once. ``counts``: pixels by the first one's class and the second one's,
    row by row; empty where one of them cannot be read any more."""

    __tablename__ = "agreement"
    __table_args__ = (UniqueConstraint("first_mask_id", "second_mask_id"),)

    first_mask_id: Mapped[int] = mapped_column(ForeignKey("mask.id"))
    second_mask_id: Mapped[int] = mapped_column(ForeignKey("mask.id"), index=True)
    counts: Mapped[list[int]]
