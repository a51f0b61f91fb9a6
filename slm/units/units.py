"""How the codes of a tokenizer become the units that a model reads: deduplication, then byte-pair encoding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slm.errors import UsageError
from slm.types import stable_hash
from slm.units.bpe import UnitBPE
from slm.units.dedup import deduplicate, expand


class Units:
    """Codes `[T, K]` over `codebook_sizes` -> units `[R, K']` over `sizes`, and exactly back.

    `dedup` collapses runs of equal codes (one codebook only); `bpe` makes one stream of any number of codebooks.
    UsageError where they do not go together.
    """

    def __init__(self, codebook_sizes: Sequence[int], dedup: bool = False, bpe: UnitBPE | None = None):
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        self.dedup, self.bpe = dedup, bpe
        if dedup and len(self.codebook_sizes) != 1:
            raise UsageError(f"dedup takes one codebook, not {len(self.codebook_sizes)}")
        if bpe is not None and bpe.codebook_sizes != self.codebook_sizes:
            raise UsageError(
                f"unit BPE trained on codebooks of sizes {list(bpe.codebook_sizes)} does not read "
                f"{list(self.codebook_sizes)}: train one on a corpus of this tokenizer (python -m slm.units train)"
            )
        if bpe is not None and bpe.dedup != dedup:
            trained = "deduplicated units" if bpe.dedup else "units that are not deduplicated"
            raise UsageError(f"this unit BPE was trained on {trained}: set dedup to {str(bpe.dedup).lower()}")
        self.sizes = self.codebook_sizes if bpe is None else (bpe.vocab_size,)

    @property
    def is_identity(self) -> bool:
        """Whether units are the codes themselves."""
        return not self.dedup and self.bpe is None

    @property
    def fingerprint(self) -> str:
        """Identifies all that decides which units codes become."""
        bpe = None if self.bpe is None else self.bpe.fingerprint
        return stable_hash({"codebook_sizes": self.codebook_sizes, "dedup": self.dedup, "bpe": bpe})

    def apply(self, codes: np.ndarray) -> np.ndarray:
        """Codes `[T, K]` -> units `[R, K']`."""
        units = deduplicate(codes)[0] if self.dedup else codes
        return units if self.bpe is None else self.bpe.encode(units)

    def durations(self, codes: np.ndarray) -> np.ndarray:
        """int64, in frames, of each run of equal codes where they are deduplicated, else of each frame (all 1): what
        `invert` needs beside the units. They sum to T."""
        return deduplicate(codes)[1] if self.dedup else np.ones(len(codes), np.int64)

    def invert(self, units: np.ndarray, durations: np.ndarray | None = None) -> np.ndarray:
        """Units `[R, K']` -> codes `[T, K]`: exactly what `apply` was given, with `durations` where deduplicated
        (without them each run lasts one frame)."""
        runs = units if self.bpe is None else self.bpe.decode(units)
        return runs if durations is None or not self.dedup else expand(runs, durations)
