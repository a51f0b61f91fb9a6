"""Perplexity at equal diversity (arXiv 2102.01192): a model that is sampled colder says likelier and duller things, so
two models, or a model and recordings, compare only along the whole curve of perplexity and VERT.

The curve runs through the points (VERT, perplexity) in the order of their temperatures, straight between neighbours.
Where it first meets the VERT of recordings its perplexity is read, and the other way round. The area is that under the
curve, between these two crossings, over VERT, by trapezoids. Nothing is extended beyond the temperatures given: what
the curve does not meet has no value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CurvePoint:
    """What one temperature gave."""

    temperature: float
    vert: float
    perplexity: float


@dataclass(frozen=True)
class Anchored:
    """NaN for what the curve does not meet; `*_temperature` say where it does."""

    perplexity_at_vert: float
    perplexity_temperature: float
    vert_at_perplexity: float
    vert_temperature: float
    area: float


def anchored(points: Sequence[CurvePoint], vert: float, perplexity: float) -> Anchored:
    """The curve of `points`, in any order, read at the VERT and at the perplexity of recordings."""
    ordered = sorted((p for p in points if math.isfinite(p.vert + p.perplexity)), key=lambda p: p.temperature)
    curve = np.array([(p.temperature, p.vert, p.perplexity) for p in ordered], np.float64).reshape(-1, 3)
    at_vert, at_perplexity = _crossing(curve, 1, vert), _crossing(curve, 2, perplexity)
    return Anchored(
        perplexity_at_vert=float(at_vert[2]),
        perplexity_temperature=float(at_vert[0]),
        vert_at_perplexity=float(at_perplexity[1]),
        vert_temperature=float(at_perplexity[0]),
        area=_area(curve, at_vert, at_perplexity),
    )


def _crossing(curve: np.ndarray, column: int, level: float) -> np.ndarray:
    """The first point `[3]` of the curve at which a column has that value; NaN where there is none."""
    gaps = curve[:, column] - level
    for i, gap in enumerate(gaps):
        if gap == 0:
            return curve[i]
        if i + 1 < len(gaps) and gap * gaps[i + 1] < 0:
            return curve[i] + (curve[i + 1] - curve[i]) * gap / (gap - gaps[i + 1])
    return np.full(3, math.nan)


def _area(curve: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Between two of its points, over VERT; at least 0 however the curve is walked, and NaN where one is."""
    start, end = sorted((first, second), key=lambda point: point[0])
    inner = curve[(curve[:, 0] > start[0]) & (curve[:, 0] < end[0])]
    path = np.concatenate([start[None], inner, end[None]])
    heights = (path[1:, 2] + path[:-1, 2]) / 2
    return float(abs((heights * np.diff(path[:, 1])).sum()))
