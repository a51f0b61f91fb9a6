"""The documents of a tokenized corpus as a language model sees them: units made, some held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from slm.data.store import CodeStore
from slm.units import deduplicate


class Documents:
    """Clips of a store, optionally deduplicated. `num_frames [N]` are lengths after that; `codes(i)` is `[T, K]`."""

    def __init__(self, store: CodeStore, dedup: bool = False, keep: Sequence[int] | np.ndarray | None = None):
        self.store, self.dedup = store, dedup
        self.indices = np.arange(len(store)) if keep is None else np.asarray(keep, np.int64)
        if dedup:
            self.num_frames = np.array([len(self.codes(i)) for i in range(len(self.indices))], np.int64)
        else:
            self.num_frames = store.num_frames[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def duration_s(self) -> float:
        return float(self.store.num_samples[self.indices].sum()) / self.store.spec.sample_rate_hz

    def digest(self) -> str:
        """sha256 of ids and lengths: tells one choice of clips from another without reading their codes."""
        made = hashlib.sha256(np.ascontiguousarray(self.num_frames, dtype=np.int64).tobytes())
        for index in self.indices:
            made.update(self.store.ids[int(index)].encode() + b"\0")
        return made.hexdigest()

    def codes(self, index: int) -> np.ndarray:
        codes = self.store.codes(int(self.indices[index]))
        return deduplicate(codes)[0] if self.dedup else codes


def hold_out(ids: Sequence[str], fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices (kept, held out). A clip's side depends on its id alone, so it never changes as a corpus grows."""
    limit = int(fraction * 2**32)
    draws = np.array([int.from_bytes(hashlib.sha256(i.encode()).digest()[:4], "big") for i in ids], np.int64)
    held = draws < limit
    return np.flatnonzero(~held), np.flatnonzero(held)
