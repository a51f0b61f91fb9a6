"""Mixtures: shares that hold at any time, and rows that are found without counting."""

from __future__ import annotations

import numpy as np
import pytest

from slm.data.loader import TrainLoader
from slm.data.mixture import Division, Mixture
from slm.errors import UsageError
from slm.patterns import PATTERNS
from tests.loading.sources import Lengths

A, B = Lengths([10] * 30), Lengths([5] * 20)
SHARES = [[1.0], [0.5, 0.5], [0.7, 0.3], [0.9, 0.05, 0.05], [0.01, 0.99], [1 / 3] * 3, [0.4, 0.3, 0.2, 0.1],
          [1 / 7] * 7]  # fmt: skip


@pytest.mark.parametrize("shares", SHARES)
def test_rows_are_divided_by_the_shares_at_any_time(shares):
    division, counts = Division(shares), [0] * len(shares)
    for row in range(2000):
        assert division.counts(row) == counts
        source, own = division.place(row)
        assert own == counts[source]  # each source's rows are used in order, none twice, none left out
        counts[source] += 1
        assert np.abs(np.array(counts) - (row + 1) * np.array(shares)).max() <= 2


def test_a_division_is_exact_far_out():
    division = Division([0.3, 0.7])
    far = 10**12
    assert division.counts(far) == pytest.approx([3 * 10**11, 7 * 10**11], rel=1e-8)
    counts = division.counts(far)
    for row in range(far, far + 50):
        source, own = division.place(row)
        assert own == counts[source]
        counts[source] += 1
    assert counts == division.counts(far + 50)


def test_shares_by_weights_epochs_temperature_and_size():
    sizes = [900, 100]
    assert Mixture([A, B], weights=[1, 3]).shares(sizes) == [0.25, 0.75]
    assert Mixture([A, B], epochs=[1, 3]).shares(sizes) == pytest.approx([900 / 1200, 300 / 1200])
    assert Mixture([A, B], temperature=2).shares(sizes) == pytest.approx([30 / 40, 10 / 40])
    assert Mixture([A, B]).shares(sizes) == Mixture([A, B], temperature=1).shares(sizes) == [0.9, 0.1]


def test_a_temperature_that_leaves_one_corpus_is_refused():
    sources = [Lengths([5] * 4), Lengths([5] * 8)]
    with pytest.raises(UsageError, match=r"mixture.temperature 0.001 leaves next to nothing for any corpus but the"):
        Mixture(sources, temperature=0.001).shares([4, 8])
    assert sum(Mixture(sources, temperature=0.01).shares([4, 8])) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1]}, "mixture.weights: 1 given for 2 corpora"),
        ({"epochs": [1, 0]}, "must be above 0"),
        ({"temperature": 0}, "must be above 0"),
        ({"weights": [1, 1], "temperature": 2}, "give one of weights, temperature"),
    ],
)
def test_what_is_no_mixture_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Mixture([A, B], **options)
    with pytest.raises(UsageError, match="at least one corpus"):
        Mixture([])


def loader_of(**options):
    pattern = PATTERNS.create("flat", codebook_sizes=(4,))
    return TrainLoader(Mixture([A, B], **options), pattern, 24, 2, 1, 0, 1, seed=0)


def test_epochs_are_counted_for_each_source():
    """A's documents fill a row in pairs (12 steps each, 15 rows an epoch), B's in threes (7 each, 7 rows)."""
    loader = loader_of(weights=[1, 1])
    heard = loader.epochs_at(50)  # 50 rows of each
    assert heard == pytest.approx([50 / 15, 50 / 7], abs=0.05)
    sizes = 15, 7
    assert loader.epoch_at(50) == pytest.approx(np.dot(sizes, heard) / sum(sizes))


def test_epochs_and_temperature_are_what_is_heard():
    by_epochs = loader_of(epochs=[1, 3]).epochs_at(500)
    assert by_epochs[1] / by_epochs[0] == pytest.approx(3, rel=0.01)
    by_size = loader_of().epochs_at(500)
    assert by_size[1] / by_size[0] == pytest.approx(1, rel=0.01)


def test_a_step_counts_what_all_its_sources_give():
    loader = loader_of(weights=[1, 1])
    for step in range(5):  # a row of A and one of B: two documents of 10, three (or the two left over) of 5
        (batch,) = loader.batches(step)
        codes, audio_s = loader.codes_and_audio_s(step)
        assert codes == int((batch.loss_mask & (batch.ids < 4)).sum()) == audio_s
