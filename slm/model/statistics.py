"""How often each code occurred in training: the unigram baseline, and how long units last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CodeStatistics:
    """Counts over the training documents: `counts[k]` `[V_k]` of each code, `num_documents` ends, and `frames [V_0]`,
    the frames each code of codebook 0 lasted (equal to `counts[0]` unless runs were collapsed)."""

    counts: tuple[np.ndarray, ...]
    frames: np.ndarray
    num_documents: int

    @classmethod
    def measure(cls, sizes: Sequence[int], documents: Iterable[tuple[np.ndarray, np.ndarray]]) -> CodeStatistics:
        """`documents` are pairs: codes as the model reads them `[T', K]`, and frame by frame `[T, K]`."""
        counts = [np.zeros(size, np.int64) for size in sizes]
        frames, num_documents = np.zeros(sizes[0], np.int64), 0
        for codes, by_frame in documents:
            for k, size in enumerate(sizes):
                counts[k] += np.bincount(codes[:, k], minlength=size)
            frames += np.bincount(by_frame[:, 0], minlength=sizes[0])
            num_documents += 1
        return cls(tuple(counts), frames, num_documents)

    def mean_frames(self) -> np.ndarray:
        """`[V_0]`: mean duration in frames of each unit of codebook 0; the overall mean for one never seen."""
        overall = self.frames.sum() / max(1, self.counts[0].sum())
        return np.where(self.counts[0] > 0, self.frames / np.maximum(1, self.counts[0]), overall)
