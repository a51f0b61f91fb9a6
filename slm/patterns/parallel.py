"""One stream a codebook, all in step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slm.patterns.base import PATTERNS
from slm.patterns.delay import DelayPattern


@PATTERNS.register("parallel")
class ParallelPattern(DelayPattern):
    """K streams side by side, a frame at each step: its codes are predicted independently of each other.

    K = 3, T = 4 (digits are frames, `<` BOS, `>` EOS):

        < 0 1 2 3 >
        < 0 1 2 3 >
        < 0 1 2 3 >

    For a depth transformer, which predicts the codes of a step one after the other, this loses nothing.
    """

    name = "parallel"

    def __init__(self, codebook_sizes: Sequence[int]):
        super().__init__(codebook_sizes, [0] * len(codebook_sizes))

    def settings(self) -> dict[str, Any]:
        return {}
