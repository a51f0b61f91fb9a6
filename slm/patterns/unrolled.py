"""One stream a codebook, frames unrolled into groups of codebooks (audiocraft's UnrolledPatternProvider)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from slm.errors import UsageError
from slm.patterns.base import PATTERNS
from slm.patterns.streams import StreamPattern, check_delays, whole_numbers


@PATTERNS.register("unrolled")
class UnrolledPattern(StreamPattern):
    """Each frame takes as many steps as there are groups; `flattening[k]` is the group of codebook k (default: each
    its own, 0, 1, .., K - 1).

    K = 3, T = 2 (digits are frames, `<` BOS, `>` EOS, `.` EMPTY):

        < 0 . . 1 . . > . .
        < . 0 . . 1 . . > .
        < . . 0 . . 1 . . >

    The same with `flattening` 0, 1, 1:

        < 0 . 1 . > .
        < . 0 . 1 . >
        < . 0 . 1 . >

    `delays[k]` moves a codebook, and with it its group, by so many frames. Of what then falls together, the earlier
    frame comes first. K = 3, T = 4, `flattening` 0, 1, 1, `delays` 0, 3, 3:

        < 0 1 2 . 3 . > . . . . .
        < . . . 0 . 1 . 2 . 3 . >
        < . . . 0 . 1 . 2 . 3 . >
    """

    name = "unrolled"

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        flattening: Sequence[int] | None = None,
        delays: Sequence[int] | None = None,
    ):
        super().__init__(codebook_sizes)
        books = self.num_codebooks
        self.flattening = whole_numbers("flattening", range(books) if flattening is None else flattening)
        if len(self.flattening) != books:
            raise UsageError(f"flattening {list(self.flattening)}: {books} codebooks need as many groups")
        if list(self.flattening) != sorted(self.flattening) or {*self.flattening} != {*range(self.flattening[-1] + 1)}:
            raise UsageError(f"flattening {list(self.flattening)} must count groups up from 0, and skip none")
        self.delays = check_delays([0] * books if delays is None else delays, "codebooks", books)
        groups = sorted({*zip(self.flattening, self.delays, strict=True)})
        if len(groups) != self.flattening[-1] + 1:
            raise UsageError(f"delays {list(self.delays)} must be the same within a group of {list(self.flattening)}")
        self._group_delays = np.array([delay for _, delay in groups])

    def settings(self) -> dict[str, Any]:
        return {"flattening": list(self.flattening), "delays": list(self.delays)}

    def num_steps(self, num_frames: int) -> int:
        return 1 + int(self._group_steps(np.array([num_frames]))[0, -1])

    def places(self, num_frames: int) -> np.ndarray:
        return self._group_steps(np.arange(num_frames + 1))[:, list(self.flattening)]

    def _group_steps(self, frames: np.ndarray) -> np.ndarray:
        """Of these frames `[N]` the step of each group `[N, G]`: 1 and all frames of all groups that come before."""
        delays, group = self._group_delays, np.arange(len(self._group_delays))
        # At one time a group comes before another by being later (its frame is an earlier one), then by number.
        before = (delays > delays[:, None]) | ((delays == delays[:, None]) & (group < group[:, None]))
        time = frames[:, None, None] + delays[:, None]
        return 1 + np.maximum(0, time - delays + before).sum(axis=2)
