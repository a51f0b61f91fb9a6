"""One stream a codebook, each delayed by some steps (MusicGen, arXiv 2306.05284; Moshi, arXiv 2410.00037)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from slm.patterns.base import PATTERNS
from slm.patterns.streams import StreamPattern, check_delays


@PATTERNS.register("delay")
class DelayPattern(StreamPattern):
    """K streams side by side; stream k runs `delays[k]` steps late (default 0, 1, .., K - 1).

    K = 3, T = 4 (digits are frames, `<` BOS, `>` EOS, `.` EMPTY):

        < 0 1 2 3 > . .
        < . 0 1 2 3 > .
        < . . 0 1 2 3 >

    `delays` of 0, 1, 1, .. is Moshi's acoustic delay:

        < 0 1 2 3 > .
        < . 0 1 2 3 >
        < . 0 1 2 3 >

    Unlike audiocraft's layout every stream has an end, and no code of the tail is lost. `valid_steps_only` is how
    audiocraft trains, cut at T + 1 steps:

        < 0 1 2 3
        < . 0 1 2
        < . . 0 1

    The last `delays[k]` codes of stream k are then not learned, and neither is where a document ends.
    """

    name = "delay"

    def __init__(
        self, codebook_sizes: Sequence[int], delays: Sequence[int] | None = None, valid_steps_only: bool = False
    ):
        super().__init__(codebook_sizes)
        given = range(self.num_codebooks) if delays is None else delays
        self.delays = check_delays(given, "codebooks", self.num_codebooks)
        self.valid_steps_only, self.has_ends = valid_steps_only, not valid_steps_only

    def settings(self) -> dict[str, Any]:
        return {"delays": list(self.delays), "valid_steps_only": self.valid_steps_only}

    def full(self) -> DelayPattern:
        return DelayPattern(self.codebook_sizes, self.delays) if self.valid_steps_only else self

    def num_steps(self, num_frames: int) -> int:
        return num_frames + 1 if self.valid_steps_only else num_frames + self.delays[-1] + 2

    def places(self, num_frames: int) -> np.ndarray:
        return 1 + np.arange(num_frames + 1)[:, None] + np.array(self.delays)

    def layout(self, num_frames: int) -> np.ndarray:
        return super().layout(num_frames)[: self.num_steps(num_frames)]
