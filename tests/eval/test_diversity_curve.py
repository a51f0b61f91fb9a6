"""The curve of perplexity and diversity, read by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eval.benchmarks.base import Generation
from eval.metrics.diversity_curve import CurvePoint, anchored
from slm.errors import UsageError

CURVE = [CurvePoint(0.5, 0.8, 10.0), CurvePoint(1.0, 0.4, 50.0), CurvePoint(1.5, 0.2, 150.0)]


def test_the_curve_is_read_between_its_points():
    """VERT 0.6 is half of the way from the first to the second, perplexity 100 half of the way to the third."""
    found = anchored(CURVE, vert=0.6, perplexity=100.0)
    assert (found.perplexity_at_vert, found.perplexity_temperature) == pytest.approx((30.0, 0.75))
    assert (found.vert_at_perplexity, found.vert_temperature) == pytest.approx((0.3, 1.25))
    by_hand = (30 + 50) / 2 * (0.6 - 0.4) + (50 + 100) / 2 * (0.4 - 0.3)
    assert found.area == pytest.approx(by_hand)


def test_a_point_of_the_curve_is_read_as_it_is():
    found = anchored(CURVE, vert=0.4, perplexity=50.0)
    assert (found.perplexity_at_vert, found.vert_at_perplexity, found.area) == (50.0, 0.4, 0.0)


def test_nothing_is_extended():
    found = anchored(CURVE, vert=0.9, perplexity=100.0)
    assert math.isnan(found.perplexity_at_vert)
    assert math.isnan(found.area)
    assert found.vert_at_perplexity == pytest.approx(0.3)
    empty = anchored([], vert=0.5, perplexity=50.0)
    assert np.isnan([empty.perplexity_at_vert, empty.vert_at_perplexity, empty.area]).all()


def test_the_order_of_points_and_points_without_a_value_are_nothing():
    known = anchored(CURVE, 0.6, 100.0)
    assert anchored([*CURVE[::-1], CurvePoint(0.7, math.nan, 3.0)], 0.6, 100.0) == known


def test_the_area_agrees_with_fine_steps_along_the_curve():
    t, v, p = np.array([(1, 2, 3, 4, 5, 6), (0.9, 0.8, 0.5, 0.4, 0.3, 0.1), (5, 9, 40, 60, 200, 250)])
    found = anchored([CurvePoint(*point) for point in zip(t, v, p, strict=True)], vert=0.7, perplexity=120.0)
    fine = np.linspace(found.vert_temperature, found.perplexity_temperature, 200_001)
    steps = np.interp(fine, t, p)[:-1] * np.diff(np.interp(fine, t, v))
    assert found.area == pytest.approx(abs(steps.sum()), rel=1e-4)


def test_temperatures_are_sorted_and_checked():
    assert Generation(temperatures="1.0, 0.3,0.7,").sweep == [0.3, 0.7, 1.0]
    assert Generation().sweep == []
    for wrong in ("hot", "-1", "0.5;0.7", "inf", "nan"):
        with pytest.raises(UsageError, match="temperatures"):
            Generation(temperatures=wrong)
