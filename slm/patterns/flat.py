"""All codebooks in one stream, frame by frame."""

from __future__ import annotations

import numpy as np

from slm.patterns.base import BOS, EOS, PATTERNS, Pattern
from slm.types import StreamVocabulary


@PATTERNS.register("flat")
class FlatPattern(Pattern):
    """One stream that holds the codes of a frame one after the other, each codebook with ids of its own.

    K = 2, T = 3 (`tk` is codebook k of frame t, `<` BOS, `>` EOS):

        < 00 01 10 11 20 21 >

    For K = 1 this is the plain unit language model.
    """

    name = "flat"

    @property
    def streams(self) -> tuple[StreamVocabulary, ...]:
        return (StreamVocabulary(sum(self.codebook_sizes)),)

    @property
    def id_offsets(self) -> np.ndarray:
        return np.cumsum([0, *self.codebook_sizes[:-1]])

    def num_steps(self, num_frames: int) -> int:
        return num_frames * self.num_codebooks + 2

    def layout(self, num_frames: int) -> np.ndarray:
        codes = np.arange(num_frames * self.num_codebooks)
        return np.concatenate([[BOS], codes, [EOS]])[:, None]
