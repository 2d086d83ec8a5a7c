"""The experiments by name. Each is data; `docs/experiments.md` says what they ask and what they cost.

Sources of the ranges: the ablations of MPAMatch (arXiv 2508.19574) and of UniSemAlign (arXiv 2604.09169), and
questions that the paper leaves open (length of training, tuning, memory).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mpamatch.domain.recipe import Recipe
from mpamatch.errors import BadInput
from mpamatch.experiments.arms import Arm, Experiment

DEFAULT_TAU = Recipe().tau

# As the paper trains: one labelled and one pool image a step, five rows a class, one context token.
_PAPER: Mapping[str, Any] = {
    "labelled_batch": 1,
    "unlabelled_batch": 1,
    "strong_views": 2,
    "teacher_flips": 1,
    "prototypes_per_class": 5,
    "prototype_attention": True,
    "context_tokens": 1,
    "prompts": "P-nonsim",
    "tau": 0.95,
}
# Long enough to see the pace, with everything on from the first step.
_SHORT: Mapping[str, Any] = {
    "steps_cold": 30,
    "ramp_start": 0.0,
    "ramp_end": 0.0,
    "prototype_start": 0.0,
    "prototype_ramp_end": 0.0,
    "prototype_pool_start": 0.0,
    "checkpoint_every": 1000,
    "report_every": 1,
}

_REPLICATION = Experiment(
    "replication",
    "Do pseudo-labels, then prototypes, beat labels alone with the paper's settings? Its direction, not its digits.",
    (
        *(Arm(method, method, _PAPER) for method in ("supervised", "fixmatch", "unimatch", "mpamatch")),
        Arm("mpamatch-conch", "mpamatch", {**_PAPER, "text": "conch"}, may_lack=True),
    ),
    baseline="supervised",
)

_LADDER = Experiment(
    "ladder",
    "What does each part add to labels alone, at equal steps and at equal training seconds?",
    (
        Arm("supervised", "supervised"),
        Arm("mean-teacher", "mean-teacher"),
        Arm("cps", "cps"),
        Arm("fixmatch", "fixmatch"),
        Arm("unimatch", "unimatch"),
        Arm("unimatch-ema", "unimatch-ema"),
        Arm("mpamatch-image", "mpamatch-image"),
        Arm("mpamatch-text", "mpamatch-text"),
        Arm("mpamatch", "mpamatch"),
        Arm("supervised-equal-seconds", "supervised", seconds_of="mpamatch", pace_of="supervised"),
    ),
    baseline="supervised",
    rivals=(("mpamatch-image", "unimatch-ema"), ("mpamatch", "unimatch-ema"), ("mpamatch", "mpamatch-image")),
)

_PROTOTYPES = Experiment(
    "prototypes",
    "How many image prototypes a class, and how is a pixel given to one?",
    tuple(
        Arm(f"k{rows}-{assignment}", "mpamatch-image", {"prototypes_per_class": rows, "assignment": assignment})
        for rows in (1, 3, 5, 10)
        for assignment in ("nearest", "sinkhorn")
    ),
    baseline="k3-nearest",
)

_THRESHOLD = Experiment(
    "threshold",
    "From which confidence on is a pixel a pseudo-label?",
    (
        *(Arm(f"tau-{tau:.2f}", "mpamatch", {"tau": tau}) for tau in (0.90, 0.95, 0.99)),
        Arm("tau-class", "mpamatch", {"tau_mode": "class"}),
    ),
    baseline="tau-0.95",
)

_CONTEXT = Experiment(
    "context",
    "How many learnt context tokens before the prompt?",
    tuple(Arm(f"context-{tokens}", "mpamatch", {"context_tokens": tokens}) for tokens in (0, 1, 2, 4)),
    baseline="context-1",
)

_PROMPTS = Experiment(
    "prompts",
    "Do pathology's words beat plain ones, and long prompts short ones?",
    tuple(
        Arm(name.lower(), "mpamatch", {"prompts": name, "text": "minilm"})
        for name in ("T-sim", "T-nonsim", "P-sim", "P-nonsim")
    ),
    baseline="t-sim",
)

_PROMPT_NOISE = Experiment(
    "prompt-noise",
    "How many words of the prompts may be replaced before it shows?",
    (
        Arm("as-written", "mpamatch", {"prompts": "P-nonsim", "text": "minilm"}),
        *(
            Arm(f"noise-{words}", "mpamatch", {"prompts": "P-nonsim", "text": "minilm"}, noise_words=words)
            for words in (1, 2, 4, 8)
        ),
        Arm("shuffled", "mpamatch", {"prompts": "P-nonsim", "text": "shuffled"}),
    ),
    baseline="as-written",
)

_TEXT_ENCODERS = Experiment(
    "text-encoders",
    "Do the words matter? Learnt vectors and random words are the controls.",
    (
        *(Arm(f"text-{name}", "mpamatch", {"text": name}) for name in ("none", "learned", "shuffled", "minilm")),
        Arm("text-quiltnet", "mpamatch", {"text": "openclip:QuiltNet-B-32"}, may_lack=True),
        Arm("text-conch", "mpamatch", {"text": "conch"}, may_lack=True),
    ),
    baseline="text-learned",
)

_LABEL_RATIO = Experiment(
    "label-ratio",
    "With how few labels does the pool pay?",
    tuple(
        Arm(f"{method}-{percent}", method, labelled_share=percent / 100, baseline=f"supervised-{percent}")
        for percent in (1, 2, 5, 10, 20, 50, 78)
        for method in ("supervised", "unimatch", "unimatch-ema", "mpamatch")
    ),
    baseline="supervised-10",
)

_TUNING = Experiment(
    "tuning",
    "How much of the encoder is trained?",
    tuple(
        # LoRA itself is the question, so nothing stands in for it where it collapses.
        Arm(tuning, "mpamatch", {"tuning": tuning, "lora_guard": 0.0}, may_lack=tuning == "lora")
        for tuning in ("full", "partial", "lora", "frozen")
    ),
    baseline="full",
)

_EFFICIENCY = Experiment(
    "efficiency",
    "Memory and seconds a step over batch and input size.",
    tuple(
        Arm(
            f"{method}-b{batch}-{side_px}px",
            method,
            {**_SHORT, "labelled_batch": batch, "unlabelled_batch": batch, "crop_px": side_px},
            baseline=f"supervised-b{batch}-{side_px}px",
        )
        for method in ("supervised", "unimatch-ema", "mpamatch")
        for batch in (1, 4, 8)
        for side_px in (96, 128, 256)
    ),
    baseline="supervised-b4-128px",
    scored=False,
    seeds=1,
)

EXPERIMENTS: Mapping[str, Experiment] = {
    one.name: one
    for one in (
        _REPLICATION,
        _LADDER,
        _PROTOTYPES,
        _THRESHOLD,
        _CONTEXT,
        _PROMPTS,
        _PROMPT_NOISE,
        _TEXT_ENCODERS,
        _LABEL_RATIO,
        _TUNING,
        _EFFICIENCY,
    )
}

FREE = "recipe"
"""The experiment whose arms are given by hand."""

NAMES: tuple[str, ...] = (*EXPERIMENTS, FREE)


def find_experiment(name: str, arms: tuple[Arm, ...] = (), only: tuple[str, ...] = ()) -> Experiment:
    """An experiment by name, cut to the arms ``only`` names; ``recipe`` takes its ``arms``, the first as baseline.

    Raises BadInput for an unknown name or arm, arms of one name, and arms given to an experiment that has its own.
    """
    if name not in NAMES:
        raise BadInput(f"experiment {name!r}", "unknown", f"one of {', '.join(NAMES)}")
    if name != FREE and arms:
        raise BadInput(f"experiment {name}", "has its own arms", f"give --arm to the experiment {FREE}")
    if name == FREE:
        if not arms:
            raise BadInput(f"experiment {FREE}", "has no arm", "give --arm name:knob=value,knob=value, twice or more")
        names = [arm.name for arm in arms]
        if twice := next((n for n in names if names.count(n) > 1), None):
            raise BadInput(f"arm {twice!r}", "is there twice", "give each arm a name of its own")
        found = Experiment(FREE, "Recipes given by hand.", arms, baseline=names[0])
    else:
        found = EXPERIMENTS[name]
    if not only:
        return found
    chosen = {found.arm(one).name for one in only}
    arms = tuple(arm for arm in found.arms if arm.name in chosen)
    if lost := next((a for a in arms for need in (a.seconds_of, a.pace_of) if need and need not in chosen), None):
        raise BadInput(f"arm {lost.name!r}", f"needs {lost.seconds_of} and {lost.pace_of}", "name them with --only too")
    return dataclasses.replace(found, arms=arms)
