"""Deduplication and units against itertools, and the way back, which is exact."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest

from slm.errors import UsageError
from slm.units import UnitBPE, Units, deduplicate, expand


@pytest.mark.parametrize("codes", [[], [3], [1, 1, 1], [1, 2, 3], [5, 5, 1, 5, 5, 5, 0, 0]])
def test_deduplicate_equals_groupby_and_expands_back(codes):
    array = np.array(codes, np.uint16).reshape(-1, 1)
    units, durations = deduplicate(array)
    runs = [(unit, len(list(run))) for unit, run in groupby(codes)]
    assert units[:, 0].tolist() == [u for u, _ in runs]
    assert durations.tolist() == [d for _, d in runs]
    assert np.array_equal(expand(units, durations), array)


def test_several_codebooks_are_refused():
    with pytest.raises(ValueError, match="one codebook"):
        deduplicate(np.zeros((3, 2), np.uint16))


def train(sizes: tuple[int, ...], vocab_size: int, dedup: bool = False) -> UnitBPE:
    rng = np.random.default_rng(0)
    tops = np.minimum(sizes, rng.integers(2, 20, (60, len(sizes))))
    documents = [rng.integers(0, top, (40, len(sizes))) for top in tops]
    if dedup:
        documents = [deduplicate(d)[0] for d in documents]
    return UnitBPE.train(documents, sizes, vocab_size, dedup)


UNITS = [
    Units((20,)),
    Units((20, 7, 5)),
    Units((20,), dedup=True),
    Units((20,), bpe=train((20,), 60)),
    Units((20,), True, train((20,), 60, dedup=True)),
    Units((20, 7, 5), bpe=train((20, 7, 5), 90)),
]


@pytest.mark.parametrize("units", UNITS, ids=["plain", "books", "dedup", "bpe", "dedup-bpe", "books-bpe"])
@pytest.mark.parametrize("frames", [0, 1, 2, 50])
def test_units_go_back_exactly(units, frames):
    rng = np.random.default_rng(frames)
    codes = rng.integers(0, units.codebook_sizes, (frames, len(units.codebook_sizes))).astype(np.uint16)
    codes = np.repeat(codes, rng.integers(1, 4, frames), axis=0)
    made, durations = units.apply(codes), units.durations(codes)
    assert made.shape[1] == len(units.sizes)
    assert (made < np.array(units.sizes)).all()
    assert durations.dtype == np.int64
    assert durations.sum() == len(codes)
    back = units.invert(made, durations)
    assert back.dtype == codes.dtype
    assert np.array_equal(back, codes)
    if units.dedup:
        assert units.invert(made)[:, 0].tolist() == [unit for unit, _ in groupby(codes[:, 0].tolist())]


def test_units_say_what_they_are():
    assert [units.is_identity for units in UNITS] == [True, True, False, False, False, False]
    assert [units.sizes for units in UNITS] == [(20,), (20, 7, 5), (20,), (60,), (60,), (90,)]
    different = [*UNITS, Units((21,)), Units((20,), bpe=train((20,), 61))]
    assert len({units.fingerprint for units in different}) == len(different)
    assert Units((20,), bpe=train((20,), 60)).fingerprint == UNITS[3].fingerprint


def test_units_that_do_not_go_together_are_refused():
    with pytest.raises(UsageError, match="dedup takes one codebook, not 2"):
        Units((4, 4), dedup=True)
    with pytest.raises(UsageError, match=r"sizes \[20\] does not read \[20, 7, 5\]: train one on a corpus"):
        Units((20, 7, 5), bpe=UNITS[3].bpe)
    with pytest.raises(UsageError, match="trained on deduplicated units: set dedup to true"):
        Units((20,), bpe=UNITS[4].bpe)
    with pytest.raises(UsageError, match="not deduplicated: set dedup to false"):
        Units((20,), True, UNITS[3].bpe)
