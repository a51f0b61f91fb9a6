"""Scores kept on disk: nothing is asked twice, nothing is taken from another model, a kill costs one part."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from eval.conventions import CONVENTIONS
from eval.likelihoods import Likelihoods
from eval.processes import OtherFailed, Processes
from eval.score_cache import CachedScorer
from slm.errors import UsageError
from slm.types import CodeLogProbs
from slm.units import deduplicate
from tests.fakes import ArithmeticTokenizer, random_codes
from tests.test_spoken_lm import make_lm

TOKENIZER = ArithmeticTokenizer(2)


class Asked:
    """Log-probabilities that depend on the codes alone; remembers what it was asked, and stops when told to."""

    fingerprint = "f"

    def __init__(self, stop_after=None):
        self.asked, self.calls, self.stop_after = [], 0, stop_after

    def score_codes(self, codes):
        self.calls += 1
        if self.stop_after is not None and self.calls > self.stop_after:
            raise KeyboardInterrupt
        self.asked += [c.codes.tobytes() for c in codes]
        return [CodeLogProbs(c.id, -np.sqrt(c.codes + 1.0), np.array([-0.25 * len(c.codes)]), c.duration_s)
                for c in codes]  # fmt: skip


def same(made, codes):
    for one, other in zip(made, Asked().score_codes(codes), strict=True):
        assert (one.id, one.duration_s) == (other.id, other.duration_s)
        assert np.array_equal(one.log_probs, other.log_probs)
        assert np.array_equal(one.eos_log_probs, other.eos_log_probs)


def test_what_is_kept_is_not_asked_again(tmp_path):
    codes = random_codes(TOKENIZER, [5, 9, 1, 7])
    first, second = Asked(), Asked()
    same(CachedScorer(first, "f", tmp_path).score_codes(codes), codes)
    same(CachedScorer(second, "f", tmp_path).score_codes(codes[::-1]), codes[::-1])
    assert (len(first.asked), len(second.asked)) == (4, 0)
    more = [*codes, *random_codes(TOKENIZER, [3], seed=7)]
    same(CachedScorer(second, "f", tmp_path).score_codes(more), more)
    assert second.asked == [more[-1].codes.tobytes()]


def test_names_do_not_matter_and_equal_codes_are_asked_once(tmp_path):
    codes = random_codes(TOKENIZER, [5, 6])
    again = [replace(codes[0], id="other", num_samples=1), *codes]
    scorer = Asked()
    same(CachedScorer(scorer, "f", tmp_path).score_codes(again), again)
    assert len(scorer.asked) == 2


@pytest.mark.parametrize(("fingerprint", "precision"), [("g", None), ("f", "bf16")])
def test_another_model_or_precision_starts_anew(tmp_path, fingerprint, precision):
    codes = random_codes(TOKENIZER, [5, 6])
    CachedScorer(Asked(), "f", tmp_path).score_codes(codes)
    scorer = Asked()
    if precision:
        scorer.precision = precision
    CachedScorer(scorer, fingerprint, tmp_path).score_codes(codes)
    assert len(scorer.asked) == 2


def test_a_kill_costs_the_part_that_was_being_scored(tmp_path):
    codes = random_codes(TOKENIZER, [6] * 20)
    killed = Asked(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        CachedScorer(killed, "f", tmp_path, part_codes=48).score_codes(codes)
    assert len(killed.asked) == 12
    rest = Asked()
    same(CachedScorer(rest, "f", tmp_path, part_codes=48).score_codes(codes), codes)
    assert sorted(killed.asked + rest.asked) == sorted(c.codes.tobytes() for c in codes)
    first, second = Asked(stop_after=2), random_codes(TOKENIZER, [1_000] * 40, seed=1)  # of a CPU less than of a GPU
    first.device = "cpu"
    with pytest.raises(KeyboardInterrupt):
        CachedScorer(first, "g", tmp_path).score_codes(second)
    assert len(first.asked) == 2 * 9


def test_common_beginnings_come_together(tmp_path):
    """Documents of two families, mixed: a part holds neighbours, so what they share can be computed once."""
    codes = random_codes(TOKENIZER, [8] * 12)
    for i, c in enumerate(codes):
        c.codes[:6] = i % 2
    scorer = Asked()
    CachedScorer(scorer, "f", tmp_path, part_codes=8 * 2 * 6).score_codes(codes)
    families = [asked[0] for asked in scorer.asked]
    assert families == sorted(families)
    assert scorer.calls == 2


def test_nan_is_not_kept(tmp_path):
    codes = random_codes(TOKENIZER, [4])

    class Broken(Asked):
        def score_codes(self, codes):
            return [replace(s, log_probs=s.log_probs * np.nan) for s in super().score_codes(codes)]

    assert np.isnan(CachedScorer(Broken(), "f", tmp_path).score_codes(codes)[0].log_probs).all()
    scorer = Asked()
    same(CachedScorer(scorer, "f", tmp_path).score_codes(codes), codes)
    assert len(scorer.asked) == 1


class Deduplicated(Asked):
    """Reads runs of a code once. In its last bits an answer depends on the call, as a GPU's does on the batch."""

    def document(self, codes):
        return deduplicate(codes.codes)[0]

    def score_codes(self, codes):
        made = super().score_codes([replace(c, codes=self.document(c)) for c in codes])
        return [replace(s, log_probs=s.log_probs - 1e-6 * self.calls) for s in made]


def test_clips_of_which_the_model_reads_the_same_are_one_and_tie(tmp_path):
    codes = random_codes(ArithmeticTokenizer(1), [4, 4, 4])
    slow = [replace(c, id=f"{c.id}-slow", codes=np.repeat(c.codes, 3, axis=0)) for c in codes]
    scorer = Deduplicated()
    kept = CachedScorer(scorer, "f", tmp_path, part_codes=1)
    table = Likelihoods.measure(kept, [*codes, *slow])
    scores = table.scores(CONVENTIONS["mean+eos"])
    assert [scores[c.id] for c in codes] == [scores[c.id] for c in slow]
    assert len(scorer.asked) == 3
    made = kept.score_codes(slow)
    assert [s.duration_s for s in made] == [c.duration_s for c in slow]
    assert len(scorer.asked) == 3


def test_a_damaged_part_is_scored_again(tmp_path, capsys):
    codes = random_codes(TOKENIZER, [40] * 3)
    CachedScorer(Asked(), "f", tmp_path, part_codes=1).score_codes(codes)
    cut, flipped, _ = sorted(tmp_path.glob("*/part-*"))
    cut.write_bytes(cut.read_bytes()[:100])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 3] ^= 255
    flipped.write_bytes(content)
    again, after = Asked(), Asked()
    same(CachedScorer(again, "f", tmp_path, part_codes=1).score_codes(codes), codes)
    assert len(again.asked) == 2
    assert capsys.readouterr().err.count("is damaged") == 2
    same(CachedScorer(after, "f", tmp_path).score_codes(codes), codes)
    assert not after.asked


def test_parts_say_what_made_them_and_other_versions_start_anew(tmp_path, monkeypatch):
    codes = random_codes(TOKENIZER, [5])
    CachedScorer(Asked(), "f", tmp_path).score_codes(codes)
    said = pq.read_schema(next(tmp_path.glob("*/part-*"))).metadata
    assert said[b"torch"].decode().split("+")[0] == torch.__version__.split("+")[0]
    assert {b"transformers", b"precision", b"device"} <= said.keys()
    monkeypatch.setattr("eval.score_cache.version", lambda library: "0.0")
    scorer = Asked()
    CachedScorer(scorer, "f", tmp_path).score_codes(codes)
    assert len(scorer.asked) == 1


@dataclass(frozen=True)
class Threads(Processes):
    """Processes that wait for each other as threads do."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))
    board: dict = field(default_factory=dict)

    def _meet(self, state, reason=""):
        self.board[self.rank] = (state, reason)
        self.barrier.wait(timeout=20)
        met = [self.board[rank] for rank in range(self.count)]
        self.barrier.wait(timeout=20)
        return met


def in_threads(work):
    """What `work` gives or raises for each of three ranks, at the same time."""
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(work, rank) for rank in range(3)]
        return [w.exception(timeout=30) or w.result() for w in waiting]


def test_processes_share_the_work_and_all_know_the_whole(tmp_path):
    codes = random_codes(TOKENIZER, [3, 5, 7, 9, 11, 4, 6, 8])
    CachedScorer(Asked(), "f", tmp_path, part_codes=1).score_codes(codes[:2])
    barrier, board = threading.Barrier(3), {}
    scorers = [Asked() for _ in range(3)]

    def work(rank):
        kept = CachedScorer(scorers[rank], "f", tmp_path, "model", Threads(rank, 3, rank, barrier, board))
        return kept.score_codes(codes)

    made = in_threads(work)
    for one in made:
        same(one, codes)
    assert sorted(a for s in scorers for a in s.asked) == sorted(c.codes.tobytes() for c in codes[2:])
    assert all(s.asked for s in scorers)


@pytest.mark.parametrize("fault", [np.nan, -np.inf, UsageError("no"), MemoryError()])
def test_what_one_process_cannot_score_is_an_error_in_all(tmp_path, fault):
    """And none of them is left waiting."""

    class Faulty(Asked):
        def score_codes(self, codes):
            if isinstance(fault, Exception):
                raise fault
            return [replace(s, log_probs=s.log_probs + fault) for s in super().score_codes(codes)]

    codes, barrier, board = random_codes(TOKENIZER, [3, 5, 7, 9, 11, 4]), threading.Barrier(3), {}
    scorers = [Asked(), Faulty(), Asked()]

    def work(rank):
        processes = Threads(rank, 3, rank, barrier, board)
        with processes.together():
            Likelihoods.measure(CachedScorer(scorers[rank], "f", tmp_path, "model", processes), codes)

    made = in_threads(work)
    if isinstance(fault, Exception):
        assert made[1] is fault
        assert [type(made[0]), type(made[2])] == [OtherFailed] * 2
        assert str(made[0]).startswith(f"process 1 of 3: {'no' if str(fault) else 'out of memory (MemoryError)'}")
    else:
        assert all(isinstance(error, UsageError) for error in made), made
        assert "in another process" in str(made[0])
        assert "in another process" not in str(made[1])


@pytest.mark.parametrize("failing", range(3))
@pytest.mark.parametrize("after", range(4))
def test_wherever_one_fails_all_end_that_and_meet_again_for_the_next(failing, after):
    """With one that is through early, as where the main process has more to do than the others."""
    barrier, board, done = threading.Barrier(3), {}, []

    def work(rank):
        processes, reasons = Threads(rank, 3, rank, barrier, board), []
        for job in range(3):
            try:
                with processes.together():
                    for step in range(3 if rank else 1):
                        if (job, rank, step) == (1, failing, after % (3 if rank else 1)):
                            raise KeyError(after)
                        processes.wait()
                    if (job, rank, after) == (1, failing, 3):
                        raise KeyError(after)
                done.append((job, rank))
            except (KeyError, OtherFailed) as error:
                reasons.append((job, type(error)))
        return reasons

    for rank, reasons in enumerate(in_threads(work)):
        assert reasons == [(1, KeyError if rank == failing else OtherFailed)]
    assert sorted(done) == [(job, rank) for job in (0, 2) for rank in range(3)]


@pytest.mark.parametrize("is_kept", [False, True])
def test_what_a_model_reads_of_a_clip_is_made_once(tmp_path, is_kept, monkeypatch):
    lm = make_lm("flat", 1)
    codes = random_codes(lm, [5, 7, 9])
    expected = lm.score_codes(codes)
    made, real = [], type(lm).document
    monkeypatch.setattr(type(lm), "document", lambda self, c: made.append(c.id) or real(self, c))
    table = Likelihoods.measure(CachedScorer(lm, "f", tmp_path) if is_kept else lm, codes)
    assert sorted(made) == sorted(c.id for c in codes)
    assert table.sums.tolist() == [s.log_probs.sum(axis=0).tolist() for s in expected]
