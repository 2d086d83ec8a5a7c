"""Image prototypes: K unit vectors for each class, kept by moving averages of pixel embeddings and never by gradient.

Sources: ProtoSeg (Zhou et al. 2022) and its pixel-prototype successors for assignment and momentum; MPAMatch
(arXiv 2508.19574) for prototypes of several per class. Where ProtoSeg's published code and a single process would
differ (it averages banks, not sums), sums are taken here, so that any number of processes gives one bank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mpamatch.domain.recipe import Assignment, Reseeding

_USAGE_DECAY = 0.99
_DEAD_SHARE = 0.1
_SINKHORN_EPSILON, _SINKHORN_ROUNDS, _SINKHORN_LEAST_PIXELS = 0.05, 3, 8
_KMEANS_ROUNDS = 20
_MOST_SPLIT_PIXELS = 2048


class PrototypeBank(nn.Module):
    """``rows`` float (C, K, D) of unit length; ``active`` bool (C, K), False until seeded.

    ``usage`` float (C, K) is each row's running share of its class's pixels, ``idle`` for how many updates in a row it
    was below a tenth of an even share, ``updates`` how many there were since the start. All are buffers.
    """

    rows: Tensor
    active: Tensor
    usage: Tensor
    idle: Tensor
    updates: Tensor

    def __init__(self, class_count: int, per_class: int, channels: int) -> None:
        super().__init__()
        shape = (class_count, per_class)
        self.register_buffer("rows", torch.zeros(*shape, channels))
        self.register_buffer("active", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("usage", torch.zeros(shape))
        self.register_buffer("idle", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def ready(self) -> Tensor:
        """Which classes have a row, bool (C,)."""
        return self.active.any(dim=1)

    @torch.no_grad()
    def seed(self, embeddings: Tensor, classes: Tensor, generator: torch.Generator) -> None:
        """Begin the rows of classes that have none, by k-means over unit ``embeddings`` (N, D) of ``classes`` (N,).

        A class with n pixels gets min(K, max(1, n / 4)) rows; one without any stays inactive.
        """
        per_class = self.rows.shape[1]
        for index in (~self.ready).nonzero().flatten().tolist():
            points = embeddings[classes == index]
            if len(points) == 0:
                continue
            count = min(per_class, max(1, len(points) // 4))
            self.rows[index, :count] = spherical_kmeans(points, count, generator)
            self.active[index, :count] = True
            self.usage[index, :count] = 1 / count

    @torch.no_grad()
    def update(self, sums: Tensor, counts: Tensor, most: float) -> None:
        """One moving average: ``sums`` (C, K, D) weighted sums of embeddings by row, ``counts`` (C, K) their weights.

        P <- normalise(m P + (1 - m) normalise(s)) with m = :func:`momentum`; rows that got nothing stay as they are.
        """
        m = momentum(int(self.updates), most)
        got = (counts > 0) & self.active
        means = functional.normalize(sums, dim=-1)
        moved = functional.normalize(m * self.rows + (1 - m) * means, dim=-1)
        self.rows.copy_(torch.where(got[..., None], moved, self.rows))
        total = counts.sum(dim=1, keepdim=True)
        share = counts / total.clamp(min=1e-12)
        seen = self.active & (total > 0)
        usage = _USAGE_DECAY * self.usage + (1 - _USAGE_DECAY) * share
        self.usage.copy_(torch.where(seen, usage, self.usage))
        low = seen & (self.usage < _DEAD_SHARE / self.active.sum(dim=1, keepdim=True).clamp(min=1))
        self.idle.copy_(torch.where(low, self.idle + 1, torch.where(seen, 0, self.idle)))
        self.updates.add_(1)

    def dead(self, after: int) -> list[tuple[int, int]]:
        """Rows that were hardly used for ``after`` updates: (class, row)."""
        found = ((self.idle >= after) & self.active).nonzero().tolist()
        return [(int(c), int(k)) for c, k in found]

    @torch.no_grad()
    def reseed(self, place: tuple[int, int], row: Tensor) -> None:
        """Put a new unit vector (D,) in the place of a dead row and give it an even share."""
        index, k = place
        self.rows[index, k] = row
        self.usage[index, k] = 1 / float(self.active[index].sum())
        self.idle[index, k] = 0


def momentum(updates: int, most: float) -> float:
    """min(1 - 1 / (t + 10), most): the start survives the first update, later ones weigh less and less.

    >>> momentum(0, 0.99), momentum(10, 0.99), momentum(1_000_000, 0.99)
    (0.9, 0.95, 0.99)
    """
    return min(1 - 1 / (updates + 10), most)


def similarities(embeddings: Tensor, bank: PrototypeBank) -> Tensor:
    """Cosine of each embedding with each row, (N, C, K); -inf for inactive rows."""
    cosine = torch.einsum("nd,ckd->nck", embeddings, bank.rows)
    return cosine.masked_fill(~bank.active, -math.inf)


@torch.no_grad()
def assign(cosine: Tensor, classes: Tensor, method: Assignment) -> Tensor:
    """The row of its own class that each pixel belongs to, int64 (N,).

    ``cosine`` (N, C, K) from :func:`similarities`, ``classes`` int64 (N,). ``nearest``: the highest cosine, which is
    the least distance on the sphere. ``sinkhorn``: spread evenly over a class's rows where it has eight pixels for
    each, else nearest.
    """
    own = cosine[torch.arange(len(classes), device=cosine.device), classes]
    nearest = own.argmax(dim=1)
    if method == "nearest":
        return nearest
    for index in classes.unique().tolist():
        mine = (classes == index).nonzero().flatten()
        active = own[mine[0]] != -math.inf  # not "is finite": what is no number is for the loop to skip
        rows = active.nonzero().flatten()
        if len(mine) >= _SINKHORN_LEAST_PIXELS * len(rows):
            nearest[mine] = rows[sinkhorn(own[mine][:, rows]).argmax(dim=1)]
    return nearest


def sinkhorn(cosine: Tensor, rounds: int = _SINKHORN_ROUNDS, epsilon: float = _SINKHORN_EPSILON) -> Tensor:
    """A transport plan (N, K) with uniform marginals: exp(cosine / epsilon), then rows and columns in turn.

    Computed with logarithms in float64; sums to 1. Source: Cuturi 2013, as used by ProtoSeg.
    """
    log = (cosine.double() / epsilon).clone()
    count, rows = log.shape
    for _ in range(rounds):
        log -= log.logsumexp(dim=0, keepdim=True) + math.log(rows)
        log -= log.logsumexp(dim=1, keepdim=True) + math.log(count)
    return log.exp()


def row_sums(embeddings: Tensor, classes: Tensor, rows: Tensor, weights: Tensor, shape: torch.Size) -> Tensor:
    """Weighted sums by (class, row) and, in a last channel, their weights: (C, K, D + 1) for ``shape`` (C, K, D).

    Additive: the sums of shares and processes make the sums of the whole.
    """
    count, per_class, channels = shape
    parts = torch.cat([embeddings * weights[:, None], weights[:, None]], dim=1)
    sums = parts.new_zeros(count * per_class, channels + 1)
    sums.index_add_(0, classes * per_class + rows, parts)
    return sums.view(count, per_class, channels + 1)


@torch.no_grad()
def spherical_kmeans(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` unit centres (count, D) of unit ``points`` (N, D): k-means++ seeds, 20 rounds, by cosine.

    A centre that loses all its points stays where it is. ``generator`` lives on the CPU.
    """
    centres = _plus_plus(points, count, generator)
    for _ in range(_KMEANS_ROUNDS):
        nearest = (points @ centres.T).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        moved = functional.normalize(sums, dim=1)
        centres = torch.where((sums.norm(dim=1) > 0)[:, None], moved, centres)
    return centres


def _plus_plus(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Seeds drawn one by one with chances that grow with the squared distance to those that there are."""
    first = int(torch.randint(len(points), (1,), generator=generator))
    chosen = [points[first]]
    for _ in range(count - 1):
        cosine = (points @ torch.stack(chosen).T).max(dim=1).values
        chances = (2 - 2 * cosine).clamp(min=0).double().cpu()
        if not float(chances.sum()) > 0:
            chances = torch.ones_like(chances)
        chosen.append(points[int(torch.multinomial(chances, 1, generator=generator))])
    return torch.stack(chosen)


@torch.no_grad()
def replacement(
    bank: PrototypeBank, place: tuple[int, int], embeddings: Tensor, classes: Tensor, how: Reseeding, seed: int
) -> Tensor | None:
    """A unit vector (D,) for a dead row, from this batch's pixels; None when they hold nothing for it.

    ``split``: the most used row of the class is cut in two, and the half that lies farther from it is taken.
    ``farthest``: the pixel of the class that no row of it resembles; it tends to pick what another class looks like.
    In both, pixels that a row of another class is nearer to are barred.
    """
    index, _ = place
    own = embeddings[classes == index]
    if len(own) == 0:
        return None
    cosine = similarities(own, bank)
    own = own[nearer_than_others(cosine, torch.full((len(own),), index, device=own.device))]
    if len(own) == 0:
        return None
    cosine = similarities(own, bank)[:, index]
    if how == "farthest":
        return own[int(cosine.max(dim=1).values.argmin())]
    crowded = int(torch.where(bank.active[index], bank.usage[index], -1.0).argmax())
    cluster = own[cosine.argmax(dim=1) == crowded][:_MOST_SPLIT_PIXELS]
    if len(cluster) < 2:
        return None
    centres = spherical_kmeans(cluster, 2, torch.Generator().manual_seed(seed))
    return centres[int((centres @ bank.rows[index, crowded]).argmin())]


def nearer_than_others(cosine: Tensor, classes: Tensor) -> Tensor:
    """Whether a row of its own class is the nearest of all to a pixel, bool (N,)."""
    by_class = cosine.max(dim=2).values
    own = by_class.gather(1, classes[:, None]).squeeze(1)
    others = by_class.scatter(1, classes[:, None], -math.inf).max(dim=1).values
    return own >= others


@dataclass(frozen=True)
class Health:
    """Whether prototypes still tell classes apart: cosines within and between classes, and how many rows are used.

    ``used`` is exp of the entropy of usage, the mean over classes; ``collapsed`` says that rows of two classes lie
    on each other (cosine above 0.95) or that fewer than 1.5 rows of a class of several are used.
    """

    within: float
    between: float
    most_between: float
    used: float
    collapsed: bool

    def to_json(self) -> dict[str, float | bool]:
        return dict(vars(self))


@torch.no_grad()
def health(bank: PrototypeBank) -> Health | None:
    """The monitors of a bank; None before it has a row."""
    if not bool(bank.active.any()):
        return None
    classes, _ = bank.active.nonzero(as_tuple=True)
    rows = bank.rows[bank.active]
    cosine = rows @ rows.T
    same = classes[:, None] == classes[None]
    apart = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    within, between = cosine[same & apart], cosine[~same]
    used, of_several = [], []
    for usage in [u[a] for u, a in zip(bank.usage, bank.active, strict=True) if bool(a.any())]:
        share = usage / usage.sum().clamp(min=1e-12)
        used.append(float(torch.exp(-(share * share.clamp(min=1e-12).log()).sum())))
        if len(usage) > 1:
            of_several.append(used[-1])
    most = float(between.max()) if len(between) else math.nan
    return Health(
        within=float(within.mean()) if len(within) else math.nan,
        between=float(between.mean()) if len(between) else math.nan,
        most_between=most,
        used=sum(used) / len(used),
        collapsed=most > 0.95 or min(of_several, default=math.inf) < 1.5,
    )
