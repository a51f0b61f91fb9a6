"""The loader: what the pieces hold, in an order that is everyone's and is found again at any step."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from slm.data.documents import Documents
from slm.data.layouts import lay_out
from slm.data.loader import TrainLoader, collate_rows, eval_batches
from slm.data.mixture import Mixture
from slm.data.packing import max_frames
from slm.data.sequence import RowSequence
from slm.errors import UsageError
from slm.patterns import PATTERNS
from tests.loading.sources import Prompted, corpus

PATTERNS_TO_TRY = [("flat", {}), ("delay", {}), ("delay", {"valid_steps_only": True}), ("parallel", {}),
                   ("unrolled", {}), ("coarse-first", {})]  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return corpus(tmp_path / "corpus", np.random.default_rng(0).integers(1, 60, 37).tolist())


def make_loader(sources, row_length=64, rows_per_batch=4, accumulation=1, rank=0, world=1, name="flat", **options):
    source = sources.sources[0] if isinstance(sources, Mixture) else sources
    pattern = PATTERNS.create(name, codebook_sizes=source.store.spec.codebook_sizes)
    return TrainLoader(sources, pattern, row_length, rows_per_batch, accumulation, rank, world, 5, **options)


@pytest.mark.parametrize(("name", "settings"), PATTERNS_TO_TRY)
@pytest.mark.parametrize("sizes", [(5,), (5, 7, 3)])
@pytest.mark.parametrize("at_once", [1 << 13, 20])
def test_many_documents_are_laid_out_as_each_alone(monkeypatch, name, settings, sizes, at_once):
    monkeypatch.setattr("slm.data.layouts._AT_ONCE", at_once)
    pattern = PATTERNS.create(name, codebook_sizes=sizes, **settings)
    rng = np.random.default_rng(0)
    lengths, ends = rng.integers(0, 9, 30), rng.integers(0, 2, 30)
    codes = rng.integers(0, sizes, (lengths.sum(), len(sizes))).astype(np.uint16)
    laid = lay_out(pattern, codes, lengths, ends)
    parts = np.split(codes, np.cumsum(lengths)[:-1])
    alone = [pattern.apply(part, bool(e)) for part, e in zip(parts, ends, strict=True)]
    assert np.array_equal(laid.steps, np.concatenate([steps.steps for steps in alone]))
    assert np.array_equal(laid.valid, np.concatenate([steps.valid for steps in alone]))


def test_long_documents_are_laid_out_as_each_alone():
    pattern = PATTERNS.create("delay", codebook_sizes=(9, 4))
    codes = np.random.default_rng(0).integers(0, 4, (9000, 2)).astype(np.uint16)
    laid, alone = lay_out(pattern, codes, np.array([9000]), np.array([0])), pattern.apply(codes, ends=False)
    assert np.array_equal(laid.steps, alone.steps)
    assert np.array_equal(laid.valid, alone.valid)


def test_collated_rows_hold_the_documents(store):
    documents = Documents(store)
    pattern = PATTERNS.create("delay", codebook_sizes=store.spec.codebook_sizes)
    rows = [(documents, *RowSequence(documents, pattern, 80, (0, 0)).row(r)) for r in range(2)]
    batch = collate_rows(rows, pattern, 80)
    for b, (_, pieces, _) in enumerate(rows):
        at = 0
        for number, (document, start, end, _) in enumerate(pieces.tolist()):
            span = slice(at, at + pattern.num_steps(end - start))
            assert np.array_equal(pattern.invert(batch.ids[b, span], end - start), store.codes(document)[start:end])
            assert batch.positions[b, span].tolist() == list(range(span.stop - span.start))
            assert set(batch.document_ids[b, span].tolist()) == {number}
            at = span.stop
        assert set(batch.document_ids[b, at:].tolist()) <= {-1}
        assert batch.positions[b, at:].tolist() == list(range(80 - at))
        assert not batch.loss_mask[b, at:].any()
        assert (batch.ids[b, at:] == [stream.empty_id for stream in pattern.streams]).all()


def rows_of(sources, steps, **options):
    """All rows of these steps, in the order of the whole, whatever the number of processes."""
    world, accumulation = options.get("world", 1), options.get("accumulation", 1)
    loaders = [make_loader(sources, rank=rank, **options) for rank in range(world)]
    made = []
    for step in steps:
        batches = [loader.batches(step) for loader in loaders]
        made += [row.tobytes() for a in range(accumulation) for mine in batches for row in mine[a].ids]
    return made


def test_the_order_is_the_same_for_any_number_of_processes(store):
    sources = Mixture([Documents(store), Documents(store, keep=[3, 5, 7, 30])], weights=[2, 1])
    for steps in (range(6), [40]):  # the last one lies epochs ahead
        expected = rows_of(sources, steps, rows_per_batch=12)
        for world, accumulation in ((1, 4), (2, 2), (3, 1), (4, 3)):
            divided = {"rows_per_batch": 12 // world // accumulation, "world": world, "accumulation": accumulation}
            assert rows_of(sources, steps, **divided) == expected


@pytest.mark.parametrize("packing", ["best-fit", "greedy"])
@pytest.mark.parametrize("block", [1 << 16, 7])
def test_a_run_goes_on_at_any_step_as_if_it_had_not_stopped(store, monkeypatch, packing, block):
    monkeypatch.setattr("slm.data.sequence.BLOCK_PIECES", block)
    sources = Mixture([Documents(store), Documents(store, keep=range(9))])
    walked = make_loader(sources, packing=packing)
    made = [(walked.batches(step)[0], walked.epochs_at(step)) for step in range(25)]
    for step in (24, 7, 0):
        jumped = make_loader(sources, packing=packing)
        assert np.array_equal(jumped.batches(step)[0].ids, made[step][0].ids)
        assert jumped.epochs_at(step) == made[step][1]
    assert walked.batches(3)[0].ids.tobytes() == made[3][0].ids.tobytes()


def test_an_epoch_is_every_row_once(store):
    documents = Documents(store)
    loader = make_loader(documents, rows_per_batch=1)
    rows = RowSequence(documents, loader.pattern, 64, (5, 0)).rows_of_epoch()
    batches = [loader.batches(step)[0] for step in range(rows)]
    predicted = sum(int(batch.loss_mask.sum()) for batch in batches)
    frames, longest = int(documents.num_frames.sum()), max_frames(loader.pattern, 64)
    assert predicted == frames * 2 + len(documents)  # every code, and every end
    assert any(documents.num_frames > longest)
    assert loader.epoch_at(rows) == 1
    assert 0 < loader.epoch_at(rows // 2) < 1
    codes, audio_s = map(sum, zip(*(loader.codes_and_audio_s(step) for step in range(rows)), strict=True))
    assert codes == frames * 2
    assert audio_s == pytest.approx(documents.duration_s)


def test_what_a_step_holds_is_counted_over_all_processes(store):
    documents = Documents(store)
    loaders = [make_loader(documents, rank=rank, world=3, accumulation=2) for rank in range(3)]
    for step in (0, 5):
        masks = [batch.loss_mask & (batch.ids < 32) for loader in loaders for batch in loader.batches(step)]
        codes, audio_s = zip(*(loader.codes_and_audio_s(step) for loader in loaders), strict=True)
        assert set(codes) == {sum(int(mask.sum()) for mask in masks)}
        assert audio_s == pytest.approx([codes[0] / 2 * 160 / 8000] * 3)


def test_evaluation_sees_everything_once_over_processes(store):
    documents, pattern = Documents(store), PATTERNS.create("flat", codebook_sizes=store.spec.codebook_sizes)

    def count(world, whole=False):
        ranks = range(world)
        batches = [b for r in ranks for b in eval_batches(documents, pattern, 64, 4, r, world, whole=whole)]
        assert not whole or {b.ids.shape for b in batches} == {(4, 64, 1)}
        return sum(int(b.loss_mask.sum()) for b in batches)

    counted = [count(1), count(3)]
    assert count(3, whole=True) == counted[0] == counted[1] == int(documents.num_frames.sum()) * 2 + len(documents)


def test_the_stream_is_the_batches_from_a_step_on(store):
    loader = make_loader(Documents(store), accumulation=2)
    before = threading.active_count()
    stream = loader.stream(3)
    for step in range(3, 12):
        for got, expected in zip(next(stream), loader.batches(step), strict=True):
            assert np.array_equal(got.ids, expected.ids)
            assert np.array_equal(got.positions, expected.positions)
    assert threading.active_count() == before + 1
    stream.close()
    assert threading.active_count() == before


def test_what_fails_ahead_is_raised_where_it_is_asked_for(store, monkeypatch):
    loader, before = make_loader(Documents(store)), threading.active_count()
    rightly = loader.batches
    monkeypatch.setattr(loader, "batches", lambda step: rightly(step) if step < 2 else 1 / 0)
    stream = loader.stream(0)
    assert len([next(stream), next(stream)]) == 2
    with pytest.raises(ZeroDivisionError):
        next(stream)
    assert threading.active_count() == before


def test_another_kind_of_document_is_one_class(store):
    """Texts before the codes: read, not predicted, with every piece; all else as without them."""
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, 32, rng.integers(0, 20)).tolist() for _ in range(len(store))]
    documents, pattern = Prompted(store, texts), PATTERNS.create("flat", codebook_sizes=store.spec.codebook_sizes)
    seen: list[tuple[int, int]] = []
    for row in range(RowSequence(documents, pattern, 64, (5, 0)).rows_of_epoch()):
        pieces, _ = RowSequence(documents, pattern, 64, (5, 0)).row(row)
        batch = make_loader(documents, rows_per_batch=1).batches(row)[0]
        at = 0
        for number, (document, start, end, ends) in enumerate(pieces.tolist()):
            alone = pattern.apply(store.codes(document)[start:end], bool(ends))
            text, length = texts[document], len(texts[document]) + len(alone.steps)
            span = slice(at, at + length)
            assert batch.ids[0, span, 0].tolist() == [*text, *alone.steps[:, 0].tolist()]
            assert batch.loss_mask[0, span, 0].tolist() == [False] * len(text) + alone.valid[:, 0].tolist()
            assert batch.positions[0, span].tolist() == list(range(length))
            assert set(batch.document_ids[0, span].tolist()) == {number}
            seen += [(document, t) for t in range(start, end)]
            at = span.stop
        assert (batch.document_ids[0, at:] == -1).all()
    assert sorted(seen) == [(d, t) for d, n in enumerate(store.num_frames.tolist()) for t in range(n)]


def test_what_cannot_be_trained_on_is_refused(store):
    with pytest.raises(UsageError, match="no clip to train on"):
        make_loader(Documents(store, keep=[]))
    with pytest.raises(UsageError, match="row_length 3 cannot hold one frame"):
        make_loader(Documents(store), row_length=3)
    assert all((b.document_ids == 0).all() for b in make_loader(Documents(store), row_length=4).batches(0))
    with pytest.raises(UsageError, match="row_length 9 cannot hold one frame"):
        make_loader(Prompted(store, [[0] * 6] * len(store)), row_length=9)
