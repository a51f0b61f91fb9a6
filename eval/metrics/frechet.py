"""Fréchet audio distance (arXiv 1812.08466): how far apart two sets of recordings are, as embeddings taken for normal
distributions.

From few embeddings the distance comes out too large. FAD-infinity (arXiv 2311.01616) measures it on growing parts of
the judged set and extends the line over 1/n to no error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.base import METRICS, CorpusMetric

REFERENCE = "reference"
STEPS = 15  # of growing parts, as in fadtk


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Of one clip: float `[N, D]`, and the set that it belongs to (`REFERENCE`, or what is judged)."""

    group: str
    which: str
    vectors: np.ndarray


@METRICS.register("fad")
class FrechetAudioDistance(CorpusMetric[Embeddings]):
    name = "fad"
    observes = Embeddings
    unit = "squared distance"
    higher_is_better = False
    about = (
        "How far the judged audio is from recordings, as an embedding hears it. Only values of one embedding compare."
    )

    def measure(self, items: Sequence[Embeddings]) -> float:
        reference, judged = _split(items)
        return distance(moments(reference), moments(judged)) if min(len(reference), len(judged)) > 1 else math.nan


@METRICS.register("fad_inf")
class FrechetAudioDistanceInfinity(CorpusMetric[Embeddings]):
    name = "fad_inf"
    observes = Embeddings
    unit = "squared distance"
    higher_is_better = False
    about = "The same, extended to endlessly many judged recordings: sets of different sizes compare."

    def measure(self, items: Sequence[Embeddings]) -> float:
        reference, judged = _split(items)
        return extended(reference, judged) if len(reference) > 1 else math.nan


def _split(items: Sequence[Embeddings]) -> tuple[np.ndarray, np.ndarray]:
    """In the order of their groups, so that the order of items is nothing."""
    ordered = sorted(items, key=lambda e: e.group)
    parts = [[e.vectors for e in ordered if (e.which == REFERENCE) is side] for side in (True, False)]
    a, b = (np.concatenate(p).astype(np.float64) if p else np.zeros((0, 1)) for p in parts)
    return a, b


def moments(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean `[D]` and unbiased covariance `[D, D]`."""
    return vectors.mean(axis=0), np.atleast_2d(np.cov(vectors, rowvar=False))


def distance(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two normal distributions, at least 0.

    The trace of the root is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric: no
    complex root, and singular covariances do no harm.
    """
    (m1, c1), (m2, c2) = first, second
    values, vectors = np.linalg.eigh(c1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    between = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ c2 @ root), 0)).sum()
    return max(0.0, float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * between))


def extended(reference: np.ndarray, judged: np.ndarray, seed: int = 0) -> float:
    """The distance at 1/n = 0 by least squares over `STEPS` sizes, from a fifth of the embeddings (at least as many as
    they have dimensions, and 2) to all. NaN where there are too few. It may be negative: it is an estimate."""
    total, least = len(judged), max(2, judged.shape[1], len(judged) // 5)
    sizes = np.unique(np.linspace(least, total, STEPS).astype(int)) if total > least else np.zeros(0, int)
    if len(sizes) < 3:
        return math.nan
    rng, known = np.random.default_rng(seed), moments(reference)
    found = [distance(known, moments(judged[rng.choice(total, n, replace=False)])) for n in sizes]
    _, intercept = np.polyfit(1 / sizes, found, 1)
    return float(intercept)
