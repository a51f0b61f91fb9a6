"""Centroids of a k-means tokenizer from clips: the work behind `python -m slm.tokenizers fit`."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from slm.errors import UsageError
from slm.tokenizers._encoders import FrameEncoder
from slm.tokenizers._kmeans import Centroids, Fit, KmeansTokenizer, fit_kmeans
from slm.tokenizers.base import TOKENIZERS, fingerprint
from slm.types import AudioClip, stable_hash

if TYPE_CHECKING:
    import torch


def kmeans_class(name: str) -> type[KmeansTokenizer]:
    """The k-means tokenizer registered under `name`; UsageError naming those that there are."""
    cls = TOKENIZERS.get(name)
    if not issubclass(cls, KmeansTokenizer):
        fitted = [n for n in TOKENIZERS.names() if issubclass(TOKENIZERS.get(n), KmeansTokenizer)]
        raise UsageError(f"tokenizer {name!r} has no centroids to fit; these have: {', '.join(fitted)}")
    return cls


def encoder_settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a tokenizer's encoder, from those given (None: not given) and its own defaults."""
    parameters = inspect.signature(kmeans_class(name).make_encoder).parameters
    known = {key: p.default for key, p in parameters.items() if key != "device"}
    chosen = {key: value for key, value in given.items() if value is not None}
    for key in chosen:
        if key not in known:
            raise UsageError(f"--{key} has no meaning for {name}")
    return {**known, **chosen}


@dataclass(frozen=True)
class Frames:
    """Features `[N, d]`, the (id, sha256 of samples) of every clip they come from, and the audio's length."""

    features: torch.Tensor
    corpus: list[tuple[str, str]]
    duration_s: float


def collect_frames(encoder: FrameEncoder, clips: Iterable[AudioClip], max_frames: int) -> Frames:
    """Features of clips, in their order, until there are `max_frames` of them; the rest is not read."""
    import torch

    parts, corpus, count, duration_s = [], [], 0, 0.0
    for clip in clips:
        if (len(clip.samples) + encoder.frame_offset_samples) // encoder.hop_samples < 1:
            continue
        features = encoder.features(clip.samples)[: max_frames - count]
        parts.append(features)
        corpus.append((clip.id, hashlib.sha256(np.ascontiguousarray(clip.samples).tobytes()).hexdigest()))
        count += len(features)
        duration_s += clip.duration_s
        if count >= max_frames:
            break
    if not parts:
        raise UsageError("none of the audio is long enough for a single frame of features")
    return Frames(torch.cat(parts), corpus, duration_s)


def fit_centroids(
    tokenizer: str,
    settings: Mapping[str, Any],
    encoder: FrameEncoder,
    frames: Frames,
    k: int,
    **search: int,
) -> tuple[Centroids, Fit]:
    """Standardize each feature, run `fit_kmeans(frames, k, **search)`, and say in the metadata what was done."""
    import torch

    scale, mean = torch.std_mean(frames.features, dim=0, correction=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    found = fit_kmeans((frames.features - mean) / scale, k, **search)
    metadata = {
        "tokenizer": tokenizer,
        "settings": dict(settings),
        "encoder_fingerprint": fingerprint(encoder.identity()),
        "k": k,
        **search,
        "clips": len(frames.corpus),
        "frames": len(frames.features),
        "duration_s": round(frames.duration_s, 3),
        "inertia_per_frame": found.inertia / len(frames.features),
        "corpus_hash": stable_hash(sorted(frames.corpus)),
    }
    return Centroids(found.centroids.cpu(), mean.cpu(), scale.cpu(), metadata), found


def usage(centroids: Centroids, features: torch.Tensor) -> tuple[int, float]:
    """How many units features `[N, d]` use, and the perplexity exp(H) of their distribution."""
    counts = centroids.to(str(features.device)).assign(features).bincount(minlength=len(centroids.centroids)).double()
    probabilities = counts[counts > 0] / counts.sum()
    return len(probabilities), float((-(probabilities * probabilities.log()).sum()).exp())
