"""Sources of documents for the tests of the loader."""

from __future__ import annotations

import numpy as np

from slm.data.documents import Documents
from slm.data.layouts import lay_out
from slm.data.source import DOCUMENT, END, START
from slm.data.store import CodeStore
from slm.patterns import Pattern
from slm.types import Steps
from tests.fakes import ArithmeticTokenizer, random_codes, write_corpus


class Lengths:
    """Documents of these lengths whose codes are all 0."""

    prefix_steps = 0

    def __init__(self, lengths):
        self.num_frames = np.asarray(lengths)

    def __len__(self):
        return len(self.num_frames)

    def digest(self):
        return str(self.num_frames.tolist())

    def steps(self, pattern: Pattern, pieces: np.ndarray) -> Steps:
        lengths = pieces[:, END] - pieces[:, START]
        codes = np.zeros((lengths.sum(), pattern.num_codebooks), np.int64)
        return lay_out(pattern, codes, lengths, pieces[:, 3])

    def num_codes(self, pieces):
        return int((pieces[:, END] - pieces[:, START]).sum())

    def audio_s(self, pieces):
        return float(self.num_codes(pieces))


class Prompted(Documents):
    """Documents that each begin with a text: ids that are read, and not predicted. A piece of a document that is cut
    has it too."""

    def __init__(self, store: CodeStore, texts: list[list[int]]):
        super().__init__(store)
        self.texts = texts
        self.prefix_steps = np.array([len(text) for text in texts])

    def steps(self, pattern: Pattern, pieces: np.ndarray) -> Steps:
        steps, valid = [], []
        for piece in pieces:
            text = np.repeat(np.array(self.texts[piece[DOCUMENT]], np.int64)[:, None], len(pattern.streams), axis=1)
            speech = super().steps(pattern, piece[None])
            steps += [text, speech.steps]
            valid += [np.zeros(text.shape, bool), speech.valid]
        return Steps(np.concatenate(steps), np.concatenate(valid))


def corpus(path, lengths, num_codebooks=2, seed=0):
    return CodeStore(write_corpus(path, random_codes(ArithmeticTokenizer(num_codebooks), lengths, seed)))
