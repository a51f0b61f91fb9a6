"""Metrics of embeddings, classes and ratings: closed forms, scipy, torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eval.metrics.class_divergence import ClassDivergence, ClassPair, kl_divergence
from eval.metrics.frechet import (
    REFERENCE,
    Embeddings,
    FrechetAudioDistance,
    FrechetAudioDistanceInfinity,
    distance,
    extended,
    moments,
)
from eval.metrics.rating import MeanRating, Rating
from eval.metrics.similarity import CaptionPair, ClapScore, SpeakerSimilarity, VoicePair
from tests.contracts import metric_law


def spread(mean: float, deviation: float) -> np.ndarray:
    """Four numbers of exactly this mean and (unbiased) deviation."""
    unit = np.array([-1.0, -1.0, 1.0, 1.0]) * math.sqrt(3 / 4)
    return (mean + deviation * unit)[:, None]


def test_the_distance_of_two_normal_distributions_in_one_dimension():
    """(m1 - m2)^2 + (s1 - s2)^2."""
    reference = Embeddings("a", REFERENCE, spread(0.0, 1.0))
    judged = [Embeddings("b", "judged", spread(3.0, 3.0)[:2]), Embeddings("c", "judged", spread(3.0, 3.0)[2:])]
    better = [Embeddings("b", "judged", spread(1.0, 3.0)[:2]), Embeddings("c", "judged", spread(1.0, 3.0)[2:])]
    metric_law(FrechetAudioDistance(), [reference, *judged], expected=9.0 + 4.0, better=[reference, *better])


def test_the_distance_of_axes_that_do_not_turn_is_a_sum_over_them():
    m1, m2 = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0])
    s1, s2 = np.array([1.0, 2.0, 0.0]), np.array([2.0, 0.5, 1.0])
    found = distance((m1, np.diag(s1**2)), (m2, np.diag(s2**2)))
    assert found == pytest.approx(((m1 - m2) ** 2 + (s1 - s2) ** 2).sum())
    assert distance((m1, np.diag(s1**2)), (m1, np.diag(s1**2))) == pytest.approx(0, abs=1e-12)


def test_the_distance_agrees_with_scipys_root_of_a_matrix():
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(200, 8)), rng.normal(size=(150, 8)) @ rng.normal(size=(8, 8)) + 1
    (m1, c1), (m2, c2) = moments(first), moments(second)
    slow = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    assert distance((m1, c1), (m2, c2)) == pytest.approx(slow)


def test_fewer_embeddings_than_dimensions_are_no_trouble():
    rng = np.random.default_rng(0)
    found = distance(moments(rng.normal(size=(5, 40))), moments(rng.normal(size=(7, 40))))
    assert math.isfinite(found)
    assert found > 0
    one = Embeddings("a", REFERENCE, np.ones((1, 4)))
    for metric in (FrechetAudioDistance(), FrechetAudioDistanceInfinity()):
        assert math.isnan(metric.value([one, Embeddings("b", "judged", rng.normal(size=(90, 4)))]))
        assert math.isnan(metric.value([]))


def test_the_extended_distance_takes_away_what_few_embeddings_add():
    """Both sets are of one distribution: 0 is right, and the plain distance is well above."""
    rng = np.random.default_rng(1)
    reference, judged = rng.normal(size=(20_000, 16)), rng.normal(size=(300, 16))
    plain = distance(moments(reference), moments(judged))
    assert plain > 0.2
    assert abs(extended(reference, judged)) < plain / 2
    assert math.isnan(extended(reference, judged[:16]))
    items = [Embeddings("a", REFERENCE, reference), Embeddings("b", "judged", judged)]
    nearer = [items[0], Embeddings("b", "judged", judged[::-1] * 1.0)]
    moved = [items[0], Embeddings("b", "judged", judged + 1)]
    value = FrechetAudioDistanceInfinity().value(moved)
    assert value == pytest.approx(16, abs=2)  # 16 dimensions, each moved by 1
    assert value == extended(reference, judged + 1) != extended(judged + 1, reference)
    metric_law(FrechetAudioDistanceInfinity(), moved, expected=value, better=nearer)


def test_kld_by_hand_and_as_torch_has_it():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25])
    by_hand = 0.5 * math.log(0.5 / 0.25)
    items = [ClassPair("a", p, q), ClassPair("b", p, p)]
    assert ClassDivergence().value(items) == pytest.approx(by_hand / 2, abs=1e-5)
    nothing = math.log(0.5 / 0.500001)  # what the 1e-6 makes of equal classes
    with_epsilon = (0.5 * math.log(0.5 / 0.250001) + 1.5 * nothing) / 2
    metric_law(ClassDivergence(), items, expected=with_epsilon, better=[ClassPair("a", p, p), ClassPair("b", p, p)])
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(20)), rng.dirichlet(np.ones(20))
    torch_has = torch.nn.functional.kl_div(torch.log(torch.tensor(q) + 1e-6), torch.tensor(p), reduction="sum")
    assert kl_divergence(p, q) == pytest.approx(float(torch_has))


@pytest.mark.parametrize(("metric", "pair"), [(SpeakerSimilarity(), VoicePair), (ClapScore(), CaptionPair)])
def test_cosines_by_hand(metric, pair):
    x, diagonal, y = np.array([1.0, 0.0]), np.array([3.0, 3.0]), np.array([0.0, 2.0])
    items = [pair("a", x, diagonal), pair("b", x, y)]
    metric_law(metric, items, expected=math.sqrt(0.5) / 2, better=[pair("a", x, x), pair("b", x, y)])
    with pytest.raises(ValueError, match="nowhere"):
        metric.value([pair("a", x, 0 * x)])


def test_ratings_are_averaged():
    metric_law(MeanRating(), [Rating("a", 2), Rating("b", 4), Rating("b", 2)], expected=8 / 3, better=[Rating("a", 3)])
    with pytest.raises(ValueError, match="'b' is NaN"):
        MeanRating().value([Rating("a", 1), Rating("b", math.nan)])
