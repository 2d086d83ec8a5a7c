"""A batch of 50 out of 10,000 predicted maps, by us, by BaaL's heuristics and by scikit-activeml's batch strategies.

A script of its own, since those two need an environment of theirs, and since each strategy is measured in a process of
its own: seconds with reading the maps but without imports, and the highest memory. Run by `queue.py --peers PYTHON`;
knows nothing of ours but in ``_ours``.

The maps are drawn: a thousand scenes, each seen ten times with little difference, as serial sections and overlapping
tiles are; their embeddings likewise.
"""

from __future__ import annotations

import sys

# Run as a file: this folder's `queue` is not the standard library's, which many import.
if __name__ == "__main__":
    sys.path.pop(0)

import json
import resource
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np

SCENES, COPIES, LABELLED = 1_000, 10, 100
PASSES, CLASSES, SIDE_PX, CHANNELS = 8, 5, 16, 64
BATCH = 50
COPY_COSINE = 0.95


def make_maps(folder: Path, scenes: int = SCENES) -> None:
    """``maps.npy`` float32 (N, C, H, W, passes) of probabilities, ``embeddings.npy`` float32 (N, D) of unit length; the
    first rows are labelled."""
    rng = np.random.default_rng(0)
    count = scenes * COPIES
    scene = rng.permutation(np.repeat(np.arange(scenes), COPIES))
    middles = rng.normal(size=(scenes, CHANNELS))
    embeddings = middles[scene] + 0.05 * rng.normal(size=(count, CHANNELS))
    np.save(folder / "embeddings.npy", (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype("f4"))
    sharpness = rng.uniform(0.5, 4.0, scenes)[scene]
    likely = rng.normal(size=(scenes, CLASSES, 1, 1, 1))
    maps = np.lib.format.open_memmap(
        folder / "maps.npy", mode="w+", dtype="f4", shape=(count, CLASSES, SIDE_PX, SIDE_PX, PASSES)
    )
    for row in range(count):
        logits = (
            likely[scene[row]] + rng.normal(size=maps.shape[1:]) * 0.3 + rng.normal(size=maps.shape[1:-1])[..., None]
        )
        weights = np.exp(sharpness[row] * logits)
        maps[row] = weights / weights.sum(axis=0)


def copies(folder: Path, picks: list[int]) -> int:
    """How many of the picks are nearly the same as an earlier one or as something labelled."""
    embeddings = np.load(folder / "embeddings.npy")
    seen = embeddings[:LABELLED]
    found = 0
    for pick in picks:
        found += bool((seen @ embeddings[pick]).max() > COPY_COSINE)
        seen = np.concatenate([seen, embeddings[pick][None]])
    return found


def _ours(folder: Path, name: str) -> list[int]:
    from mpamatch.domain.candidates import Batch, Candidates
    from mpamatch.domain.factors import Factors
    from mpamatch.domain.novelty import distances
    from mpamatch.domain.ranking_policy import RankingPolicy
    from mpamatch.domain.strategies import STRATEGIES

    maps, embeddings = np.load(folder / "maps.npy", mmap_mode="r"), np.load(folder / "embeddings.npy")
    policy, rows = RankingPolicy(), np.arange(LABELLED, len(maps))
    entropy, impurity = np.zeros(len(maps)), np.zeros(len(maps))
    worth = np.zeros((len(maps), CLASSES))
    for start in range(0, len(maps), 500):
        block = np.asarray(maps[start : start + 500]).mean(axis=-1)
        per_pixel = -(block * np.log(block)).sum(axis=1) / np.log(CLASSES)
        entropy[start : start + 500] = per_pixel.mean(axis=(1, 2))
        worth[start : start + 500] = (per_pixel[:, None] * block).mean(axis=(2, 3))
        shares = np.stack([(block.argmax(axis=1) == c).mean(axis=(1, 2)) for c in range(CLASSES)], axis=1)
        impurity[start : start + 500] = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)
    predicted = worth.argmax(axis=1)
    candidates = Candidates.of(
        ids=rows,
        images=rows,
        groups=rows % 50,
        factors=Factors.of(
            area_px=np.full(len(rows), float(SIDE_PX**2)),
            uncertainty=entropy[rows].clip(0, 1),
            impurity=(impurity[rows] / np.log(CLASSES)).clip(0, 1),
            predicted_class=predicted[rows],
            distance=distances(embeddings[rows], embeddings[:LABELLED]),
            policy=policy,
        ),
        class_worth=worth[rows],
        vectors=embeddings[rows],
    )
    batch = Batch(size=BATCH, policy=policy, seed=1, round_number=5)
    return [int(row) for row in STRATEGIES[name].pick(candidates, batch).ids]


def _baal(folder: Path, name: str) -> list[int]:
    from baal.active import heuristics

    maps = np.load(folder / "maps.npy")[LABELLED:]
    if name == "BatchBALD":  # of whole tiles: its joint entropies are not for maps
        ranked = heuristics.BatchBALD(num_samples=BATCH)(maps.mean(axis=(2, 3)))
    else:
        ranked = getattr(heuristics, name)(reduction="mean")(maps)
    return [int(row) + LABELLED for row in np.asarray(ranked).ravel()[:BATCH]]


def _skactiveml(folder: Path, name: str) -> list[int]:
    from skactiveml import pool
    from skactiveml.classifier import SklearnClassifier
    from sklearn.linear_model import LogisticRegression

    embeddings = np.load(folder / "embeddings.npy")
    labels = np.full(len(embeddings), np.nan)
    labels[:LABELLED] = np.load(folder / "maps.npy", mmap_mode="r")[:LABELLED].mean(axis=(2, 3, 4)).argmax(axis=1)
    more = {}
    if name in ("Badge", "UncertaintySampling"):
        classifier = SklearnClassifier(LogisticRegression(max_iter=200), classes=np.arange(CLASSES))
        more = {"clf": classifier.fit(embeddings, labels), "fit_clf": False}
    return [int(row) for row in getattr(pool, name)(random_state=1).query(embeddings, labels, batch_size=BATCH, **more)]


# Imported before the clock runs: torch alone takes seconds.
_MODULES = {
    "ours": ("mpamatch.domain.novelty", "mpamatch.domain.strategies"),
    "baal": ("baal.active.heuristics",),
    "skactiveml": ("skactiveml.pool", "skactiveml.classifier", "sklearn.linear_model"),
}
WHO: dict[str, tuple[Callable[[Path, str], list[int]], tuple[str, ...]]] = {
    "ours": (_ours, ("mpamatch", "entropy", "coreset")),
    "baal": (_baal, ("Entropy", "BALD", "BatchBALD")),
    "skactiveml": (_skactiveml, ("UncertaintySampling", "CoreSet", "TypiClust", "Badge", "ProbCover")),
}


def main() -> None:
    folder, who, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if who == "ours":
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    for module in _MODULES[who]:
        import_module(module)
    began = time.perf_counter()
    picks = WHO[who][0](folder, name)
    seconds = time.perf_counter() - began
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib, "copies": copies(folder, picks), "picks": picks}))


if __name__ == "__main__":
    main()
