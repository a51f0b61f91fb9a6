"""One stream a codebook, each delayed by some steps (MusicGen, arXiv 2306.05284; Moshi, arXiv 2410.00037)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from slm.errors import UsageError
from slm.patterns.base import BOS, EMPTY, EOS, PATTERNS, Pattern
from slm.types import StreamVocabulary


@PATTERNS.register("delay")
class DelayPattern(Pattern):
    """K streams side by side; stream k runs `delays[k]` steps late (default 0, 1, .., K - 1).

    K = 3, T = 4 (digits are frames, `<` BOS, `>` EOS, `.` EMPTY):

        < 0 1 2 3 > . .
        < . 0 1 2 3 > .
        < . . 0 1 2 3 >

    Unlike audiocraft's layout every stream has an end, and no code of the tail is lost. `delays` of 0, 1, 1, .. is
    Moshi's acoustic delay; all zeros is the parallel pattern.
    """

    name = "delay"

    def __init__(self, codebook_sizes: Sequence[int], delays: Sequence[int] | None = None):
        super().__init__(codebook_sizes)
        self.delays = tuple(range(self.num_codebooks)) if delays is None else tuple(int(d) for d in delays)
        if len(self.delays) != self.num_codebooks:
            raise UsageError(f"delays {list(self.delays)}: {self.num_codebooks} codebooks need as many delays")
        if list(self.delays) != sorted(self.delays) or self.delays[0] != 0:
            raise UsageError(f"delays {list(self.delays)} must start at 0 and never decrease")

    def settings(self) -> dict[str, Any]:
        return {"delays": list(self.delays)}

    @property
    def streams(self) -> tuple[StreamVocabulary, ...]:
        return tuple(StreamVocabulary(size) for size in self.codebook_sizes)

    @property
    def id_offsets(self) -> np.ndarray:
        return np.zeros(self.num_codebooks, np.int64)

    def num_steps(self, num_frames: int) -> int:
        return num_frames + self.delays[-1] + 2

    def layout(self, num_frames: int) -> np.ndarray:
        layout = np.full((self.num_steps(num_frames), self.num_codebooks), EMPTY, np.int64)
        layout[0] = BOS
        for k, delay in enumerate(self.delays):
            end = 1 + delay + num_frames
            layout[1 + delay : end, k] = np.arange(num_frames) * self.num_codebooks + k
            layout[end, k] = EOS
        return layout
