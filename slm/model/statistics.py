"""How often each unit occurred in training: the unigram baseline, and how long units last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from slm.units import Units

# Documents are counted so many frames at a time: what a document costs is then its codes, and hardly itself.
_FRAMES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class CodeStatistics:
    """Counts over the training documents: `counts[k]` `[V_k]` of each unit and `num_documents` ends; and of each code
    of the tokenizer's codebook 0, `frames [V_0]` that it lasted, and `runs [V_0]`, how often it stands in the units
    (None where that is `counts[0]`: without unit BPE)."""

    counts: tuple[np.ndarray, ...]
    frames: np.ndarray
    num_documents: int
    runs: np.ndarray | None = None

    @classmethod
    def measure(cls, units: Units, documents: Iterable[tuple[np.ndarray, np.ndarray]]) -> CodeStatistics:
        """`documents` are pairs: units as the model reads them `[R, K']`, and their codes frame by frame `[T, K]`.
        They are read one after the other, and a few held."""
        counts = [np.zeros(size, np.int64) for size in units.sizes]
        frames, num_documents = np.zeros(units.codebook_sizes[0], np.int64), 0
        for pairs in _gulps(documents):
            num_documents += len(pairs)
            read = np.concatenate([made for made, _ in pairs])
            for k, size in enumerate(units.sizes):
                counts[k] += np.bincount(read[:, k], minlength=size)
            if not units.is_identity:
                first = np.concatenate([codes[:, 0] for _, codes in pairs])
                frames += np.bincount(first, minlength=len(frames))
        runs = None if units.bpe is None else units.bpe.count_codes(counts[0])
        return cls(tuple(counts), counts[0] if units.is_identity else frames, num_documents, runs)

    def mean_frames(self) -> np.ndarray:
        """`[V_0]`: mean duration in frames of each run of a code of codebook 0; the overall mean for one never seen."""
        runs = self.counts[0] if self.runs is None else self.runs
        overall = self.frames.sum() / max(1, runs.sum())
        return np.where(runs > 0, self.frames / np.maximum(1, runs), overall)


def _gulps(documents: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    held: list[tuple[np.ndarray, np.ndarray]] = []
    frames = 0
    for pair in documents:
        held.append(pair)
        frames += len(pair[1])
        if frames >= _FRAMES_AT_ONCE:
            yield held
            held, frames = [], 0
    if held:
        yield held
