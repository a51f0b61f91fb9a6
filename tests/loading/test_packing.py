"""Packing: nothing lost, nothing doubled, nothing split that fits; the order is everyone's."""

from __future__ import annotations

import numpy as np
import pytest

from slm.data.documents import Documents, hold_out
from slm.data.loader import TrainLoader, collate_rows, eval_batches
from slm.data.packing import best_fit_rows, cut_pieces, max_frames, plan_epoch
from slm.data.store import CodeStore
from slm.patterns import PATTERNS
from tests.fakes import ArithmeticTokenizer, random_codes, write_corpus


@pytest.fixture
def store(tmp_path):
    lengths = np.random.default_rng(0).integers(1, 60, 37).tolist()
    return CodeStore(write_corpus(tmp_path / "corpus", random_codes(ArithmeticTokenizer(2), lengths)))


def slow_best_fit(lengths, row_length):
    """The textbook: of all open rows with room, the one left with least."""
    rooms: list[int] = []
    rows = []
    for need in lengths:
        fitting = [(room, r) for r, room in enumerate(rooms) if room >= need]
        if fitting:
            room = min(fitting)[0]
            rows.append({r for r, left in enumerate(rooms) if left == room})
            chosen = min(fitting)[1]
        else:
            rooms.append(row_length)
            chosen = len(rooms) - 1
            rows.append({chosen})
        rooms[chosen] -= need
    return len(rooms), sorted(rooms)


def test_best_fit_equals_the_textbook():
    lengths = np.random.default_rng(1).integers(1, 33, 400)
    row_of, num_rows = best_fit_rows(lengths, 32)
    used = np.bincount(row_of, weights=lengths, minlength=num_rows)
    expected_rows, expected_rooms = slow_best_fit(lengths.tolist(), 32)
    assert (num_rows, sorted((32 - used).astype(int).tolist())) == (expected_rows, expected_rooms)


@pytest.mark.parametrize(("name", "sizes"), [("flat", (4,)), ("flat", (4, 4, 4)), ("delay", (4, 4, 4))])
def test_max_frames_is_the_largest_that_fits(name, sizes):
    pattern = PATTERNS.create(name, codebook_sizes=sizes)
    longest = max_frames(pattern, 64)
    assert pattern.num_steps(longest) <= 64 < pattern.num_steps(longest + 1)


def test_pieces_cover_each_document_once():
    lengths = np.array([5, 10, 11, 1, 25])
    for document, length in enumerate(lengths):
        mine = [p for p in cut_pieces(lengths, 10).tolist() if p[0] == document]
        assert [t for _, start, end, _ in mine for t in range(start, end)] == list(range(length))
        assert [ends for *_, ends in mine] == [0] * (len(mine) - 1) + [1]


@pytest.mark.parametrize(("name", "shuffle"), [("flat", None), ("flat", (3, 0)), ("delay", (3, 1))])
def test_rows_hold_every_code_exactly_once(store, name, shuffle):
    documents = Documents(store)
    pattern = PATTERNS.create(name, codebook_sizes=store.spec.codebook_sizes)
    plan = plan_epoch(documents.num_frames, pattern, 32, shuffle)
    seen: list[tuple[int, int]] = []
    for r in range(plan.num_rows):
        pieces = plan.row(r)
        assert sum(pattern.num_steps(end - start) for _, start, end, _ in pieces) <= 32
        seen += [(d, t) for d, start, end, _ in pieces.tolist() for t in range(start, end)]
    assert sorted(seen) == [(d, t) for d, n in enumerate(documents.num_frames.tolist()) for t in range(n)]


def test_collated_rows_hold_the_documents(store):
    documents = Documents(store)
    pattern = PATTERNS.create("delay", codebook_sizes=store.spec.codebook_sizes)
    plan = plan_epoch(documents.num_frames, pattern, 80, (0, 0))
    batch = collate_rows([plan.row(0), plan.row(1)], documents, pattern, 80)
    for b in range(2):
        at = 0
        for number, (document, start, end, _) in enumerate(plan.row(b)):
            span = slice(at, at + pattern.num_steps(end - start))
            inverted = pattern.invert(batch.ids[b, span], end - start)
            assert np.array_equal(inverted, store.codes(int(document))[start:end])
            assert batch.positions[b, span].tolist() == list(range(span.stop - span.start))
            assert set(batch.document_ids[b, span].tolist()) == {number}
            at = span.stop
        assert set(batch.document_ids[b, at:].tolist()) <= {-1}
        assert not batch.loss_mask[b, at:].any()


def test_a_step_holds_the_same_rows_for_any_number_of_processes(store):
    documents = Documents(store)
    pattern = PATTERNS.create("flat", codebook_sizes=store.spec.codebook_sizes)

    def rows_of(step, rows_per_batch, accumulation, world):
        made = []
        for rank in range(world):
            loader = TrainLoader(documents, pattern, 64, rows_per_batch, accumulation, rank, world, seed=5)
            made += [row.tobytes() for batch in loader.batches(step) for row in batch.ids]
        return sorted(made)

    for step in (0, 3, 17):  # the last one lies epochs ahead
        assert rows_of(step, 8, 1, 1) == rows_of(step, 2, 4, 1) == rows_of(step, 2, 2, 2) == rows_of(step, 1, 1, 8)


def test_a_step_does_not_depend_on_the_steps_before(store):
    documents, pattern = Documents(store), PATTERNS.create("flat", codebook_sizes=store.spec.codebook_sizes)
    walked = TrainLoader(documents, pattern, 64, 4, 1, 0, 1, seed=5)
    for step in range(12):
        batch = walked.batches(step)[0]
    jumped = TrainLoader(documents, pattern, 64, 4, 1, 0, 1, seed=5)
    assert np.array_equal(jumped.batches(11)[0].ids, batch.ids)
    assert jumped.epoch_at(12) == pytest.approx(walked.epoch_at(12))


def test_an_epoch_is_every_row_once(store):
    documents, pattern = Documents(store), PATTERNS.create("flat", codebook_sizes=store.spec.codebook_sizes)
    loader = TrainLoader(documents, pattern, 64, 1, 1, 0, 1, seed=5)
    rows = plan_epoch(documents.num_frames, pattern, 64, (5, 0)).num_rows
    predicted = sum(int(loader.batches(step)[0].loss_mask.sum()) for step in range(rows))
    pieces = cut_pieces(documents.num_frames, max_frames(pattern, 64))
    assert predicted == int(documents.num_frames.sum()) * 2 + int(pieces[:, 3].sum())
    assert loader.epoch_at(rows) == 1


def test_evaluation_sees_everything_once_over_processes(store):
    documents, pattern = Documents(store), PATTERNS.create("flat", codebook_sizes=store.spec.codebook_sizes)

    def count(world):
        batches = [b for rank in range(world) for b in eval_batches(documents, pattern, 64, 4, rank, world)]
        return sum(int(b.loss_mask.sum()) for b in batches)

    counted = [count(1), count(3)]
    assert counted[0] == counted[1] == int(documents.num_frames.sum()) * 2 + len(documents)


def test_holding_out_depends_on_ids_alone():
    ids = [f"speaker/{i}" for i in range(2000)]
    kept, held = hold_out(ids, 0.1)
    assert sorted([*kept, *held]) == list(range(2000))
    assert 150 < len(held) < 250
    grown = ["new", *ids]
    assert {ids[i] for i in held} <= {grown[i] for i in hold_out(grown, 0.1)[1]}
