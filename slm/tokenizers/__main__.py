"""`python -m slm.tokenizers` lists the tokenizers; `python -m slm.tokenizers fit ...` fits k-means centroids."""

from __future__ import annotations

import inspect
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slm.config import run_command
from slm.devices import choose_device
from slm.errors import AudioError, UsageError
from slm.tokenizers.base import TOKENIZERS
from slm.types import AudioClip

if TYPE_CHECKING:
    from slm.corpus.sources import SourceClip


@dataclass(frozen=True)
class ListConfig:
    """List the audio tokenizers: codebook sizes at frame rate, sample rate, decoder, what is needed.

    `python -m slm.tokenizers fit --help` tells how to fit the centroids of a k-means tokenizer.
    """


@dataclass(frozen=True)
class FitConfig:
    """Fit the centroids of a k-means tokenizer on audio and write them as one safetensors file.

    Use them with a tokenizer file: `name: ssl-kmeans`, `encoder: ...`, `layer: ...`, `centroids: OUT`.
    """

    audio: str
    """Folder of audio, or a manifest (JSONL, CSV, TSV)."""
    out: str
    """The safetensors file to write; it must not exist yet."""
    tokenizer: str = "ssl-kmeans"
    """Registered name of a k-means tokenizer."""
    encoder: str | None = None
    """Hub id or local folder of the speech encoder (ssl-kmeans; default: as the tokenizer)."""
    layer: int | None = None
    """Layer of the encoder, counted as in transformers' hidden_states (ssl-kmeans; default: as the tokenizer)."""
    k: int = 100
    """Number of centroids."""
    seed: int = 0
    """Decides the order in which clips are taken and where clusters start."""
    restarts: int = 3
    """Runs from different starts, of which the one with the lowest inertia is kept."""
    iterations: int = 100
    """At most so many iterations of Lloyd's algorithm in a run."""
    max_frames: int = 1_000_000
    """Frames to fit on, held in memory: clips are taken in random order until there are so many."""
    device: str = "cpu"
    """Where the encoder and the clustering run: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        for name in ("k", "restarts", "iterations", "max_frames"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} must be at least 1, not {getattr(self, name)}")
        if Path(self.out).exists():
            raise UsageError(f"--out {self.out} exists: codes may depend on it; choose another name or remove it")


def list_tokenizers(config: ListConfig) -> None:
    names = TOKENIZERS.names()
    width = max(len(name) for name in names)
    for name in names:
        try:
            cls = TOKENIZERS.get(name)
        except UsageError as error:  # a broken plug-in: the others are there
            print(f"{name:<{width}}  {error}")
            continue
        first_line = (inspect.getdoc(cls) or "").partition("\n")[0]
        print(f"{name:<{width}}  {cls.about.get(name, first_line)}")


def fit(config: FitConfig) -> None:
    from slm.tokenizers._fit import collect_frames, encoder_settings, fit_centroids, kmeans_class, usage

    started = time.monotonic()
    device = choose_device(config.device)
    settings = encoder_settings(config.tokenizer, {"encoder": config.encoder, "layer": config.layer})
    clips = _list_clips(config)
    encoder = kmeans_class(config.tokenizer).make_encoder(**settings, device=device)
    rejects: list[str] = []
    frames = collect_frames(encoder, _read_clips(clips, encoder.sample_rate_hz, rejects), config.max_frames)
    print(f"{len(frames.features):,} frames of {len(frames.corpus)} clips, {frames.duration_s / 3600:.3f} h of audio")
    for reject in rejects:
        print(f"left out: {reject}")
    search = {"seed": config.seed, "restarts": config.restarts, "iterations": config.iterations}
    centroids, found = fit_centroids(config.tokenizer, settings, encoder, frames, config.k, **search)
    centroids.save(config.out)
    used, perplexity = usage(centroids, frames.features)
    print(
        f"inertia {found.inertia:.6g} ({found.inertia / len(frames.features):.6g} per frame, features standardized), "
        f"{found.iterations} iterations in the best of {config.restarts} runs, {found.reseeded} dead clusters reseeded"
    )
    print(f"{used} of {config.k} units used, perplexity {perplexity:.1f}; {time.monotonic() - started:.0f} s")
    print(f"wrote {config.out}")


def _list_clips(config: FitConfig) -> list[SourceClip]:
    """All clips of the source, in an order drawn by seed."""
    from slm.corpus.sources import list_clips

    clips = sorted(list_clips(config.audio), key=lambda clip: clip.id)
    random.Random(config.seed).shuffle(clips)
    return clips


def _read_clips(clips: Sequence[SourceClip], sample_rate_hz: int, rejects: list[str]) -> Iterator[AudioClip]:
    """Their audio; those that cannot be read are named in `rejects`."""
    from slm.audio import read_audio

    for clip in clips:
        try:
            samples = read_audio(clip.path, sample_rate_hz, clip.start_s, clip.end_s)
        except AudioError as error:
            rejects.append(f"{clip.id} ({clip.path}): {error}")
            continue
        yield AudioClip(clip.id, samples, sample_rate_hz)


def main(argv: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] == ["fit"]:
        run_command(fit, FitConfig, args[1:], prog="python -m slm.tokenizers fit")
    if args and not args[0].startswith("-"):
        print(f"error: unknown command {args[0]!r}; there is `fit`, and without a command the list", file=sys.stderr)
        sys.exit(2)
    run_command(list_tokenizers, ListConfig, args, prog="python -m slm.tokenizers")


if __name__ == "__main__":
    main()
