"""k-means over frames of features: its file of centroids, and the tokenizers whose codes it makes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slm.errors import UsageError, did_you_mean
from slm.files import atomic_file
from slm.tokenizers._checkpoints import find_files
from slm.tokenizers._frames import FrameEncoder
from slm.tokenizers._modes import PackedTokenizer
from slm.tokenizers.base import fingerprint
from slm.types import TokenizerSpec

if TYPE_CHECKING:
    import torch

ASSETS = Path(__file__).parent / "assets"
CHUNK_FRAMES = 16_384  # bounds the [frames, k] distances held at once


@dataclass(frozen=True)
class Centroids:
    """k centroids `[k, d]` of features standardized as (x - mean) / scale, with `mean [d]` and `scale [d]`.

    In fp32, or fp64 where the file is (as SpeechBrain's are): distances are computed in the precision of the centroids.

    The file is safetensors with these three tensors (`mean` and `scale` may be absent: no standardization), so that
    centroids from elsewhere can be used too. `metadata` says what they were fitted on.
    """

    centroids: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, source: str | Path) -> Centroids:
        """From a file, also of scikit-learn (`_foreign_kmeans`), a packaged asset's name, or the hub (`hf://...`).

        UsageError when there is none or it does not fit.
        """
        import torch

        path = find_centroids(source)
        if _is_safetensors(path):
            return cls._load_safetensors(path)
        from slm.tokenizers._foreign_kmeans import read_foreign_centroids

        centroids = _at_least_fp32(read_foreign_centroids(path))
        return cls(centroids, torch.zeros(centroids.shape[1]), torch.ones(centroids.shape[1]))

    @classmethod
    def _load_safetensors(cls, path: Path) -> Centroids:
        import torch
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: _at_least_fp32(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
                metadata = json.loads((file.metadata() or {}).get("slm", "{}"))
        except (SafetensorError, ValueError) as error:
            raise UsageError(f"{path} is not a safetensors file of centroids: {error}") from None
        if "centroids" not in tensors or tensors["centroids"].ndim != 2:
            raise UsageError(f"{path} has no tensor `centroids [k, d]` (make it with `python -m slm.tokenizers fit`)")
        width = tensors["centroids"].shape[1]
        mean, scale = tensors.get("mean", torch.zeros(width)), tensors.get("scale", torch.ones(width))
        if mean.shape != (width,) or scale.shape != (width,):
            raise UsageError(f"{path}: mean {tuple(mean.shape)} and scale {tuple(scale.shape)} must be [{width}]")
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise UsageError(f"{path}: its {name} hold NaN or infinity")
        dtype = tensors["centroids"].dtype
        return cls(tensors["centroids"], mean.to(dtype), scale.to(dtype), metadata)

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
        return (features.to(self.centroids.dtype) - self.mean) / self.scale

    def assign(self, features: torch.Tensor) -> torch.Tensor:
        """Features `[T, d]` -> the index of the nearest centroid `[T]`, int64."""
        import torch

        # Made at once: small results among large temporaries would keep the allocator from using these again.
        indices = torch.empty(len(features), dtype=torch.int64, device=features.device)
        for start in range(0, len(features), CHUNK_FRAMES):
            part = self.standardize(features[start : start + CHUNK_FRAMES])
            indices[start : start + CHUNK_FRAMES] = nearest(part, self.centroids)[0]
        return indices


def find_centroids(source: str | Path) -> Path:
    """The file of `source`: a path, the name of a packaged asset, or `hf://owner/repository/path` on the hub."""
    if str(source).startswith("hf://"):
        folder, _, name = str(source).removeprefix("hf://").rpartition("/")
        return find_files(folder, [name])[name]
    if Path(source).is_file():
        return Path(source)
    packaged = {path.stem: path for path in ASSETS.glob("*.safetensors")}
    if str(source) in packaged:
        return packaged[str(source)]
    raise UsageError(
        f"no centroids {str(source)!r}: neither a file nor a packaged asset (relative paths begin at the working "
        f"folder, those in a YAML file too){did_you_mean(str(source), packaged)}"
    )


def _at_least_fp32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype.itemsize > 4 else tensor.float()


def _is_safetensors(path: Path) -> bool:
    """By its name, or by its first bytes: the length of a header, which is JSON."""
    with open(path, "rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def nearest(frames: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames `[N, d]`, centroids `[k, d]` -> index `[N]` of the nearest and squared distance `[N]` to it."""
    import torch

    half_norms = centroids.square().sum(dim=1) / 2
    indices, distances = [], []
    for chunk in frames.split(CHUNK_FRAMES):
        # argmin |x - c|^2 = argmin |c|^2 / 2 - x.c: the part that depends on c only.
        score, index = (half_norms - chunk @ centroids.T).min(dim=1)
        indices.append(index)
        distances.append((chunk.square().sum(dim=1) + 2 * score).clamp_min(0))
    return torch.cat(indices), torch.cat(distances)


class KmeansTokenizer(PackedTokenizer):
    """Frames of an encoder, each replaced by the index of its nearest centroid, by layer: no decoder.

    One codebook for each layer of the encoder. A subclass is a name and `make_encoder`, whose parameters (but
    `device`) are its settings beside `centroids`.
    """

    encoder: FrameEncoder
    centroids: tuple[Centroids, ...]

    @classmethod
    def make_encoder(cls, *args: Any, **settings: Any) -> FrameEncoder:
        """The encoder for these settings (and `device`), which all have defaults."""
        raise NotImplementedError

    def _assemble(
        self,
        encoder: FrameEncoder,
        centroids: str,
        device: str,
        origin: Mapping[str, Any],
        cut: Mapping[str, Any],
        settings: Mapping[str, Any],
        **spec: Any,
    ) -> None:
        """Check that encoder and centroids belong together, and set `spec` (further fields of it in `spec`).

        `origin` is what the metadata of centroids say of the encoder; `cut`, how clips are cut where that is not
        usual for the encoder: it changes codes, yet the centroids fit; `settings`, those beside `centroids`.
        """
        if len(encoder.layers) > 1 and "{layer}" not in centroids:
            raise UsageError(
                f"layers {list(encoder.layers)} need centroids each: write {{layer}} where the file names differ, as "
                f"in centroids-L{{layer}}.safetensors, not {centroids!r}"
            )
        self.encoder = encoder
        made, identities = [], []
        for layer in encoder.layers:
            source = centroids.replace("{layer}", str(layer))
            made.append(Centroids.load(source).to(device))
            identities.append(fingerprint(encoder.identity(layer)))
            given = {**origin, "layer": layer} if "layer" in origin else origin
            _check_fit(made[-1], source, encoder.width, spec["name"], given, identities[-1])
        self.centroids = tuple(made)
        where = str(Path(centroids).resolve()) if Path(source).is_file() else centroids
        one = len(made) == 1
        tensors = {f"{'' if one else i}{name}": t for i, c in enumerate(made) for name, t in c.tensors().items()}
        self.spec = TokenizerSpec(
            fingerprint=fingerprint({"encoder": identities[0] if one else identities, **cut}, tensors.items()),
            sample_rate_hz=encoder.sample_rate_hz,
            hop_samples=encoder.hop_samples,
            frame_offset_samples=encoder.frame_offset_samples,
            codebook_sizes=tuple(len(each.centroids) for each in made),
            has_decoder=False,
            settings={**settings, "centroids": where},
            **spec,
        )

    def _cut(self, signal: np.ndarray) -> Iterator[np.ndarray]:
        return self.encoder.cut(signal)

    def _encode_alone(self, signal: np.ndarray) -> np.ndarray:
        return self._assign(self.encoder.features_of(signal)).cpu().numpy()

    def _assign(self, features: torch.Tensor) -> torch.Tensor:
        """Features `[layers, T, width]` -> units `[T, layers]`."""
        import torch

        return torch.stack([c.assign(x) for c, x in zip(self.centroids, features, strict=True)], dim=1)


def _check_fit(
    centroids: Centroids, source: str, width: int, name: str, settings: Mapping[str, Any], encoder_fingerprint: str
) -> None:
    """Centroids fit one encoder and layer: known by its weights, wherever it lies now and whatever its name; by name
    and settings only where the file says nothing of weights."""
    if centroids.centroids.shape[1] != width:
        found = centroids.centroids.shape[1]
        raise UsageError(f"centroids {source!r} are {found} wide, but the features of {name} {width}")
    metadata = centroids.metadata
    origin = metadata.get("tokenizer"), metadata.get("settings")
    fitted_on = metadata.get("encoder_fingerprint")
    if fitted_on == encoder_fingerprint or (fitted_on is None and origin in ((None, None), (name, dict(settings)))):
        return
    told = ""
    if fitted_on and origin == (name, dict(settings)):
        told = f" (its weights are others by now: {encoder_fingerprint[:12]}, not {fitted_on[:12]})"
    raise UsageError(
        f"centroids {source!r} were fitted for {origin[0]} {origin[1]}, not for {name} {dict(settings)}{told}: "
        "give the encoder they were fitted on, or fit your own with `python -m slm.tokenizers fit`"
    )
