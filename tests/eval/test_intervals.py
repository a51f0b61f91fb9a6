"""Intervals where all items agree: by scipy's exact binomial test, by simulation, and by search."""

from __future__ import annotations

import numpy as np
import pytest

from eval.metrics.base import Observations
from eval.metrics.bootstrap import estimate
from eval.metrics.paired import paired_test
from eval.metrics.unanimous import unanimous_interval
from eval.report.wording import INTERVAL


def share(*strata: list[float]) -> tuple[float, float]:
    made = [Observations(np.array(s, np.float64), np.ones(len(s))) for s in strata]
    return estimate(made, 200, 0, share=True).interval


@pytest.mark.parametrize("n", [1, 3, 10, 200])
def test_all_right_or_all_wrong_is_clopper_and_pearson(n):
    from scipy.stats import binomtest

    for right in (0, n):
        exact = binomtest(right, n).proportion_ci(0.95, "exact")
        assert share([float(right > 0)] * n) == pytest.approx((exact.low, exact.high))
    assert "Clopper-Pearson" in INTERVAL


def test_where_items_differ_it_is_the_bootstrap():
    strata = [Observations(np.array([1.0, 1.0, 0.0]), np.ones(3))]
    assert estimate(strata, 200, 0, share=True) == estimate(strata, 200, 0)
    assert share([1, 1], [1, 0]) == estimate([Observations(np.array(s, float), np.ones(2)) for s in ([1, 1], [1, 0])],
                                             200, 0).interval  # fmt: skip


def test_ties_alone_leave_room_on_both_sides():
    q = 0.025 ** (1 / 5)
    assert share([0.5] * 5) == pytest.approx((q / 2, 1 - q / 2))


def test_the_least_favourable_shares_of_strata_are_found():
    """By trying all of two strata: the smallest mean under which both samples agree with a probability of 0.025."""
    for values, sizes in (((1, 1), (2, 9)), ((1, 0.5), (4, 4)), ((1, 1), (1, 40)), ((0.5, 0), (3, 3))):
        first = np.linspace(1e-4, 1, 400_001)
        second = np.minimum(1, (0.025 / np.minimum(1, first ** sizes[0])) ** (1 / sizes[1]))
        fits = first ** sizes[0] * second ** sizes[1] >= 0.025 - 1e-12
        low = ((values[0] * first + values[1] * second) / 2)[fits].min()
        high = ((1 - (1 - values[0]) * first + 1 - (1 - values[1]) * second) / 2)[fits].max()
        found = unanimous_interval([np.full(n, float(v)) for v, n in zip(values, sizes, strict=True)])
        assert found == pytest.approx((low, high), abs=1e-4)


@pytest.mark.thorough
def test_it_misses_less_often_than_one_time_in_twenty():
    """Means over two voices of a word, of which most are right: how often the truth lies outside."""
    rng = np.random.default_rng(0)
    for truth in (0.5, 0.8, 0.95):
        voices = rng.random((4000, 6, 2)) < truth
        missed = 0
        for sample in voices.mean(axis=2):
            interval = unanimous_interval([sample])
            missed += interval is not None and not interval[0] <= truth <= interval[1]
        assert missed / 4000 <= 0.05


def test_equal_models_of_few_items_might_differ():
    same = paired_test([np.ones(3)], [np.ones(3)], 100, 0)
    q = 0.025 ** (1 / 3)
    assert same.interval == pytest.approx((q - 1, 1 - q))
    assert same.within_noise
    better = paired_test([np.zeros(3)], [np.ones(3)], 100, 0)
    assert better.interval == pytest.approx((2 * q - 1, 1))
    assert better.within_noise
    assert not paired_test([np.zeros(9)], [np.ones(9)], 100, 0).within_noise
