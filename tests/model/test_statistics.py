"""Counts of the training corpus against a plain Counter."""

from __future__ import annotations

from collections import Counter
from itertools import chain, groupby

import numpy as np
import pytest

from slm.model.statistics import CodeStatistics
from slm.units import UnitBPE, Units, deduplicate


def some_documents(sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Codes that stay for a while; the last code of the first codebook never occurs."""
    rng = np.random.default_rng(0)
    tops = [sizes[0] - 1, *sizes[1:]]
    return [np.repeat(rng.integers(0, tops, (n, len(sizes))), rng.integers(1, 4, n), axis=0).astype(np.uint16)
            for n in (3, 40, 0, 25, 1, 60)]  # fmt: skip


def bpe_for(documents: list[np.ndarray], sizes: tuple[int, ...], dedup: bool) -> UnitBPE:
    return UnitBPE.train([deduplicate(d)[0] if dedup else d for d in documents], sizes, sum(sizes) + 12, dedup)


@pytest.mark.parametrize("frames_at_once", [1, 50, 1 << 20])
@pytest.mark.parametrize(
    ("sizes", "dedup", "with_bpe"),
    [((6,), False, False), ((6, 4), False, False), ((6,), True, False), ((6,), False, True), ((6,), True, True),
     ((6, 4), False, True)],
)  # fmt: skip
def test_statistics_equal_plain_counting(monkeypatch, frames_at_once, sizes, dedup, with_bpe):
    monkeypatch.setattr("slm.model.statistics._FRAMES_AT_ONCE", frames_at_once)
    documents = some_documents(sizes)
    units = Units(sizes, dedup, bpe_for(documents, sizes, dedup) if with_bpe else None)
    made = CodeStatistics.measure(units, ((units.apply(d), d) for d in documents))
    assert made.num_documents == len(documents)
    for k, size in enumerate(units.sizes):
        seen = Counter(chain.from_iterable(units.apply(d)[:, k].tolist() for d in documents))
        assert made.counts[k].tolist() == [seen[code] for code in range(size)]
    first = [d[:, 0].tolist() for d in documents]
    lasted = Counter(chain.from_iterable(first))
    assert made.frames.tolist() == [lasted[code] for code in range(6)]
    runs = Counter(chain.from_iterable([code for code, _ in groupby(codes)] if dedup else codes for codes in first))
    if with_bpe:
        assert made.runs is not None
        assert made.runs.tolist() == [runs[code] for code in range(6)]
    mean = made.mean_frames()
    overall = sum(lasted.values()) / sum(runs.values())
    assert mean.tolist() == pytest.approx([lasted[c] / runs[c] if runs[c] else overall for c in range(6)])


def test_no_documents_are_no_counts():
    made = CodeStatistics.measure(Units((6,)), [])
    assert (made.num_documents, made.counts[0].sum(), made.frames.sum()) == (0, 0, 0)
    assert made.mean_frames().tolist() == [0.0] * 6


def test_a_code_of_one_run_lasts_as_that_run_did():
    made = CodeStatistics((np.array([1, 2, 0]),), np.array([5, 4, 0]), 1)
    assert made.mean_frames().tolist() == [5, 2, 3]  # the last was never seen: as all do on the whole
