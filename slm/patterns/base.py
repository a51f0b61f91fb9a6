"""The contract of a codebook pattern: how codes `[T, K]` become the steps `[S, Q]` that a language model reads.

A pattern is one function, `layout(T)`: an integer `[S, Q]` that says for each step and stream which code stands there
(`t * K + k`), or BOS, EOS or EMPTY. Applying, inverting and generating all follow from it, so they cannot disagree.
Layouts are full: every code has its step, and so has the end of every stream. (audiocraft's training default drops
the last frames of delayed codebooks, which takes up to half of a short word; it is a setting of `delay`.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from slm.registry import Registry
from slm.types import Steps, StreamVocabulary

BOS, EOS, EMPTY = -1, -2, -3


class Pattern(ABC):
    """A layout over `codebook_sizes`.

    `open_ended` says that layouts of different T agree until the shorter one's first end, which is what lets a model
    stop by itself. `has_ends` is false where the layout is cut: ends, and some codes, are then never predicted.
    """

    name: str
    open_ended = True
    has_ends = True

    def __init__(self, codebook_sizes: Sequence[int]):
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        self.num_codebooks = len(self.codebook_sizes)

    @property
    @abstractmethod
    def streams(self) -> tuple[StreamVocabulary, ...]:
        """The vocabulary of each of the Q streams."""

    @property
    @abstractmethod
    def id_offsets(self) -> np.ndarray:
        """`[K]`: what is added to a code of each codebook to make its id (0 where each codebook has its stream)."""

    @abstractmethod
    def layout(self, num_frames: int) -> np.ndarray:
        """int64 `[S, Q]`: `t * K + k`, or BOS, EOS, EMPTY. Step 0 is BOS in every stream."""

    @abstractmethod
    def num_steps(self, num_frames: int) -> int:
        """S for T frames, without building the layout. Never decreases with T."""

    def settings(self) -> dict[str, Any]:
        """What `PATTERNS.create(name, codebook_sizes=..., **settings)` needs to make this pattern again."""
        return {}

    def full(self) -> Pattern:
        """This pattern with nothing cut from its layout: what is scored and generated under."""
        return self

    def apply(self, codes: np.ndarray, ends: bool = True) -> Steps:
        """Codes `[T, K]` -> steps. With `ends=False` (a piece cut from a longer document) EOS is left out:
        EMPTY stands in its place and is not predicted."""
        layout = self.layout(len(codes))
        if not ends:
            layout = np.where(layout == EOS, EMPTY, layout)
        ids = (codes.astype(np.int64) + self.id_offsets).reshape(-1)
        steps = self.place(layout, ids)
        return Steps(steps, (layout != BOS) & (layout != EMPTY))

    def place(self, layout: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Ids `[S, Q]` of a layout, given the ids of its codes in order `[T * K]` (0 stands for those not given)."""
        table = np.zeros(max(len(ids), int(layout.max()) + 1) + 3, np.int64)
        table[: len(ids)] = ids
        steps = np.empty(layout.shape, np.int64)
        for q, special in enumerate(self._special_ids):
            table[-3:] = special
            steps[:, q] = table[layout[:, q]]
        return steps

    @cached_property
    def _special_ids(self) -> np.ndarray:
        """`[Q, 3]`, so that BOS, EOS and EMPTY, which are negative, index their ids."""
        assert (BOS, EOS, EMPTY) == (-1, -2, -3)
        return np.array([[v.empty_id, v.eos_id, v.bos_id] for v in self.streams], np.int64)

    def invert(self, steps: np.ndarray, num_frames: int) -> np.ndarray:
        """Steps `[S, Q]` -> codes `[T, K]`: exactly what `apply` was given. ValueError where the layout is cut."""
        return self.gather(steps, num_frames) - self.id_offsets

    def gather(self, values: np.ndarray, num_frames: int) -> np.ndarray:
        """Values `[S, Q]` at the steps of a document of T frames -> `[T, K]`, aligned with its codes."""
        layout = self.layout(num_frames)
        gathered = np.empty(num_frames * self.num_codebooks, values.dtype)
        where = layout >= 0
        if np.count_nonzero(where) != len(gathered):
            raise ValueError(f"this {self.name} layout leaves codes out: use its full()")
        gathered[layout[where]] = values[where]
        return gathered.reshape(num_frames, self.num_codebooks)

    def gather_ends(self, values: np.ndarray, num_frames: int) -> np.ndarray:
        """Values `[S, Q]` -> `[Q]`, aligned with the end of each stream."""
        steps, streams = np.nonzero(self.layout(num_frames) == EOS)
        return values[steps, streams][np.argsort(streams)]


PATTERNS: Registry[Pattern] = Registry("pattern", package="slm.patterns", group="slm.patterns", base=Pattern)
