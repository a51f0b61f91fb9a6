"""Utterances -> files, on several processes. Each file depends on its utterance alone, never on who makes it or when."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from eval.minimal_pairs.plan import Utterance
from eval.minimal_pairs.voice import RATE_HZ, Voice, render
from slm.files import atomic_file

_voice: Voice  # one for each process


def _start(make_voice: Callable[[], Voice]) -> None:
    global _voice
    _voice = make_voice()


def _length(item: Utterance) -> int:
    return len(render(_voice, item.phonemes, item.speed, item.seed))


def _write(folder: Path, item: Utterance) -> int:
    import soundfile as sf

    path = folder / item.path
    if path.exists():
        return sf.info(path).frames
    samples = render(_voice, item.phonemes, item.speed, item.seed)
    with atomic_file(path) as temporary:
        sf.write(temporary, samples, RATE_HZ, format="WAV", subtype="PCM_16")
    return len(samples)


class Studio:
    """Measures and writes utterances, in order."""

    def __init__(self, run: Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]):
        self._run = run

    def measure(self, items: Sequence[Utterance]) -> list[int]:
        """Trimmed lengths in samples at 16 kHz."""
        return list(self._run(_length, items))

    def write(self, folder: Path, items: Sequence[Utterance]) -> Iterator[int]:
        """Write each item to `folder / item.path` unless it is there; yields lengths as they are done."""
        return self._run(partial(_write, folder), items)


@contextmanager
def open_studio(make_voice: Callable[[], Voice], workers: int) -> Iterator[Studio]:
    """A studio of `workers` processes, each with its own voice; of this process alone for 1."""
    if workers == 1:
        _start(make_voice)
        yield Studio(lambda function, items: map(function, items))
        return
    # "spawn": a forked copy of a running inference engine may hang.
    with multiprocessing.get_context("spawn").Pool(workers, _start, (make_voice,)) as pool:
        yield Studio(lambda function, items: pool.imap(function, items, chunksize=16))
