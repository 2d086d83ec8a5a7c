"""Every knob of a training run: frozen, checked, hashed, and kept with the model.

Settings (where an installation runs) are elsewhere; nothing here is read from the environment.
Profiles and weights follow MPAMatch (arXiv 2508.19574); the optimiser and the ramps follow UniMatch with the
schedule that was found to work for few steps on a pretrained light encoder.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mpamatch.domain.presets import preset as preset_knobs
from mpamatch.domain.strategy_names import StrategyName
from mpamatch.errors import BadInput

Method = Literal[
    "supervised",
    "mean-teacher",
    "cps",
    "fixmatch",
    "unimatch",
    "unimatch-ema",
    "mpamatch-image",
    "mpamatch-text",
    "mpamatch",
]
Profile = Literal["quick", "demo", "small", "medium"]
Streams = Literal["unimatch", "unimatch-ema"]
Tuning = Literal["auto", "full", "partial", "lora", "frozen"]
Norm = Literal["group", "batch"]
Skips = Literal["none", "vit", "stem"]
SkipsChoice = Literal["auto", "none", "vit", "stem"]
Assignment = Literal["nearest", "sinkhorn"]
PrototypeForm = Literal["other-classes", "all-rows", "class"]
Reseeding = Literal["split", "farthest"]
TauMode = Literal["fixed", "class"]
Photometry = Literal["none", "mild", "strong", "um", "path"]

METHODS: tuple[str, ...] = get_args(Method)
PROFILES: tuple[str, ...] = get_args(Profile)
STRIDE_PX = 32
"""Sides of crops and patches are multiples of this: the encoder's 'SAME' padding depends on parity."""
LONG_RUN_STEPS = 5000
"""From so many steps on a run is long: its image prototypes move more slowly."""

# Steps cold and warm, crop, further reduction, flips averaged by the teacher.
_PROFILES: Mapping[str, Mapping[str, Any]] = {
    # A look at whether the loop turns, in seconds; too short for figures.
    "quick": {"steps_cold": 100, "steps_warm": 50, "crop_px": 96, "further_reduction": 1.0, "checkpoint_every": 10},
    "demo": {"steps_cold": 300, "steps_warm": 240, "crop_px": 128, "further_reduction": 1.0, "teacher_flips": 1},
    "small": {"steps_cold": 600, "steps_warm": 200, "crop_px": 96, "further_reduction": 2.0, "teacher_flips": 4},
    "medium": {"steps_cold": 3000, "steps_warm": 600, "crop_px": 128, "further_reduction": 1.0, "teacher_flips": 4},
}


@dataclass(frozen=True)
class Recipe:
    """All knobs of one run, and the ``strategy`` that ranks what to label with its model.

    Fractions (``warmup``, ``ramp_start``, ``ramp_end``) are of the planned steps; ``beta`` and ``gamma`` weigh the
    labelled and the unlabelled loss and hold for methods that use the pool (``supervised`` is 1 and 0).
    ``prototype_momentum`` is that of runs below 5000 steps, see :meth:`most_prototype_momentum`.
    Low-rank tuning is given up when at ``lora_guard_at`` of the steps its loss on tiles kept back is more than
    ``lora_guard`` times that of a frozen encoder; 0 leaves that out. ``skips`` ``auto`` comes to a stem where the
    median object is less than ``stem_below_px`` across at the working scale.
    Photometry is by level: ``mild`` and ``strong`` jitter stains too; ``um`` is UniMatch's, with hues that no scanner
    makes, and ``path`` the same with colours kept to tissue's.
    ``reduction`` is the factor by which images shrink before the network; None takes 1 when the image's long side
    is at most ``full_size_px`` and 2 above, times ``further_reduction``. Raises BadInput naming the knob.

    >>> Recipe.for_profile("demo").method
    'mpamatch-image'
    """

    method: Method = "mpamatch-image"
    strategy: StrategyName = "mpamatch"
    profile: Profile = "demo"
    # network
    encoder: str = "light"
    tuning: Tuning = "auto"
    partial_blocks: int = 4
    lora_rank: int = 16
    lora_guard: float = 1.5
    lora_guard_at: float = 0.2
    block_lr_decay: float = 0.8
    skips: SkipsChoice = "none"
    stem_below_px: float = 32.0
    decoder_norm: Norm = "group"
    prototype_attention: bool = False
    # scale
    reduction: float | None = None
    further_reduction: float = 1.0
    full_size_px: int = 512
    crop_px: int = 128
    patch_px: int = 256
    # length and batches
    steps_cold: int = 300
    steps_warm: int = 240
    labelled_batch: int = 4
    unlabelled_batch: int = 4
    checkpoint_every: int = 50
    report_every: int = 5
    # optimiser
    lr: float = 3e-3
    encoder_lr_factor: float = 0.3
    vit_lr: float = 2e-4
    vit_encoder_lr: float = 1e-5
    lora_lr: float = 1e-4
    weight_decay: float = 0.01
    warmup: float = 0.05
    poly_power: float = 0.9
    clip_norm: float = 1.0
    non_finite_limit: int = 10
    non_finite_window: int = 100
    # pseudo-labels
    ema_decay: float = 0.99
    tau: float = 0.95
    tau_mode: TauMode = "fixed"
    teacher_flips: int = 1
    strong_views: int = 1
    streams: Streams = "unimatch-ema"
    alpha: float = 0.25
    beta: float = 0.5
    gamma: float | None = None
    ramp_start: float = 0.2
    ramp_end: float = 0.4
    ramp_when_warm: bool = False
    labels_override: bool = True
    # prototypes
    embedding_channels: int = 64
    prototypes_per_class: int = 3
    assignment: Assignment = "nearest"
    prototype_form: PrototypeForm = "other-classes"
    prototype_temperature: float = 0.1
    pull_weight: float = 0.1
    prototype_momentum: float = 0.99
    prototype_purity: float = 0.75
    prototype_pixels: int = 2048
    prototype_start: float = 0.05
    prototype_ramp_end: float = 0.15
    prototype_pool_start: float = 0.2
    prototype_pool_weight: float = 0.5
    reseeding: Reseeding = "split"
    reseed_after: int = 200
    # text
    text: str = "minilm"
    prompts: str = "P-nonsim"
    context_tokens: int = 1
    context_per_class: bool = False
    text_temperature: float = 0.07
    text_pull: float = 0.0
    text_every: int = 8
    # views
    scale_min: float = 0.75
    scale_max: float = 1.33
    labelled_photometry: Photometry = "mild"
    unlabelled_photometry: Photometry = "strong"
    cutmix_p: float = 0.5
    cutmix_area_min: float = 0.02
    cutmix_area_max: float = 0.4
    cutmix_aspect_min: float = 0.3
    # kept back for early figures and the temperature
    holdout_share: float = 0.2
    temperature_max: float = 5.0
    temperature_prior_units: float = 8.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, _hints()[field.name], getattr(self, field.name))
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise BadInput(f"recipe.{name}", f"is {value}", f"give a value from {low} to {high}")
        for low_name, high_name in _ORDERED:
            if getattr(self, low_name) > getattr(self, high_name):
                raise BadInput(f"recipe.{low_name}", f"is above {high_name}", "swap the two or widen the range")
        for name in ("crop_px", "patch_px"):
            if getattr(self, name) % STRIDE_PX:
                raise BadInput(f"recipe.{name}", f"is {getattr(self, name)}", f"give a multiple of {STRIDE_PX}")

    @classmethod
    def for_profile(cls, profile: str, method: str | None = None, *, preset: str | None = None, **knobs: Any) -> Recipe:
        """The recipe of a profile by name, a ``preset`` laid over it and ``knobs`` over both. Raises BadInput."""
        if profile not in _PROFILES:
            raise BadInput(f"profile {profile!r}", "unknown", f"known profiles: {', '.join(PROFILES)}")
        values: dict[str, Any] = {"profile": profile, **_PROFILES[profile]}
        values |= {**(preset_knobs(preset) if preset else {}), **knobs}
        if method is not None:
            values["method"] = method
        return cls.from_json(values)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_json`; knobs not named take their defaults. Raises BadInput."""
        values = {_RENAMED.get(name, name): value for name, value in values.items()}
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise BadInput(f"recipe.{unknown[0]}", "no such knob", "see `mpamatch recipe --json`")
        return cls(**{name: _as_float(_hints()[name], value) for name, value in values.items()})

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def sha256(self) -> str:
        """Hex digest of the knobs: equal recipes, equal digest, on any machine."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def uses_pool(self) -> bool:
        return self.method != "supervised"

    @property
    def uses_image_prototypes(self) -> bool:
        return self.method in ("mpamatch-image", "mpamatch") and self.prototype_weight > 0

    @property
    def uses_text_prototypes(self) -> bool:
        return self.method in ("mpamatch-text", "mpamatch") and self.text != "none" and self.prototype_weight > 0

    @property
    def prototype_weight(self) -> float:
        """The weight alpha of L_P, 0 for methods without prototypes."""
        return self.alpha if self.method.startswith("mpamatch") else 0.0

    @property
    def pool_weight(self) -> float:
        """The weight gamma of L_u: prototypes take their quarter from UniMatch's half, baselines keep the half."""
        if self.gamma is not None:
            return self.gamma
        return 0.25 if self.uses_image_prototypes or self.uses_text_prototypes else 0.5

    @property
    def labels_itself(self) -> bool:
        """Whether pseudo-labels are the student's own, of the same pass, and not those of its moving average."""
        return self.method == "unimatch" or (self.method.startswith("mpamatch") and self.streams == "unimatch")

    @property
    def views_per_tile(self) -> int:
        """Strong views of each pool tile: some methods have one or two by definition."""
        if self.labels_itself:
            return 2
        return 1 if self.method in ("mean-teacher", "cps", "fixmatch") else self.strong_views

    def steps(self, *, warm: bool) -> int:
        return self.steps_warm if warm else self.steps_cold

    def most_prototype_momentum(self, steps: int) -> float:
        """The most that a row of the bank keeps of itself at an update, in a run of so many ``steps``.

        ``prototype_momentum`` in a short one; a long one moves its rows ten times more slowly. The half-life is 69
        updates at 0.99 and 693 at 0.999 (ProtoSeg's), which a short run has not.

        >>> Recipe().most_prototype_momentum(4999), round(Recipe().most_prototype_momentum(5000), 6)
        (0.99, 0.999)
        """
        if steps < LONG_RUN_STEPS:
            return self.prototype_momentum
        return 1 - (1 - self.prototype_momentum) / 10

    def reduction_for(self, long_side_px: int) -> float:
        """The reduction factor for images of this size (>= 1)."""
        if self.reduction is not None:
            return self.reduction
        return (1.0 if long_side_px <= self.full_size_px else 2.0) * self.further_reduction


# Knobs of models from earlier versions, under the names they have now.
_RENAMED: Mapping[str, str] = {"segmenter": "encoder"}

_RANGES: tuple[tuple[str, float, float], ...] = (
    ("reduction", 1, 64), ("further_reduction", 1, 16), ("full_size_px", 32, 100_000),
    ("crop_px", 64, 1024), ("patch_px", 64, 4096), ("steps_cold", 1, 1_000_000), ("steps_warm", 1, 1_000_000),
    ("labelled_batch", 1, 256), ("unlabelled_batch", 1, 256), ("checkpoint_every", 1, 100_000),
    ("report_every", 1, 10_000), ("lr", 1e-8, 1), ("encoder_lr_factor", 0, 10),
    ("vit_lr", 1e-8, 1), ("vit_encoder_lr", 1e-9, 1), ("lora_lr", 1e-8, 1), ("weight_decay", 0, 1),
    ("warmup", 0, 1), ("poly_power", 0, 10), ("clip_norm", 1e-6, 1e6), ("non_finite_limit", 1, 1000),
    ("non_finite_window", 1, 10_000), ("ema_decay", 0, 0.99999), ("tau", 0, 1), ("strong_views", 1, 2),
    ("alpha", 0, 100), ("beta", 0, 100), ("gamma", 0, 100), ("ramp_start", 0, 1), ("ramp_end", 0, 1),
    ("scale_min", 0.1, 10), ("scale_max", 0.1, 10), ("cutmix_p", 0, 1),
    ("cutmix_area_min", 0.001, 1), ("cutmix_area_max", 0.001, 1),
    ("cutmix_aspect_min", 0.05, 1), ("holdout_share", 0, 0.5), ("temperature_max", 1, 100),
    ("temperature_prior_units", 0, 1e6), ("teacher_flips", 1, 4), ("partial_blocks", 1, 100), ("lora_rank", 1, 512),
    ("lora_guard", 0, 1000), ("lora_guard_at", 0.01, 0.5), ("stem_below_px", 0, 100_000),
    ("block_lr_decay", 0.01, 1), ("embedding_channels", 8, 1024), ("prototypes_per_class", 1, 100),
    ("prototype_temperature", 0.01, 10), ("pull_weight", 0, 100), ("prototype_momentum", 0, 0.99999),
    ("prototype_purity", 0.5, 1), ("prototype_pixels", 16, 1_000_000), ("prototype_start", 0, 1),
    ("prototype_ramp_end", 0, 1), ("prototype_pool_start", 0, 1), ("prototype_pool_weight", 0, 100),
    ("reseed_after", 1, 1_000_000), ("context_tokens", 0, 16), ("text_temperature", 0.01, 10), ("text_pull", 0, 100),
    ("text_every", 1, 1000),
)  # fmt: skip
_ORDERED = (
    ("ramp_start", "ramp_end"),
    ("prototype_start", "prototype_ramp_end"),
    ("scale_min", "scale_max"),
    ("cutmix_area_min", "cutmix_area_max"),
    ("non_finite_limit", "non_finite_window"),
)


@functools.cache
def _hints() -> dict[str, Any]:
    return typing.get_type_hints(Recipe)


def _check_type(name: str, hint: Any, value: Any) -> None:
    if typing.get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise BadInput(f"recipe.{name}", f"is {value!r}", f"one of {', '.join(map(str, get_args(hint)))}")
        return
    allowed = get_args(hint) or (hint,)
    if not any(type(value) is t for t in allowed) or (isinstance(value, float) and value != value):
        wanted = " or ".join("nothing" if t is type(None) else t.__name__ for t in allowed)
        raise BadInput(f"recipe.{name}", f"is {value!r}", f"give {wanted}")


def _as_float(hint: Any, value: Any) -> Any:
    """Whole numbers are fine where a knob is a float (JSON writes 1.0 and 1 alike)."""
    takes_float = hint is float or float in get_args(hint)
    return float(value) if takes_float and type(value) is int else value
