"""The documents of a tokenized corpus as a language model sees them: units made, some held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from slm.data.hashing import hash_ids
from slm.data.layouts import lay_out
from slm.data.ragged import small_type
from slm.data.source import DOCUMENT, END, ENDS, START
from slm.data.store import CodeStore
from slm.data.unit_cache import made_units
from slm.patterns import Pattern
from slm.types import Steps
from slm.units import Units

_AT_ONCE = 1 << 16


class Documents:
    """Clips of a store as units: all, or those that `keep` numbers. A `slm.data.source.Source`.

    `num_frames [N]` are lengths in units; `codes(i)` is `[R, K']`, over `units.sizes`.
    """

    prefix_steps = 0

    def __init__(self, store: CodeStore, units: Units | None = None, keep: Sequence[int] | np.ndarray | None = None):
        self.store = store
        self.units = Units(store.spec.codebook_sizes) if units is None else units
        self.indices = np.asarray(range(len(store)) if keep is None else keep, small_type(len(store)))
        self._made = store.frames if self.units.is_identity else made_units(store, self.units)
        self.num_frames = self._made.lengths if keep is None else self._made.lengths[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def duration_s(self) -> float:
        return float(self.store.num_samples[self.indices].sum()) / self.store.spec.sample_rate_hz

    def digest(self) -> str:
        """sha256 of the store's digest and of which clips of it these are: nothing is read of their codes."""
        made = hashlib.sha256(self.store.digest.encode())
        for start in range(0, len(self), _AT_ONCE):
            made.update(self.indices[start : start + _AT_ONCE].astype(np.int64).data)
        return made.hexdigest()

    def codes(self, index: int) -> np.ndarray:
        return self._made[int(self.indices[index])]

    def steps(self, pattern: Pattern, pieces: np.ndarray) -> Steps:
        document, start, end = (pieces[:, column] for column in (DOCUMENT, START, END))
        codes = self._made.gather(self.indices[document], start, end)
        return lay_out(pattern, codes, end - start, pieces[:, ENDS])

    def num_codes(self, pieces: np.ndarray) -> int:
        return int((pieces[:, END] - pieces[:, START]).sum()) * len(self.units.sizes)

    def audio_s(self, pieces: np.ndarray) -> float:
        """A piece lasts its share of its clip's units."""
        document = pieces[:, DOCUMENT]
        share = (pieces[:, END] - pieces[:, START]) / np.maximum(1, self.num_frames[document])
        return float((share * self.store.num_samples[self.indices[document]]).sum()) / self.store.spec.sample_rate_hz


def hold_out(ids: Sequence[str], fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices (kept, held out): held are those whose hash (`slm.data.hashing.hash_ids`) lies in the first `fraction` of
    all hashes. A clip's side depends on its id alone, so it never changes as a corpus grows."""
    limit = np.uint64(int(fraction * 2**64))
    held = np.concatenate([np.zeros(0, bool), *(hashes < limit for hashes in hash_ids(ids))])
    dtype = small_type(len(held))
    return np.flatnonzero(~held).astype(dtype), np.flatnonzero(held).astype(dtype)
