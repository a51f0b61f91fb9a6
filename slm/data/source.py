"""What a loader needs of documents, of whatever kind."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from slm.patterns import Pattern
from slm.types import Steps

DOCUMENT, START, END, ENDS = range(4)
"""The columns of pieces, int64 `[P, 4]`: which document, its first frame and the one after its last, and whether the
document ends there."""


class Source(Protocol):
    """N documents of one kind. Another kind is one class more: speech after a text that it is given, both interleaved,
    or prompts with a better and a worse answer (two documents each, of whose prompt nothing is predicted).

    Documents are cut into pieces where a row is too short for them. A piece takes
    `prefix_steps[document] + pattern.num_steps(end - start)` steps of its row.
    """

    num_frames: np.ndarray
    """`[N]`: lengths, in what a pattern takes as frames."""

    @property
    def prefix_steps(self) -> np.ndarray | int:
        """`[N]`, or one number for all: steps before a piece's codes, such as a text to be read."""

    def __len__(self) -> int: ...

    def digest(self) -> str:
        """Tells one choice of documents from another."""

    def steps(self, pattern: Pattern, pieces: np.ndarray) -> Steps:
        """The steps of all pieces, one after another; `valid` marks what is predicted of them."""

    def num_codes(self, pieces: np.ndarray) -> int:
        """How many codes are trained on in these pieces."""

    def audio_s(self, pieces: np.ndarray) -> float:
        """How long the audio of these pieces lasts."""
