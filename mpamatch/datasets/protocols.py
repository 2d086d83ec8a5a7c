"""Which images are labelled, pool and audit in an experiment: drawn by seed, spread over patients, kept as lists.

Pure: takes items, reads no file. Every draw is a hash of (seed, name), so it does not depend on the order of the
items, and a larger draw holds the smaller one of the same seed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpamatch.datasets.items import DatasetItem
from mpamatch.domain.draws import hash_draw
from mpamatch.domain.splits import check_apart
from mpamatch.errors import BadInput

# Shares of labelled images that a ladder goes through; the paper's own is 7 : 2, which is 78 %.
RATIOS = (0.01, 0.02, 0.05, 0.10, 0.20, 0.50, 0.78)
_KEYS = ("labelled", "pool", "audit", "test")


@dataclass(frozen=True)
class ImageLists:
    """The images of one experiment by name: ``labelled``, ``pool`` (not labelled), ``audit`` and ``test``.

    ``protocol`` says how they were drawn; with ``dataset`` and ``seed`` it is all that is needed to draw them again.
    """

    dataset: str
    protocol: str
    seed: int
    labelled: tuple[str, ...]
    pool: tuple[str, ...]
    audit: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @property
    def groups_apart(self) -> bool:
        """Whether patients are kept apart; published partitions by image do not promise it."""
        return self.protocol not in NAMED

    def to_json(self) -> dict[str, Any]:
        head = {"dataset": self.dataset, "protocol": self.protocol, "seed": self.seed}
        return head | {key: list(getattr(self, key)) for key in _KEYS}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ImageLists:
        """The inverse of :meth:`to_json`. Raises BadInput for what is no such document, or a name in two lists."""
        try:
            lists = {key: tuple(str(name) for name in values.get(key, ())) for key in _KEYS}
            made = cls(str(values["dataset"]), str(values["protocol"]), int(values["seed"]), **lists)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem, remedy = f"not a document of lists ({error!r})", "give dataset, protocol, seed and the four lists"
            raise BadInput("image lists", problem, remedy) from error
        counts = Counter(name for key in _KEYS for name in lists[key])
        if twice := sorted(name for name, count in counts.items() if count > 1):
            raise BadInput("image lists", f"{len(twice)} names occur twice, such as {twice[0]}", "name each once")
        return made


def count_of(share: float, total: int) -> int:
    """How many images a share is: rounded, at least one, at most all.

    >>> [count_of(share, 34) for share in (0.01, 0.1, 0.78)]
    [1, 3, 27]
    """
    if not 0 < share <= 1 or total < 1:
        raise BadInput("labelled share", f"is {share} of {total} images", "give a share above 0 and up to 1")
    return min(total, max(1, math.floor(share * total + 0.5)))


def draw_order(items: Iterable[DatasetItem], seed: int, *, least: int = 0) -> tuple[str, ...]:
    """All names in the order in which they would be labelled; a draw of n images is the first n.

    Next is always an image of the group that was drawn least, and of those groups one of the kind that was drawn
    least; the seed decides the rest. First of all each kind gets ``least`` images, if it has them.
    """
    buckets: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for item in items:
        draw = (hash_draw(seed, "labelled", item.name), item.name)
        buckets.setdefault((item.group, item.kind), []).append(draw)
    for draws in buckets.values():
        draws.sort(reverse=True)  # the next one is the last
    sizes = Counter({kind: 0 for _, kind in buckets})
    for (_, kind), draws in buckets.items():
        sizes[kind] += len(draws)
    groups, kinds = Counter[str](), Counter[str]()
    order: list[str] = []
    while buckets:
        short = {s for s in sizes if kinds[s] < min(least, sizes[s])}
        keys = [key for key in buckets if not short or key[1] in short]
        key = min(keys, key=lambda k: (groups[k[0]], kinds[k[1]], buckets[k][-1]))
        order.append(buckets[key].pop()[1])
        groups[key[0]] += 1
        kinds[key[1]] += 1
        if not buckets[key]:
            del buckets[key]
    return tuple(order)


def draw_labelled(items: Iterable[DatasetItem], count: int | None, seed: int, *, least: int = 0) -> tuple[str, ...]:
    """The names of ``count`` items to label (all by default), sorted; how they are spread: :func:`draw_order`.

    Raises BadInput when there are fewer items, or ``count`` does not give every kind ``least``.
    """
    found = list(items)
    if not found or (count is not None and not 1 <= count <= len(found)):
        wanted = "some" if count is None else str(count)
        raise BadInput("labelled images", f"{wanted} wanted, {len(found)} images have a mask", "ask for fewer")
    if count is None:
        return tuple(sorted(item.name for item in found))
    sizes = Counter(item.kind for item in found)
    if poor := sorted(kind for kind, size in sizes.items() if size < least):
        problem = f"{sizes[poor[0]]} images of {poor[0]!r}, {least} wanted of each kind"
        raise BadInput("labelled images", problem, "ask for fewer of each")
    if count < least * len(sizes):
        problem = f"{count} wanted, {least} of each of {len(sizes)} kinds are {least * len(sizes)}"
        raise BadInput("labelled images", problem, "ask for more in all, or fewer of each")
    return tuple(sorted(draw_order(found, seed, least=least)[:count]))


def draw_lists(
    dataset: str,
    train: Sequence[DatasetItem],
    audit: Sequence[DatasetItem],
    count: int,
    seed: int,
    *,
    least: int = 0,
    test: Sequence[DatasetItem] = (),
) -> ImageLists:
    """The lists of one experiment: ``count`` of ``train`` labelled, the rest of it pool, ``audit`` as it is.

    Only items with a mask file are drawn as labelled; the others are pool.

    Raises BadInput as :func:`draw_labelled`, and when a group of ``train`` is in ``audit`` or ``test`` too.
    """
    check_apart(_named(train), _named([*audit, *test]))
    labelled = draw_labelled([item for item in train if item.mask is not None], count, seed, least=least)
    protocol = f"{count} labelled" + (f", {least} of each kind at least" if least else "")
    pool = sorted({item.name for item in train} - set(labelled))
    held, tested = (tuple(sorted(item.name for item in part)) for part in (audit, test))
    return ImageLists(dataset, protocol, seed, labelled, tuple(pool), held, tested)


def group_folds(items: Iterable[DatasetItem], folds: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """The names that each fold leaves out: whole groups, every item once, folds of about equal size.

    For tuning inside a training list, so that the audit images are not looked at. Raises BadInput with fewer groups
    than folds, or less than two folds.
    """
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item.name)
    if not 2 <= folds <= len(groups):
        raise BadInput("folds", f"{folds} wanted of {len(groups)} groups", "ask for 2 folds up to one of each group")
    made: list[list[str]] = [[] for _ in range(folds)]
    # The largest groups first, each to the smallest fold: what is left evens out.
    for group in sorted(groups, key=lambda g: (-len(groups[g]), hash_draw(seed, "fold", g), g)):
        min(made, key=len).extend(groups[group])
    return tuple(tuple(sorted(names)) for names in made)


@dataclass(frozen=True)
class NamedProtocol:
    """A published partition of a whole set by its official train and test images: counts of each part.

    Which images were taken is not published, so ours are drawn by seed. The official parts of GlaS share patients, so
    only images are kept apart here.
    """

    name: str
    dataset: str
    labelled: int
    pool: int
    audit: int
    test: int
    source: str

    @property
    def train(self) -> int:
        return self.labelled + self.pool + self.audit

    def lists(self, items: Iterable[DatasetItem], seed: int) -> ImageLists:
        """Its lists for all items of the set. Raises BadInput in one line when only a part of the set is here."""
        train: list[DatasetItem] = []
        test: list[DatasetItem] = []
        for item in items:
            (test if item.name.startswith("test") else train).append(item)
        if (len(train), len(test)) != (self.train, self.test):
            problem = f"needs {self.train} official train and {self.test} test images of {self.dataset}"
            here = f"{len(train)} and {len(test)} are here"
            raise BadInput(f"protocol {self.name}", f"{problem}; {here}", "get the whole set, without splits/ lists")
        # The audit images do not depend on how many are labelled: one draw of its own.
        audit = set(draw_order(train, hash_draw(seed, "audit", self.dataset))[: self.audit])
        rest = [item for item in train if item.name not in audit]
        labelled = draw_labelled(rest, self.labelled, seed)
        pool = tuple(sorted({item.name for item in rest} - set(labelled)))
        tested = tuple(sorted(item.name for item in test))
        return ImageLists(self.dataset, self.name, seed, labelled, pool, tuple(sorted(audit)), tested)


_UNISEMALIGN = "UniSemAlign, arXiv 2604.09169"
NAMED: Mapping[str, NamedProtocol] = {
    protocol.name: protocol
    for protocol in (
        NamedProtocol("glas-10", "glas", 7, 66, 12, 80, _UNISEMALIGN),
        NamedProtocol("glas-20", "glas", 14, 59, 12, 80, _UNISEMALIGN),
        NamedProtocol("crag-10", "crag", 16, 137, 20, 40, _UNISEMALIGN),
        NamedProtocol("crag-20", "crag", 31, 122, 20, 40, _UNISEMALIGN),
    )
}


def named_protocol(name: str) -> NamedProtocol:
    """A published protocol. Raises BadInput naming those that are known."""
    if name not in NAMED:
        raise BadInput(f"protocol {name!r}", "unknown", f"one of {', '.join(NAMED)}")
    return NAMED[name]


def _named(items: Iterable[DatasetItem]) -> list[tuple[str, str]]:
    return [(item.name, item.group) for item in items]
