"""Metrics by hand; the bootstrap against drawing index by index, and against the normal approximation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eval.metrics.base import METRICS, ClipLikelihood, Observations, ScoredPair, metrics_of
from eval.metrics.bits_per_s import BitsPerSecond
from eval.metrics.bootstrap import Estimate, estimate, resample
from eval.metrics.pair_accuracy import PairAccuracy
from tests.contracts import metric_law


def test_pair_accuracy():
    """Group a: right, tied -> 0.75; group b: wrong -> 0."""
    items = [ScoredPair("a", 2.0, 1.0), ScoredPair("b", -3.0, -2.5), ScoredPair("a", 1.0, 1.0)]
    better = [ScoredPair("a", 2.0, 1.0), ScoredPair("b", -2.0, -2.5), ScoredPair("a", 1.0, 1.0)]
    metric_law(PairAccuracy(), items, expected=0.375, better=better)


def test_bits_per_s():
    """ln 2 nats are a bit: 4 bits in 1 s and 2 bits in 2 s are 2 bits per second."""
    items = [ClipLikelihood("a", -4 * math.log(2), 1.0), ClipLikelihood("b", -2 * math.log(2), 2.0)]
    better = [ClipLikelihood("a", -1 * math.log(2), 1.0), ClipLikelihood("b", -2 * math.log(2), 2.0)]
    metric_law(BitsPerSecond(), items, expected=2.0, better=better)


def test_the_voices_of_a_word_are_one_observation_of_its_bits():
    """Group a: 4 + 8 bits in 1 + 2 s; group b: 1 bit in 1 s."""
    bit = math.log(2)
    clips = [ClipLikelihood("a", -4 * bit, 1.0), ClipLikelihood("b", -bit, 1.0), ClipLikelihood("a", -8 * bit, 2.0)]
    observed = BitsPerSecond().observe(clips)
    assert observed.numerators == pytest.approx([12, 1])
    assert observed.denominators == pytest.approx([3, 1])


def test_all_metrics_are_listed():
    assert {"bits_per_s", "pair_accuracy", "gen_ppl", "vert", "fad"} <= set(METRICS.names())
    assert [m.name for m in metrics_of(ScoredPair)] == ["pair_accuracy"]
    assert [m.name for m in metrics_of(ClipLikelihood)] == ["bits_per_s"]


def test_a_nan_is_not_a_miss():
    with pytest.raises(ValueError, match="'b' is NaN"):
        PairAccuracy().observe([ScoredPair("a", 1.0, 0.0), ScoredPair("b", float("nan"), 0.0)])
    with pytest.raises(ValueError, match="NaN"):
        BitsPerSecond().observe([ClipLikelihood("a", -1.0, 1.0), ClipLikelihood("b", float("nan"), 1.0)])


def test_infinitely_unlikely_items_compare_too():
    inf = math.inf
    items = [ScoredPair("a", -1.0, -inf), ScoredPair("b", -inf, -inf), ScoredPair("c", -inf, -1.0)]
    assert PairAccuracy().observe(items).numerators.tolist() == [1.0, 0.5, 0.0]


def test_the_interval_of_a_share_is_the_binomial_one():
    hits = Observations((np.arange(400) < 300).astype(float), np.ones(400))
    found = estimate([hits], resamples=20_000, seed=0)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert (found.value, found.count) == (0.75, 400)
    assert found.interval == pytest.approx((0.75 - half, 0.75 + half), abs=0.004)


def test_resampling_agrees_with_drawing_index_by_index():
    rng = np.random.default_rng(5)
    observations = Observations(rng.normal(size=40), rng.uniform(1, 3, 40))
    fast = resample(observations, 20_000, np.random.default_rng(0))
    assert len(fast) == 20_000
    index = rng.integers(0, 40, (20_000, 40))
    slow = observations.numerators[index].sum(axis=1) / observations.denominators[index].sum(axis=1)
    assert fast.mean() == pytest.approx(slow.mean(), abs=0.005)
    assert np.quantile(fast, [0.025, 0.5, 0.975]) == pytest.approx(np.quantile(slow, [0.025, 0.5, 0.975]), abs=0.01)


def test_strata_are_resampled_within_themselves():
    """Two strata of little spread: their mean has less, though pooled they would differ a lot."""
    low, high = (Observations(np.tile([base, base + 0.1], 20), np.ones(40)) for base in (0.0, 0.9))
    found = estimate([low, high], resamples=2000, seed=0)
    assert (found.value, found.count) == (pytest.approx(0.5), 80)
    deviation = 0.05 / np.sqrt(40) / np.sqrt(2)
    assert found.interval == pytest.approx((0.5 - 1.96 * deviation, 0.5 + 1.96 * deviation), abs=0.003)
    constant = Observations(np.ones(40), np.ones(40))
    low_end, high_end = estimate([low, constant], resamples=2000, seed=0).interval
    assert high_end - low_end == pytest.approx(1.96 * 0.05 / np.sqrt(40), rel=0.1)


@pytest.mark.parametrize("count", [1, 6])
def test_what_is_all_alike_does_not_tell_how_it_differs(count):
    alike = Observations(np.zeros(count), np.ones(count))
    assert estimate([alike, alike], resamples=100, seed=0) == Estimate(0.0, None, 2 * count)
    assert estimate([alike], resamples=100, seed=0, share=True).interval[1] > 0.3  # of a share it is known
    ties = Observations(np.full(40, 0.5), np.ones(40))
    low, high = estimate([ties], resamples=100, seed=0, share=True).interval
    assert (low, high) == (pytest.approx(0.5 * 0.025 ** (1 / 40)), pytest.approx(1 - 0.5 * 0.025 ** (1 / 40)))


def test_of_fewer_than_six_values_that_are_no_shares_there_is_no_interval():
    for count in (5, 6):
        found = estimate([Observations(np.arange(float(count)), np.ones(count))], resamples=100, seed=0)
        assert (found.interval is None) == (count == 5)


def test_intervals_depend_on_the_seed_and_not_on_order_or_blocks(monkeypatch):
    values = np.random.default_rng(0).normal(size=30)
    one = estimate([Observations(values, np.ones(30))], 500, seed=1)
    assert estimate([Observations(values[::-1].copy(), np.ones(30))], 500, seed=1).interval == one.interval
    assert estimate([Observations(values, np.ones(30))], 500, seed=2).interval != one.interval
    monkeypatch.setattr("eval.metrics.bootstrap.MAX_CELLS", 90)
    assert estimate([Observations(values, np.ones(30))], 500, seed=1).interval == pytest.approx(one.interval)
