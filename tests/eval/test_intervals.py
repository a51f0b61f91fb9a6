"""Intervals of few items: by scipy's exact binomial test, by search, by simulation, and by going through all that could
have been seen."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from eval.metrics.base import Observations
from eval.metrics.binomial import exact_limits
from eval.metrics.bootstrap import estimate
from eval.metrics.few import few_difference, few_share
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


@pytest.mark.parametrize(("right", "n"), [(1, 3), (2, 3), (9, 200), (195, 200), (4, 13)])
def test_few_right_or_wrong_are_clopper_and_pearson(right, n):
    from scipy.stats import binomtest

    exact = binomtest(right, n).proportion_ci(0.95, "exact")
    assert share([1.0] * right + [0.0] * (n - right)) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_limits_are_those_of_the_exact_test():
    """Of whole numbers by scipy's binomial test; of others by what the limits are: there the seen is as unlikely."""
    from scipy.stats import beta, binomtest

    for right, number in ((0, 4), (1, 4), (4, 4), (7, 20), (190, 200), (3, 5000)):
        expected = binomtest(right, number).proportion_ci(method="exact")
        assert exact_limits(right, number) == pytest.approx((expected.low, expected.high), abs=1e-10)
    low, high = exact_limits(3.5, 8.25)
    assert beta.cdf(low, 3.5, 5.75) == pytest.approx(0.025)
    assert beta.sf(high, 4.5, 4.75) == pytest.approx(0.025)


def test_many_right_and_wrong_are_the_bootstrap():
    values = np.array([1.0] * 10 + [0.0] * 10)
    enough, few = Observations(values, np.ones(20)), Observations(values[:19], np.ones(19))
    assert estimate([enough, enough], 200, 0, share=True) == estimate([enough, enough], 200, 0)
    assert estimate([enough, few], 200, 0, share=True) != estimate([enough, few], 200, 0)
    assert estimate([few], 200, 0) == estimate([few], 200, 0), "what is no share has no such limits"


def test_parts_are_combined_by_the_distances_of_their_limits():
    from scipy.stats import beta, binomtest

    for seen in ([(2, 2), (150, 200)], [(1, 1), (90, 100), (60, 100)], [(9, 60), (20, 60), (25, 60)]):
        right, sizes = np.array(seen).T
        limits = [binomtest(*part).proportion_ci(0.95, "exact") for part in seen]
        shares, parts, worth = right / sizes, len(seen), len(seen) ** 2 / sum(1 / sizes)
        low = shares.mean() - np.linalg.norm(shares - [part.low for part in limits]) / parts
        high = shares.mean() + np.linalg.norm([part.high for part in limits] - shares) / parts
        as_right = shares.mean() * worth
        least = beta.ppf(0.025, as_right, worth - as_right + 1)
        most = beta.ppf(0.975, as_right + 1, worth - as_right)
        values = [[1.0] * k + [0.0] * (n - k) for k, n in seen]
        assert share(*values) == pytest.approx((min(low, least), max(high, most)), abs=1e-9)
        turned = share(*([1 - v for v in part] for part in values))
        assert turned == pytest.approx((1 - max(high, most), 1 - min(low, least)), abs=1e-9)


SIZES = [(3,), (12,), (2, 2), (3, 3, 3), (2, 40), (1, 1, 25), (2, 4, 8)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_truth_is_missed_less_often_than_one_time_in_twenty(sizes):
    """All numbers of right ones, each with its probability."""
    from scipy.stats import binom

    outcomes = list(product(*(range(n + 1) for n in sizes)))
    intervals = np.array([share(*([1.0] * k + [0.0] * (n - k) for k, n in zip(seen, sizes, strict=True)))
                          for seen in outcomes])  # fmt: skip
    spread = np.linspace(0.5, 1, len(sizes))
    shares = [np.full(len(sizes), p) for p in (0.3, 0.5, 0.8, 0.95, 0.99)]
    for truth in [*shares, spread, spread[::-1], 1 - spread / 2]:
        likely = np.prod([binom.pmf([s[i] for s in outcomes], sizes[i], truth[i]) for i in range(len(sizes))], axis=0)
        holds = (intervals[:, 0] <= truth.mean() + 1e-9) & (truth.mean() - 1e-9 <= intervals[:, 1])
        assert likely[holds].sum() >= 0.95, (sizes, truth)


@pytest.mark.parametrize("sizes", [(4,), (12,), (2, 2), (2, 10), (1, 1, 6)], ids=str)
def test_the_true_difference_is_missed_less_often_than_one_time_in_twenty(sizes):
    """All numbers of items on which the second model is better and worse."""
    from scipy.stats import multinomial

    seen = [[(b, c, n - b - c) for b in range(n + 1) for c in range(n + 1 - b)] for n in sizes]
    outcomes = list(product(*seen))
    intervals = []
    for outcome in outcomes:
        second = [np.repeat([1.0, 0.0, 0.5], part) for part in outcome]
        first = [np.repeat([0.0, 1.0, 0.5], part) for part in outcome]
        intervals.append(paired_test(first, second, 100, 0).interval)
    low, high = np.array(intervals).T
    for better, worse in ((0.05, 0.05), (0.2, 0.1), (0.4, 0.1), (0.3, 0.3), (0.02, 0.1), (0.7, 0.2)):
        chances = [
            multinomial.pmf(part, n, [better, worse, 1 - better - worse]) for part, n in zip(seen, sizes, strict=True)
        ]
        likely = np.prod(np.meshgrid(*chances, indexing="ij"), axis=0).reshape(-1)
        holds = (low <= better - worse + 1e-9) & (better - worse - 1e-9 <= high)
        assert likely[holds].sum() >= 0.95, (sizes, better, worse)


@pytest.mark.parametrize(("better", "worse", "n"), [(1, 0, 4), (3, 2, 12), (0, 5, 9), (15, 9, 40), (10, 30, 42)])
def test_few_better_or_worse_are_combined_as_paired_shares_are(better, worse, n):
    """MOVER for a difference (Zou and Donner 2008), of two shares of items of which none is both."""
    from scipy.stats import binomtest

    (p, (l1, u1)), (q, (l2, u2)) = ((k / n, binomtest(k, n).proportion_ci(0.95, "exact")) for k in (better, worse))
    r = -np.sqrt(p * q / ((1 - p) * (1 - q)))
    low = p - q - np.sqrt((p - l1) ** 2 - 2 * r * (p - l1) * (u2 - q) + (u2 - q) ** 2)
    high = p - q + np.sqrt((u1 - p) ** 2 - 2 * r * (u1 - p) * (q - l2) + (q - l2) ** 2)
    seen = np.repeat([1.0, -1.0, 0.0], (better, worse, n - better - worse))
    expected = None if min(better, worse) >= 10 else pytest.approx((max(-1, low), min(1, high)), abs=1e-9)
    assert few_difference([seen]) == expected
    assert few_difference([seen, seen[:0]]) is None
    assert few_share([np.abs(seen), seen[:0]]) is None


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
@pytest.mark.parametrize("sizes", [(6,), (30,), (5,) * 12, (20,) * 12, (3, 30), (50, 50, 50, 3)], ids=str)
def test_it_misses_less_often_than_one_time_in_twenty_over_voices_too(sizes):
    """Means over one to three voices of a word: how often the truth lies outside, in samples drawn at random."""
    rng = np.random.default_rng(0)
    for voices, truth in product((1, 3), (0.5, 0.8, 0.95)):
        missed = 0
        for _ in range(1000):
            low, high = share(*((rng.random((n, voices)) < truth).mean(axis=1) for n in sizes))
            missed += not low <= truth <= high
        assert missed / 1000 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1000), (sizes, voices, truth)


def test_equal_models_of_few_items_might_differ():
    same = paired_test([np.ones(3)], [np.ones(3)], 100, 0)
    q = 0.025 ** (1 / 3)
    assert same.interval == pytest.approx((q - 1, 1 - q))
    assert same.within_noise
    better = paired_test([np.zeros(3)], [np.ones(3)], 100, 0)
    assert better.interval == pytest.approx((2 * q - 1, 1))
    assert better.within_noise
    assert not paired_test([np.zeros(9)], [np.ones(9)], 100, 0).within_noise
