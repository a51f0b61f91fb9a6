"""Cosine similarity of two embeddings: of two voices, or of a recording and the words about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.base import METRICS, Metric, Observations, sum_groups


@dataclass(frozen=True, eq=False)
class VoicePair:
    """Speaker embeddings `[D]` of what was made and of whom it should sound like."""

    group: str
    first: np.ndarray
    second: np.ndarray


@dataclass(frozen=True, eq=False)
class CaptionPair:
    """Embeddings `[D]` of a recording and of a text, by a model that puts both in one space."""

    group: str
    first: np.ndarray
    second: np.ndarray


class _Cosine(Metric):
    unit = "cosine"
    higher_is_better = True

    def observe(self, items: Sequence[VoicePair] | Sequence[CaptionPair]) -> Observations:
        values = np.array([cosine(p.first, p.second) for p in items], np.float64)
        return Observations(*sum_groups([p.group for p in items], values, np.ones(len(items))))


@METRICS.register("speaker_similarity")
class SpeakerSimilarity(_Cosine):
    name = "speaker_similarity"
    observes = VoicePair
    about = "Is it the voice of the prompt? What two recordings of one person get is the most to expect."


@METRICS.register("clap_score")
class ClapScore(_Cosine):
    name = "clap_score"
    observes = CaptionPair
    about = "Does the recording sound like what was asked for in words?"


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """ValueError for an embedding of length 0 or NaN, which points nowhere."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    if not length > 0:
        raise ValueError("an embedding is all zeros, or NaN: it points nowhere")
    return float(a @ b) / length
