"""Centroids of a k-means tokenizer from clips: the work behind `python -m slm.tokenizers fit`.

Full Lloyd, here, holds its frames; mini-batches (`_fit_stream`) stream them, so that a corpus of any size can be fitted
on. Either can be killed at any time: the same command goes on and gives the same centroids.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slm.errors import AudioError, UsageError
from slm.tokenizers._clustering import Lloyd
from slm.tokenizers._fit_state import FitState
from slm.tokenizers._frames import FrameEncoder
from slm.tokenizers._kmeans import Centroids, KmeansTokenizer, nearest
from slm.tokenizers.base import TOKENIZERS, audio_fault, fingerprint
from slm.types import AudioClip, stable_hash

if TYPE_CHECKING:
    import torch

    from slm.corpus.sources import SourceClip


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
    return {key: value for key, value in {**known, **chosen}.items() if value is not None}


@dataclass(frozen=True)
class Job:
    """A fit: what is asked for, and where it stands. `clips` are in the order in which they are taken; `out` has
    `{layer}` in it where the encoder gives several."""

    tokenizer: str
    settings: Mapping[str, Any]
    encoder: FrameEncoder
    clips: Sequence[SourceClip]
    out: str
    k: int
    seed: int
    restarts: int
    iterations: int
    max_frames: int
    batch_frames: int | None
    passes: int
    device: str
    state: FitState
    report: Callable[[str], None]

    def out_of(self, layer: int) -> Path:
        return Path(self.out.replace("{layer}", str(layer)))

    def metadata(self, layer: int) -> dict[str, Any]:
        """What the file of a layer says of its origin."""
        settings = dict(self.settings) | ({"layer": layer} if "layer" in self.settings else {})
        how = {"seed": self.seed, "restarts": self.restarts}
        if self.batch_frames is None:
            how["iterations"] = self.iterations
        else:
            how |= {"start_frames": self.max_frames, "batch_frames": self.batch_frames, "passes": self.passes}
        identity = fingerprint(self.encoder.identity(layer))
        return {"tokenizer": self.tokenizer, "settings": settings, "encoder_fingerprint": identity, "k": self.k, **how}


def clip_features(
    job: Job, clips: Sequence[SourceClip], first: int
) -> Iterator[tuple[int, AudioClip, Iterator[torch.Tensor]]]:
    """From number `first` on, each clip that gives frames: its number, itself, its features `[layers, T, d]` in
    windows, which are made as they are asked for."""
    from slm.corpus.reading import read_clip

    rate = job.encoder.sample_rate_hz
    for number, clip in enumerate(clips[first:], first):
        try:
            samples = read_clip(clip, rate)
            if len(samples) and (fault := audio_fault(samples)):
                raise AudioError(fault)  # which would be in all centroids
            if job.encoder.num_frames(len(samples)) < 1:
                raise AudioError(f"too short: {len(samples)} samples at {rate} Hz are less than one frame")
        except AudioError as error:
            job.report(f"left out: {clip.id} ({clip.path}): {error}")
            continue
        yield number, AudioClip(clip.id, samples, rate), job.encoder.windows(samples)


def sample_hash(clip: AudioClip) -> str:
    return hashlib.sha256(np.ascontiguousarray(clip.samples).tobytes()).hexdigest()


@dataclass
class Held:
    """Features `[layers, N, d]`, the [id, sha256 of samples] of every clip they come from, the audio's length."""

    features: torch.Tensor
    corpus: list[list[str]]
    duration_s: float


def hold_frames(job: Job) -> Held:
    """Features of clips until there are `max_frames`, shared among the layers; the rest is not read."""
    import torch

    most = job.max_frames // len(job.encoder.layers)
    parts, corpus, duration_s, count, first, saved = [], [], 0.0, 0, 0, 0
    for tensors, values in job.state.load_parts("frames"):
        parts.append(tensors["features"])
        corpus += values["corpus"]
        duration_s, first, count, saved = values["duration_s"], values["next"], values["count"], saved + 1
    fresh = len(parts), len(corpus)
    clips = clip_features(job, job.clips, first) if count < most else iter(())
    for number, clip, windows in clips:
        for features in windows:
            parts.append(features[:, : most - count])
            count += parts[-1].shape[1]
            if count >= most:
                break
        corpus.append([clip.id, sample_hash(clip)])
        duration_s += clip.duration_s
        if job.state.due():
            values = {"corpus": corpus[fresh[1] :], "duration_s": duration_s, "next": number + 1, "count": count}
            job.state.save(f"frames-{saved}", ({"features": torch.cat(parts[fresh[0] :], dim=1)}, values))
            job.report(f"{count:,} frames of {len(corpus)} clips")
            fresh, saved = (len(parts), len(corpus)), saved + 1
        if count >= most:
            break
    if not parts:
        raise UsageError("none of the audio can be read and is long enough for a single frame of features")
    job.report(f"{count:,} frames of {len(corpus)} clips, {duration_s / 3600:.3f} h of audio")
    return Held(torch.cat([part.to(job.device) for part in parts], dim=1), corpus, duration_s)


def standardization(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and scale `[d]` of features `[N, d]`; the scale of a constant is 1."""
    import torch

    scale, mean = torch.std_mean(features, dim=0, correction=0)
    return mean, torch.where(scale > 0, scale, torch.ones_like(scale))


def fit_held(job: Job) -> None:
    """Lloyd's algorithm, layer after layer, each written when it is done."""
    held = hold_frames(job)
    for layer, features in zip(job.encoder.layers, held.features, strict=True):
        if job.out_of(layer).exists():
            continue
        mean, scale = standardization(features)
        frames, name = (features - mean) / scale, f"lloyd-{layer}"
        search = Lloyd(frames, job.k, job.seed, job.restarts, job.iterations, job.report, state=job.state.load(name))
        while search.step():
            if job.state.due():
                job.state.save(name, search.state())
        found = search.best
        metadata = job.metadata(layer) | {
            "clips": len(held.corpus),
            "frames": len(features),
            "duration_s": round(held.duration_s, 3),
            "inertia_per_frame": found.inertia / len(features),
            "corpus_hash": stable_hash(sorted(held.corpus)),
        }
        job.report(
            f"inertia {found.inertia:.6g} ({found.inertia / len(features):.6g} per frame, features standardized), "
            f"{found.iterations} iterations in the best of {job.restarts} runs, {found.reseeded} dead clusters reseeded"
        )
        taken = nearest(frames, found.centroids)[0].bincount(minlength=job.k)
        write(job, layer, Centroids(found.centroids.cpu(), mean.cpu(), scale.cpu(), metadata), taken)


def write(job: Job, layer: int, centroids: Centroids, taken: torch.Tensor) -> None:
    """Save, and say how the frames that each cluster took (`[k]`) are spread."""
    used = taken[taken > 0].double()
    probabilities = used / used.sum()
    perplexity = float((-(probabilities * probabilities.log()).sum()).exp())
    job.state.begin()
    centroids.save(job.out_of(layer))
    job.report(f"{len(used)} of {job.k} units used, perplexity {perplexity:.1f}; wrote {job.out_of(layer)}")
