"""Units of one codebook: runs of equal codes collapsed into one, their durations kept (GSLM, arXiv 2102.01192)."""

from __future__ import annotations

import numpy as np


def deduplicate(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes `[T, 1]` -> units `[R, 1]`, no two neighbours equal, and durations in frames `[R]` (they sum to T)."""
    if codes.shape[1] != 1:
        raise ValueError(f"deduplication takes one codebook, not {codes.shape[1]}")
    starts = np.flatnonzero(np.append(True, codes[1:, 0] != codes[:-1, 0])) if len(codes) else np.zeros(0, np.int64)
    return codes[starts], np.diff(np.append(starts, len(codes)))


def expand(units: np.ndarray, durations: np.ndarray) -> np.ndarray:
    """The exact inverse of `deduplicate`: units `[R, 1]`, durations `[R]` -> codes `[T, 1]`."""
    return np.repeat(units, durations, axis=0)
