"""Paired tests against exact fractions, a closed form, and what must be so."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from eval.metrics.base import Observations
from eval.metrics.bootstrap import estimate
from eval.metrics.paired import paired_test, sign_test


@pytest.mark.parametrize(("better", "worse"), [(8, 2), (0, 5), (3, 3), (1, 0), (60, 41), (700, 610)])
def test_the_sign_test_is_the_binomial_one(better, worse):
    n, least = better + worse, min(better, worse)
    exact = min(Fraction(1), 2 * sum((Fraction(comb(n, k), 2**n) for k in range(least + 1)), Fraction(0)))
    assert sign_test(better, worse) == pytest.approx(float(exact), rel=1e-10)
    assert sign_test(worse, better) == sign_test(better, worse)


def test_nothing_told_apart_is_no_evidence():
    assert sign_test(0, 0) == 1.0
    same = np.array([0.0, 1.0, 0.5, 1.0])
    test = paired_test([same], [same], 200, 0)
    assert (test.difference, test.better, test.worse, test.within_noise) == (0, 0, 0, True)
    assert test.interval == pytest.approx((0.025**0.25 - 1, 1 - 0.025**0.25))


def test_the_interval_is_that_of_the_mean_difference():
    """For many items a bootstrap interval is mean +- 1.96 s / sqrt(n)."""
    rng = np.random.default_rng(0)
    first, second = rng.random(1000), rng.random(1000) + 0.01
    test = paired_test([first], [second], 4000, 1)
    d = second - first
    half = 1.96 * d.std() / np.sqrt(len(d))
    assert test.difference == pytest.approx(d.mean())
    assert test.interval == pytest.approx((d.mean() - half, d.mean() + half), abs=0.06 * half)
    assert (test.better, test.worse) == ((d > 0).sum(), (d < 0).sum())
    assert estimate([Observations(d, np.ones(1000))], 4000, 1).interval == test.interval
    low, high = paired_test([first, first], [second, second], 4000, 1).interval
    assert (low, high) == pytest.approx((d.mean() - half / 2**0.5, d.mean() + half / 2**0.5), abs=0.06 * half)


def test_pairing_tells_apart_what_two_intervals_cannot():
    """Both right on the same 60 of 100 items, the second on 8 more: each alone has an interval of 19 points."""
    first = np.r_[np.ones(60), np.zeros(40)]
    second = np.r_[np.ones(68), np.zeros(32)]
    alone = [estimate([Observations(v, np.ones(100))], 2000, 0).interval for v in (first, second)]
    assert alone[0][1] > alone[1][0]
    test = paired_test([first], [second], 2000, 0)
    assert not test.within_noise
    assert test.p_value == pytest.approx(2 / 2**8)


def test_few_items_are_not_told_apart_by_the_bootstrap_alone():
    """Five items, all better: no resample shows anything else, but five coins fall alike once in sixteen times."""
    test = paired_test([np.zeros(5)], [np.ones(5)], 500, 0)
    assert test.interval == pytest.approx((2 * 0.025**0.2 - 1, 1))
    assert test.p_value == pytest.approx(1 / 16)
    assert test.within_noise
    assert not paired_test([np.zeros(6)], [np.ones(6)], 500, 0).within_noise


def test_the_more_careful_of_interval_and_sign_test_decides():
    """27 items for one and 14 for the other: resampled they hardly ever tie, but such coins fall one time in 17. And
    690 items a little better, 310 worse by twice as much: no such coins, but the mean might as well be 0."""
    test = paired_test([np.r_[np.zeros(27), np.ones(14)]], [np.r_[np.ones(27), np.zeros(14)]], 4000, 0)
    assert test.interval[0] > 0
    assert test.p_value == pytest.approx(0.0596, abs=1e-4)
    assert test.within_noise
    mean = paired_test([np.zeros(1000)], [np.r_[np.full(690, 0.1), np.full(310, -0.2)]], 4000, 0)
    assert mean.interval[0] < 0 < mean.interval[1]
    assert mean.p_value < 1e-9
    assert mean.within_noise


def test_strata_weigh_the_same_whatever_their_size():
    first = [np.zeros(10), np.zeros(1000)]
    second = [np.ones(10), np.zeros(1000)]
    test = paired_test(first, second, 100, 0)
    assert test.difference == 0.5
    assert test.count == 1010


def test_the_order_of_items_and_of_models_changes_the_sign_alone():
    rng = np.random.default_rng(3)
    first, second = rng.integers(0, 2, (2, 50)).astype(float)
    mixed = rng.permutation(50)
    test = paired_test([first], [second], 500, 0)
    assert paired_test([first[mixed]], [second[mixed]], 500, 0) == test
    assert paired_test([first], [second], 500, 1).interval != test.interval
    turned = paired_test([second], [first], 500, 0)
    assert (turned.difference, turned.p_value, turned.better) == (-test.difference, test.p_value, test.worse)


def test_other_items_are_refused():
    with pytest.raises(ValueError, match="not of the same items"):
        paired_test([np.ones(3)], [np.ones(4)], 10, 0)
