"""What patterns have in common in which each codebook has a stream of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from numbers import Integral

import numpy as np

from slm.errors import UsageError
from slm.patterns.base import BOS, EMPTY, EOS, Pattern
from slm.types import StreamVocabulary


class StreamPattern(Pattern):
    """K streams, whose layout follows from the step of each code and of each end."""

    @abstractmethod
    def places(self, num_frames: int) -> np.ndarray:
        """int64 `[T + 1, K]`: the step of each code; row T holds those of the ends."""

    @property
    def streams(self) -> tuple[StreamVocabulary, ...]:
        return tuple(StreamVocabulary(size) for size in self.codebook_sizes)

    @property
    def id_offsets(self) -> np.ndarray:
        return np.zeros(self.num_codebooks, np.int64)

    def layout(self, num_frames: int) -> np.ndarray:
        books = self.num_codebooks
        places, streams = self.places(num_frames), np.arange(books)
        layout = np.full((int(places.max()) + 1, books), EMPTY, np.int64)
        layout[0] = BOS
        layout.reshape(-1)[(places[:-1] * books + streams).reshape(-1)] = np.arange(num_frames * books)
        layout[places[-1], streams] = EOS
        return layout


class StagedPattern(StreamPattern):
    """Stages one after the other, each with codebooks of its own for the whole document.

    A stage begins once all streams of the one before have ended, so it may depend on how long the document is.
    """

    def __init__(self, stages: Sequence[StreamPattern]):
        super().__init__([size for stage in stages for size in stage.codebook_sizes])
        self.stages = tuple(stages)

    def num_steps(self, num_frames: int) -> int:
        return 1 + sum(stage.num_steps(num_frames) - 1 for stage in self.stages)

    def places(self, num_frames: int) -> np.ndarray:
        lengths = [stage.num_steps(num_frames) - 1 for stage in self.stages]
        starts = np.cumsum([0, *lengths[:-1]])
        return np.concatenate([s + stage.places(num_frames) for s, stage in zip(starts, self.stages, strict=True)], 1)


def check_delays(delays: Sequence[int], what: str, count: int) -> tuple[int, ...]:
    """Whole numbers, one for each of `count` of `what`, that start at 0 and never decrease; UsageError otherwise."""
    made = whole_numbers("delays", delays)
    if len(made) != count:
        raise UsageError(f"delays {list(made)}: {count} {what} need as many delays")
    if list(made) != sorted(made) or made[:1] not in ((0,), ()):
        raise UsageError(f"delays {list(made)} must start at 0 and never decrease")
    return made


def whole_numbers(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """A setting that is a list of whole numbers, whatever a configuration holds; UsageError otherwise."""
    if not isinstance(values, Sequence) or not all(isinstance(v, Integral) for v in values):
        raise UsageError(f"{name} must be a list of whole numbers, not {values!r}")
    return tuple(int(value) for value in values)
