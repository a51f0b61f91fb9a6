"""Packing: nothing lost, nothing doubled, nothing split that fits."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from slm.data.packing import best_fit_rows, count_rows, greedy_rows, max_frames, pack
from slm.data.sequence import Pieces, RowSequence
from slm.errors import UsageError
from slm.patterns import PATTERNS
from tests.loading.sources import Lengths


def slow_best_fit(lengths, row_length):
    """The textbook: the longest first, each into the open row that it leaves with least room."""
    rooms: list[int] = []
    for need in sorted(lengths, reverse=True):
        fitting = [(room, r) for r, room in enumerate(rooms) if room >= need]
        if fitting:
            rooms[min(fitting)[1]] -= need
        else:
            rooms.append(row_length - need)
    return sorted(rooms)


def slow_greedy(lengths, row_length):
    rows, used = [[]], 0
    for item, need in enumerate(lengths):
        if used + need > row_length:
            rows.append([])
            used = 0
        rows[-1].append(item)
        used += need
    return rows


BOUNDS = [(1, 33, 32), (1, 2, 32), (7, 20, 32), (1, 3, 32), (17, 33, 32), (5, 6, 9)]


@pytest.mark.parametrize(("low", "high", "row_length"), BOUNDS)
def test_best_fit_equals_the_textbook(low, high, row_length):
    for count in (1, 2, 40, 400):
        lengths = np.random.default_rng(count).integers(low, high, count)
        row_of, num_rows = best_fit_rows(lengths, row_length)
        used = np.bincount(row_of, weights=lengths, minlength=num_rows).astype(int)
        assert sorted((row_length - used).tolist()) == slow_best_fit(lengths.tolist(), row_length)
        assert count_rows(lengths, row_length, "best-fit") == num_rows == len(used)


@pytest.mark.parametrize("high", [4, 33])
def test_greedy_equals_a_plain_loop(high):
    for count in (1, 2, 40, 400):
        lengths = np.random.default_rng(count).integers(1, high, count)
        row_of, num_rows = greedy_rows(lengths, 32)
        rows = slow_greedy(lengths.tolist(), 32)
        assert [np.flatnonzero(row_of == r).tolist() for r in range(num_rows)] == rows
        assert count_rows(lengths, 32, "greedy") == num_rows


def test_an_unknown_packing_is_named():
    with pytest.raises(UsageError, match=r"no packing 'best_fit'.*best-fit and greedy"):
        RowSequence(Lengths([3]), PATTERNS.create("flat", codebook_sizes=(4,)), 16, (0,), "best_fit")


@pytest.mark.parametrize(("name", "sizes"), [("flat", (4,)), ("flat", (4, 4, 4)), ("delay", (4, 4, 4))])
def test_max_frames_is_the_largest_that_fits(name, sizes):
    pattern = PATTERNS.create(name, codebook_sizes=sizes)
    longest = max_frames(pattern, 64)
    assert pattern.num_steps(longest) <= 64 < pattern.num_steps(longest + 1)


@pytest.mark.parametrize("lengths", [[5, 10, 11, 1, 25, 0, 30], [3], [40], [0]])
def test_pieces_cover_each_document_once(lengths):
    pieces = Pieces(np.array(lengths, np.int32), 10)
    found = pieces[np.arange(len(pieces))].tolist()
    assert sorted(pieces[np.random.default_rng(0).permutation(len(pieces))].tolist()) == sorted(found)
    for document, length in enumerate(lengths):
        mine = [piece for piece in found if piece[0] == document]
        assert [t for _, start, end, _ in mine for t in range(start, end)] == list(range(length))
        assert [ends for *_, ends in mine] == [0] * (len(mine) - 1) + [1]


@pytest.mark.parametrize("packing", ["best-fit", "greedy"])
@pytest.mark.parametrize(("name", "seed"), [("flat", None), ("flat", (3, 0)), ("delay", (3, 1))])
@pytest.mark.parametrize("block", [1 << 16, 50])
def test_every_epoch_holds_every_frame_exactly_once(monkeypatch, packing, name, seed, block):
    monkeypatch.setattr("slm.data.sequence.BLOCK_PIECES", block)
    lengths = np.random.default_rng(0).integers(0, 90, 170).astype(np.int32)
    pattern = PATTERNS.create(name, codebook_sizes=(4, 5))
    rows = RowSequence(Lengths(lengths), pattern, 64, seed, packing)
    number, orders = rows.rows_of_epoch(), []
    assert rows.size == pytest.approx(number, rel=0.05)
    for epoch in range(2):
        seen: list[tuple[int, int]] = []
        for r in range(epoch * number, (epoch + 1) * number) if epoch == 0 else _second_epoch(rows, number):
            pieces, steps = rows.row(r)
            assert steps.tolist() == [pattern.num_steps(end - start) for _, start, end, _ in pieces.tolist()]
            assert 0 < steps.sum() <= 64
            seen += [(d, t) for d, start, end, _ in pieces.tolist() for t in range(start, end)]
        assert sorted(seen) == [(d, t) for d, n in enumerate(lengths.tolist()) for t in range(n)]
        orders.append(seen)
    assert (orders[0] == orders[1]) == (seed is None)


def test_rows_of_a_seed_are_in_no_order_of_length_and_greedy_ones_in_the_order_of_the_pieces():
    lengths = np.random.default_rng(0).integers(1, 60, 170).astype(np.int32)
    pattern = PATTERNS.create("flat", codebook_sizes=(4,))

    def rows_of(seed, packing):
        rows = RowSequence(Lengths(lengths), pattern, 64, seed, packing)
        return [rows.row(r)[1] for r in range(rows.rows_of_epoch())]

    longest = [steps.max() for steps in rows_of((3, 0), "best-fit")]
    by_length = [steps.max() for steps in rows_of(None, "best-fit")]
    assert by_length == sorted(longest, reverse=True) != longest
    greedy = rows_of((3, 0), "greedy")
    assert all(row.sum() + following[0] > 64 for row, following in pairwise(greedy))


def _second_epoch(rows, number):
    r = number
    while rows.epochs(r) < 2:
        yield r
        r += 1
    assert rows.epochs(r) == pytest.approx(2)


def test_blocks_cost_hardly_any_room():
    """Of documents of 5 to 20 s at 25 Hz: packed in blocks, and all at once."""
    lengths = np.random.default_rng(0).integers(127, 503, 1 << 17)
    whole = count_rows(lengths, 1024, "best-fit")
    blocks = sum(count_rows(part, 1024, "best-fit") for part in lengths.reshape(8, -1))
    assert whole <= blocks <= 1.001 * whole


def test_the_packings_agree_with_their_names():
    lengths = np.array([20, 20, 10, 10])
    assert pack(lengths, 30, "best-fit")[1] == 2
    assert pack(lengths, 30, "greedy")[1] == 3
