"""k-means over frames of features: fitting it, its file of centroids, and the tokenizers whose codes it makes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slm.errors import UsageError, did_you_mean
from slm.files import atomic_file
from slm.tokenizers._encoders import FrameEncoder
from slm.tokenizers.base import Tokenizer, fingerprint
from slm.types import TokenizerSpec

if TYPE_CHECKING:
    import torch

ASSETS = Path(__file__).parent / "assets"
_CHUNK_FRAMES = 16_384  # bounds the [frames, k] distances held at once
_CONVERGED = 1e-5  # relative fall of the inertia below which an iteration is the last


@dataclass(frozen=True)
class Centroids:
    """k centroids `[k, d]` of features standardized as (x - mean) / scale, with `mean [d]` and `scale [d]`; fp32.

    The file is safetensors with these three tensors (`mean` and `scale` may be absent: no standardization), so that
    centroids from elsewhere can be used too. `metadata` says what they were fitted on.
    """

    centroids: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, source: str | Path) -> Centroids:
        """From a file, or from the name of a packaged asset. UsageError when there is none or it does not fit."""
        import torch
        from safetensors import SafetensorError, safe_open

        path = find_centroids(source)
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
                metadata = json.loads((file.metadata() or {}).get("slm", "{}"))
        except (SafetensorError, ValueError) as error:
            raise UsageError(f"{path} is not a safetensors file of centroids: {error}") from None
        if "centroids" not in tensors or tensors["centroids"].ndim != 2:
            raise UsageError(f"{path} has no tensor `centroids [k, d]` (make it with `python -m slm.tokenizers fit`)")
        width = tensors["centroids"].shape[1]
        mean, scale = tensors.get("mean", torch.zeros(width)), tensors.get("scale", torch.ones(width))
        if mean.shape != (width,) or scale.shape != (width,):
            raise UsageError(f"{path}: mean {tuple(mean.shape)} and scale {tuple(scale.shape)} must be [{width}]")
        return cls(tensors["centroids"], mean, scale, metadata)

    def save(self, path: str | Path) -> None:
        from safetensors.torch import save

        metadata = {"slm": json.dumps(dict(self.metadata), sort_keys=True)}
        with atomic_file(path) as temporary:
            # Not save_file, which makes files that only their owner can read.
            temporary.write_bytes(save(self.tensors(), metadata=metadata))

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"centroids": self.centroids, "mean": self.mean, "scale": self.scale}

    def to(self, device: str) -> Centroids:
        return Centroids(self.centroids.to(device), self.mean.to(device), self.scale.to(device), self.metadata)

    def standardize(self, features: torch.Tensor) -> torch.Tensor:
        return (features.float() - self.mean) / self.scale

    def assign(self, features: torch.Tensor) -> torch.Tensor:
        """Features `[T, d]` -> the index of the nearest centroid `[T]`, int64."""
        return nearest(self.standardize(features), self.centroids)[0]


def find_centroids(source: str | Path) -> Path:
    if Path(source).is_file():
        return Path(source)
    packaged = {path.stem: path for path in ASSETS.glob("*.safetensors")}
    if str(source) in packaged:
        return packaged[str(source)]
    raise UsageError(
        f"no centroids {str(source)!r}: neither a file nor a packaged asset{did_you_mean(str(source), packaged)}"
    )


def nearest(frames: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames `[N, d]`, centroids `[k, d]` -> index `[N]` of the nearest and squared distance `[N]` to it."""
    import torch

    half_norms = centroids.square().sum(dim=1) / 2
    indices, distances = [], []
    for chunk in frames.split(_CHUNK_FRAMES):
        # argmin |x - c|^2 = argmin |c|^2 / 2 - x.c: the part that depends on c only.
        score, index = (half_norms - chunk @ centroids.T).min(dim=1)
        indices.append(index)
        distances.append((chunk.square().sum(dim=1) + 2 * score).clamp_min(0))
    return torch.cat(indices), torch.cat(distances)


@dataclass(frozen=True)
class Fit:
    """Outcome of k-means: `inertia` is the sum over frames of squared distances; `reseeded` counts dead clusters."""

    centroids: torch.Tensor
    inertia: float
    iterations: int
    reseeded: int


def fit_kmeans(frames: torch.Tensor, k: int, seed: int = 0, restarts: int = 3, iterations: int = 100) -> Fit:
    """The best of `restarts` runs of Lloyd's algorithm from k-means++ starts on frames `[N, d]`, N >= k.

    All frames take part in every iteration; a cluster left without frames moves to the frame farthest from its own
    centroid. The same frames, seed and device give the same centroids.
    """
    import torch

    if len(frames) < k:
        raise UsageError(f"{len(frames)} frames cannot make {k} clusters: give more audio or a smaller --k")
    generator = torch.Generator().manual_seed(seed)
    fits = [_lloyd(frames, _plus_plus(frames, k, generator), iterations) for _ in range(restarts)]
    return min(fits, key=lambda fit: fit.inertia)


def _plus_plus(frames: torch.Tensor, k: int, generator: torch.Generator) -> torch.Tensor:
    """k-means++ (Arthur and Vassilvitskii, 2007): each start is drawn in proportion to its squared distance."""
    import torch

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


def _lloyd(frames: torch.Tensor, centroids: torch.Tensor, iterations: int) -> Fit:
    reseeded, previous = 0, float("inf")
    for updates in count():
        index, distances = nearest(frames, centroids)
        inertia = distances.double().sum().item()
        if updates == iterations or previous - inertia <= _CONVERGED * inertia:
            return Fit(centroids, inertia, updates, reseeded)
        previous = inertia
        centroids, dead = _means(frames, index, centroids)
        if len(dead):
            centroids[dead] = frames[distances.topk(len(dead)).indices]
            reseeded += len(dead)
    raise AssertionError("count() never ends")


def _means(frames: torch.Tensor, index: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean frame `[k, d]` of each cluster, and which clusters are empty (they keep their old centroid)."""
    import torch

    k = len(centroids)
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=frames.device)
    for chunk, labels in zip(frames.split(_CHUNK_FRAMES), index.split(_CHUNK_FRAMES), strict=True):
        # A product with one-hot rows rather than index_add, whose order of summation is random on a GPU.
        sums += (torch.nn.functional.one_hot(labels, k).T.to(chunk.dtype) @ chunk).double()
    counts = torch.bincount(index, minlength=k)
    means = (sums / counts.clamp_min(1)[:, None]).to(frames.dtype)
    return torch.where(counts[:, None] > 0, means, centroids), (counts == 0).nonzero()[:, 0]


class KmeansTokenizer(Tokenizer):
    """Frames of an encoder, each replaced by the index of its nearest centroid: one codebook, no decoder.

    A subclass is a name and `make_encoder`, whose parameters (but `device`) are its settings beside `centroids`.
    """

    encoder: FrameEncoder
    centroids: Centroids

    @classmethod
    def make_encoder(cls, *args: Any, **settings: Any) -> FrameEncoder:
        """The encoder for these settings (and `device`), which all have defaults."""
        raise NotImplementedError

    def _assemble(
        self, encoder: FrameEncoder, centroids: str, device: str, settings: Mapping[str, Any], **spec: Any
    ) -> None:
        """Check that encoder and centroids belong together, and set `spec` (further fields of it in `spec`)."""
        self.encoder, self.centroids = encoder, Centroids.load(centroids).to(device)
        name = spec["name"]
        k, width = self.centroids.centroids.shape
        if width != encoder.width:
            raise UsageError(f"centroids {centroids!r} are {width} wide, but the features of {name} {encoder.width}")
        encoder_fingerprint = fingerprint(encoder.identity())
        self._check_origin(centroids, name, settings, encoder_fingerprint)
        where = str(Path(centroids).resolve()) if Path(centroids).is_file() else centroids
        self.spec = TokenizerSpec(
            fingerprint=fingerprint({"encoder": encoder_fingerprint}, self.centroids.tensors().items()),
            sample_rate_hz=encoder.sample_rate_hz,
            hop_samples=encoder.hop_samples,
            frame_offset_samples=encoder.frame_offset_samples,
            codebook_sizes=(k,),
            has_decoder=False,
            settings={**settings, "centroids": where},
            **spec,
        )

    def _check_origin(self, centroids: str, name: str, settings: Mapping[str, Any], encoder_fingerprint: str) -> None:
        """Centroids fit one encoder and layer: known by its weights, wherever it lies now and whatever its name; by
        name and settings only where the file says nothing of weights."""
        metadata = self.centroids.metadata
        origin = metadata.get("tokenizer"), metadata.get("settings")
        fitted_on = metadata.get("encoder_fingerprint")
        if fitted_on == encoder_fingerprint or (fitted_on is None and origin in ((None, None), (name, dict(settings)))):
            return
        told = ""
        if fitted_on and origin == (name, dict(settings)):
            told = f" (its weights are others by now: {encoder_fingerprint[:12]}, not {fitted_on[:12]})"
        raise UsageError(
            f"centroids {centroids!r} were fitted for {origin[0]} {origin[1]}, not for {name} {dict(settings)}{told}: "
            "give the encoder they were fitted on, or fit your own with `python -m slm.tokenizers fit`"
        )

    def _encode(self, signals: Sequence[np.ndarray]) -> list[np.ndarray]:
        # One at a time: padding changes the features of encoders with group norm, and even rows of equal length are
        # rounded differently in a batch, which flips near ties between centroids.
        return [self.centroids.assign(self.encoder.features(signal))[:, None].cpu().numpy() for signal in signals]
