"""The coarse codebooks of a whole document before its finer ones (VALL-E, arXiv 2301.02111; MusicLM, 2301.11325)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slm.errors import UsageError
from slm.patterns.base import PATTERNS
from slm.patterns.delay import DelayPattern
from slm.patterns.streams import StagedPattern, check_delays
from slm.patterns.unrolled import UnrolledPattern


@PATTERNS.register("coarse-first")
class CoarseFirstPattern(StagedPattern):
    """Codebook 0 of all frames, then the others side by side, delayed by `delays` (K - 1 of them; default 0, 0, ..).

    K = 3, T = 3 (digits are frames, `<` BOS, `>` EOS, `.` EMPTY):

        < 0 1 2 > . . . .
        < . . . . 0 1 2 >
        < . . . . 0 1 2 >

    What comes second sees all of the first, the end included.
    """

    name = "coarse-first"

    def __init__(self, codebook_sizes: Sequence[int], delays: Sequence[int] | None = None):
        rest = len(codebook_sizes) - 1
        self.delays = check_delays([0] * rest if delays is None else delays, "codebooks after the first", rest)
        stages = [DelayPattern(codebook_sizes[:1])]
        if rest:
            stages.append(DelayPattern(codebook_sizes[1:], self.delays))
        super().__init__(stages)

    def settings(self) -> dict[str, Any]:
        return {"delays": list(self.delays)}


@PATTERNS.register("musiclm")
class MusicLMPattern(StagedPattern):
    """Groups of `group_by` codebooks, each unrolled over all frames before the next (default 2).

    K = 4, T = 2 (digits are frames, `<` BOS, `>` EOS, `.` EMPTY):

        < 0 . 1 . > . . . . . . .
        < . 0 . 1 . > . . . . . .
        < . . . . . . 0 . 1 . > .
        < . . . . . . . 0 . 1 . >
    """

    name = "musiclm"

    def __init__(self, codebook_sizes: Sequence[int], group_by: int = 2):
        if group_by < 1 or len(codebook_sizes) % group_by:
            raise UsageError(f"group_by {group_by} does not divide {len(codebook_sizes)} codebooks")
        self.group_by = group_by
        groups = range(0, len(codebook_sizes), group_by)
        super().__init__([UnrolledPattern(codebook_sizes[start : start + group_by]) for start in groups])

    def settings(self) -> dict[str, Any]:
        return {"group_by": self.group_by}
