"""Utterances -> files, on several processes. A file depends on its utterance alone, never on who makes it or when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from eval.minimal_pairs.utterance import Utterance
from eval.minimal_pairs.voice import RATE_HZ, Voice, render
from slm.audio import write_wav
from slm.errors import StoppedError
from slm.process_pool import ProcessPool
from slm.tokenizers import Tokenizer
from slm.types import AudioClip

T = TypeVar("T")

# One of each for each process.
_voices: Mapping[str, Voice]
_tokenizers: Sequence[Tokenizer]


def _start(make_voices: Callable[[], Mapping[str, Voice]], tokenizers: Sequence[str]) -> None:
    global _voices, _tokenizers
    _voices, _tokenizers = make_voices(), ()
    if tokenizers:
        import torch

        from slm.tokenizers import load_tokenizer

        torch.set_num_threads(1)  # several processes share the cores
        _tokenizers = [load_tokenizer(name) for name in tokenizers]


def _render(item: Utterance) -> np.ndarray:
    return render(_voices[item.voice], item.phonemes, item.speed, item.seed)


def _length(item: Utterance) -> int:
    return len(_render(item))


def _count_units(item: Utterance) -> list[np.ndarray]:
    samples = _render(item).astype(np.float32) / 32768
    return [_counts(tokenizer, samples) for tokenizer in _tokenizers]


def _counts(tokenizer: Tokenizer, samples: np.ndarray) -> np.ndarray:
    import soxr

    from slm.units import deduplicate

    spec = tokenizer.spec
    clip = AudioClip("", soxr.resample(samples, RATE_HZ, spec.sample_rate_hz), spec.sample_rate_hz)
    codes = tokenizer.encode([clip])[0].codes
    if spec.num_codebooks == 1:
        codes, _ = deduplicate(codes)
    by_codebook = zip(codes.T, spec.codebook_sizes, strict=True)
    return np.concatenate([np.bincount(column, minlength=size) for column, size in by_codebook])


def _write(folder: Path, item: Utterance) -> int:
    import soundfile as sf

    path = folder / item.path
    if path.exists():
        return sf.info(path).frames
    samples = _render(item)
    write_wav(path, AudioClip(item.path, samples.astype(np.float32) / 32768, RATE_HZ))
    return len(samples)


class Studio:
    """Measures and writes utterances, in order. `tokenizers` names those that count units."""

    def __init__(self, run: Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]], tokenizers: Sequence[str]):
        self._run, self.tokenizers = run, tokenizers

    def measure(self, items: Sequence[Utterance]) -> list[int]:
        """Trimmed lengths in samples at 16 kHz."""
        return self._each("measuring durations", _length, items)

    def count_units(self, items: Sequence[Utterance]) -> list[list[np.ndarray]]:
        """For each tokenizer, how often each of its units occurs in each item: `[V]`, runs of a unit counted once; with
        several codebooks all their codes, `[V_1 + .. + V_K]`, in every frame."""
        counts = self._each("tokenizing candidates", _count_units, items)
        return [[of_item[i] for of_item in counts] for i in range(len(self.tokenizers))]

    def write(self, folder: Path, items: Sequence[Utterance]) -> list[int]:
        """Write each item to `folder / item.path` unless it is there; returns their lengths."""
        for left_by_a_killed_run in folder.glob("**/.*.wav.tmp-*"):
            left_by_a_killed_run.unlink()
        return self._each("writing speech", partial(_write, folder), items)

    def _each(self, description: str, function: Callable[[Utterance], T], items: Sequence[Utterance]) -> list[T]:
        from rich.progress import track

        return list(track(self._run(function, items), description=description, total=len(items)))


def alone(make_voice: Callable[[], Voice]) -> Mapping[str, Voice]:
    """One voice, which utterances need not name."""
    return {"": make_voice()}


@contextmanager
def open_studio(
    make_voices: Callable[[], Mapping[str, Voice]], workers: int, tokenizers: Sequence[str] = ()
) -> Iterator[Studio]:
    """A studio of `workers` processes, each with its own voices; of this process alone for 1. StoppedError where one of
    them was killed."""
    if workers == 1:
        _start(make_voices, tokenizers)
        yield Studio(map, tokenizers)
        return
    # "spawn": a forked copy of a running inference engine may hang. Not a Pool, which waits for ever for a process that
    # was killed.
    pool = ProcessPool(workers, get_context("spawn"), _start, (make_voices, tokenizers))
    try:
        yield Studio(partial(pool.map, chunksize=16), tokenizers)
    except BrokenProcessPool as error:
        raise StoppedError(
            f"one of {workers} processes was killed, most likely for want of memory: give fewer --workers; the same "
            "command goes on with what is there"
        ) from error
    finally:
        pool.shutdown()
