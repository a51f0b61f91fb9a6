"""k-means itself: k-means++ starts, full Lloyd iterations, mini-batches. Both searches can be left and taken up again.

Their `state()` between two steps, given back to `restore`, leads to the same centroids bit for bit on the same machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slm.errors import UsageError
from slm.tokenizers._kmeans import CHUNK_FRAMES, nearest

if TYPE_CHECKING:
    import torch

_CONVERGED = 1e-5  # relative fall of the inertia below which an iteration is the last
_START_FRAMES_PER_CLUSTER = 256  # of which k-means++ chooses: more do not make better starts, and each is read k times
_IDLE_FRAMES_PER_CLUSTER = 100  # a cluster that takes none of so many x k frames in mini-batches is dead

State = tuple[dict[str, "torch.Tensor"], dict[str, Any]]
"""Tensors, and values that JSON keeps exactly."""


@dataclass(frozen=True)
class Fit:
    """Outcome of k-means: `inertia` is the sum over frames of squared distances; `reseeded` counts dead clusters."""

    centroids: torch.Tensor
    inertia: float
    iterations: int
    reseeded: int


def plus_plus(frames: torch.Tensor, k: int, generator: torch.Generator) -> torch.Tensor:
    """k-means++ (Arthur and Vassilvitskii, 2007) on a sample of the frames: each start is drawn in proportion to its
    squared distance from those before. UsageError for fewer frames than clusters."""
    import torch

    if len(frames) < k:
        raise UsageError(f"{len(frames)} frames cannot make {k} clusters: give more audio or a smaller --k")
    if len(frames) > (most := _START_FRAMES_PER_CLUSTER * k):
        frames = frames[torch.randperm(len(frames), generator=generator)[:most].to(frames.device)]
    first = torch.randint(len(frames), (1,), generator=generator).item()
    chosen = [int(first)]
    distances = torch.full((len(frames),), float("inf"), device=frames.device)
    for _ in range(1, k):
        distances = torch.minimum(distances, nearest(frames, frames[chosen[-1:]])[1])
        # Inverse-transform sampling in fp64: torch.multinomial stops at 2**24 categories.
        mass = distances.double().cumsum(dim=0)
        point = torch.rand(1, generator=generator, dtype=torch.float64).to(mass.device) * mass[-1]
        chosen.append(min(int(torch.searchsorted(mass, point, right=True)), len(frames) - 1))
    return frames[chosen].clone()


class Lloyd:
    """`restarts` runs of Lloyd's algorithm from k-means++ starts on frames `[N, d]`, N >= k, an iteration a step;
    `best` is the one that counts.

    All frames take part in every iteration; a cluster left without frames moves to the frame farthest from its own
    centroid. The same frames, seed and device give the same centroids.
    """

    best: Fit

    def __init__(
        self,
        frames: torch.Tensor,
        k: int,
        seed: int = 0,
        restarts: int = 3,
        iterations: int = 100,
        report: Callable[[str], None] = lambda line: None,
        state: State | None = None,
    ):
        """`state` goes on where another search on the same frames and settings was left."""
        import torch

        self.frames, self.k, self.restarts, self.iterations, self.report = frames, k, restarts, iterations, report
        self.generator = torch.Generator().manual_seed(seed)
        self.run = 0
        if state is None:
            self._begin()
        else:
            self._restore(state)

    def _begin(self) -> None:
        self.centroids = plus_plus(self.frames, self.k, self.generator)
        self.updates, self.reseeded, self.previous = 0, 0, float("inf")

    def step(self) -> bool:
        """One iteration; False when all runs are done."""
        index, distances = nearest(self.frames, self.centroids)
        inertia = distances.double().sum().item()
        last = self.updates == self.iterations or self.previous - inertia <= _CONVERGED * inertia
        if not last:
            self.previous = inertia
            self.centroids, dead = _means(self.frames, index, self.centroids)
            if len(dead):
                self.centroids[dead] = self.frames[distances.topk(len(dead)).indices]
            self.reseeded += len(dead)
            self.updates += 1
        if last or len(dead) or self.updates % 10 == 0:
            self.report(
                f"run {self.run + 1} of {self.restarts}, iteration {self.updates}: inertia per frame "
                f"{inertia / len(self.frames):.6g}, dead clusters reseeded {self.reseeded}{', done' if last else ''}"
            )
        return not last or self._next(Fit(self.centroids, inertia, self.updates, self.reseeded))

    def _next(self, fit: Fit) -> bool:
        if self.run == 0 or fit.inertia < self.best.inertia:
            self.best = fit
        self.run += 1
        if self.run < self.restarts:
            self._begin()
        return self.run < self.restarts

    def state(self) -> State:
        tensors = {"centroids": self.centroids, "generator": self.generator.get_state()}
        values: dict[str, Any] = {name: getattr(self, name) for name in ("run", "updates", "reseeded", "previous")}
        if self.run:
            tensors["best"] = self.best.centroids
            values["best"] = [self.best.inertia, self.best.iterations, self.best.reseeded]
        return tensors, values

    def _restore(self, state: State) -> None:
        tensors, values = state
        self.centroids = tensors["centroids"].to(self.frames.device)
        self.generator.set_state(tensors["generator"])
        if "best" in values:
            self.best = Fit(tensors["best"].to(self.frames.device), *values["best"])
        for name in ("run", "updates", "reseeded", "previous"):
            setattr(self, name, values[name])


def _sums(frames: torch.Tensor, index: torch.Tensor, k: int) -> torch.Tensor:
    """The sum `[k, d]` of the frames of each cluster, in fp64."""
    import torch

    sums = torch.zeros((k, frames.shape[1]), dtype=torch.float64, device=frames.device)
    for chunk, labels in zip(frames.split(CHUNK_FRAMES), index.split(CHUNK_FRAMES), strict=True):
        # A product with one-hot rows rather than index_add, whose order of summation is random on a GPU.
        sums += (torch.nn.functional.one_hot(labels, k).T.to(chunk.dtype) @ chunk).double()
    return sums


def _means(frames: torch.Tensor, index: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean frame `[k, d]` of each cluster, and which clusters are empty (they keep their old centroid)."""
    import torch

    k = len(centroids)
    counts = torch.bincount(index, minlength=k)
    means = (_sums(frames, index, k) / counts.clamp_min(1)[:, None]).to(frames.dtype)
    return torch.where(counts[:, None] > 0, means, centroids), (counts == 0).nonzero()[:, 0]


@dataclass
class MiniBatch:
    """Mini-batch k-means (Sculley, 2010): every centroid is the mean of all frames it ever took, batch after batch.

    `update` is that of scikit-learn's MiniBatchKMeans. Its rule for dead clusters is not: one that takes no frame in
    100 x k of them moves to the worst frame of the batch and forgets what it took.
    """

    centroids: torch.Tensor
    weights: torch.Tensor = field(init=False)
    """Frames `[k]` that each centroid is the mean of."""
    idle: torch.Tensor = field(init=False)
    """Frames `[k]` seen since each cluster last took one."""
    taken: torch.Tensor = field(init=False)
    """Frames `[k]` each cluster took in this pass over the audio."""
    inertia: float = 0.0
    """Sum over the frames of this pass of squared distances, each batch before it moves the centroids."""
    reseeded: int = 0

    def __post_init__(self) -> None:
        import torch

        self.weights, self.idle, self.taken = (
            torch.zeros(len(self.centroids), dtype=torch.int64, device=self.centroids.device) for _ in range(3)
        )

    def begin_pass(self) -> None:
        self.taken.zero_()
        self.inertia = 0.0

    def update(self, frames: torch.Tensor) -> None:
        """Frames `[n, d]` move the centroids."""
        import torch

        k = len(self.centroids)
        index, distances = nearest(frames, self.centroids)
        self.inertia += distances.double().sum().item()
        counts = torch.bincount(index, minlength=k)
        sums = self.centroids.double() * self.weights[:, None] + _sums(frames, index, k)
        self.weights += counts
        self.taken += counts
        means = (sums / self.weights.clamp_min(1)[:, None]).to(frames.dtype)
        self.centroids = torch.where(counts[:, None] > 0, means, self.centroids)
        self.idle = torch.where(counts > 0, 0, self.idle + len(frames))
        dead = (self.idle > _IDLE_FRAMES_PER_CLUSTER * k).nonzero()[:, 0][: len(frames)]
        self.centroids[dead] = frames[distances.topk(len(dead)).indices]
        self.weights[dead], self.idle[dead] = 0, 0
        self.reseeded += len(dead)

    def state(self) -> State:
        tensors = {name: getattr(self, name) for name in ("centroids", "weights", "idle", "taken")}
        return tensors, {"inertia": self.inertia, "reseeded": self.reseeded}

    def restore(self, state: State) -> None:
        for name, value in state[0].items():
            setattr(self, name, value.to(self.centroids.device))
        self.inertia, self.reseeded = state[1]["inertia"], state[1]["reseeded"]
