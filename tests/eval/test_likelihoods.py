"""The table of log-probabilities: conventions by hand, exact ties, and what pandas reads back from Parquet."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from eval.likelihoods import CONVENTIONS, Likelihoods, find_convention
from slm.errors import UsageError
from slm.types import CodeLogProbs, Codes
from tests.fakes import ArithmeticTokenizer, random_codes

TWO_BOOKS = [
    CodeLogProbs("a", np.array([[-1.0, -2.0], [-3.0, -4.0]]), np.array([-0.5, -1.5]), 0.5),
    CodeLogProbs("b", np.array([[-1.0, -1.0]]), np.array([-2.0, -2.0]), 0.25),
]


def test_conventions_by_hand():
    table = Likelihoods.collect(TWO_BOOKS, ["a", "b"], [0.5, 0.25])
    expected = {
        "sum": (-10, -2), "sum+eos": (-12, -6), "mean": (-10 / 4, -1), "mean+eos": (-12 / 6, -6 / 4),
        "first-sum": (-4, -1), "first-sum+eos": (-4.5, -3), "first-mean": (-2, -1), "first-mean+eos": (-4.5 / 3, -1.5),
    }  # fmt: skip
    assert set(expected) == set(CONVENTIONS)
    for name, (a, b) in expected.items():
        assert table.scores(CONVENTIONS[name]) == pytest.approx({"a": a, "b": b}), name
    assert table.log_prob_nats() == pytest.approx({"a": -12, "b": -6})


def test_one_stream_has_one_end_whatever_the_codebooks():
    flat = [CodeLogProbs("a", np.array([[-1.0, -2.0], [-3.0, -4.0]]), np.array([-0.5]), 0.5)]
    table = Likelihoods.collect(flat, ["a"], [0.5])
    assert table.scores(CONVENTIONS["mean+eos"])["a"] == pytest.approx(-10.5 / 5)
    assert table.scores(CONVENTIONS["first-mean+eos"])["a"] == pytest.approx(-4.5 / 3)
    assert table.eos_counts.tolist() == [[1, 0]]


def test_one_codebook_has_no_first():
    flat = [CodeLogProbs("a", np.array([[-1.0]]), np.array([-0.5]), 0.5)]
    names = [c.name for c in Likelihoods.collect(flat, ["a"], [0.5]).conventions]
    assert names == ["mean+eos", "mean", "sum+eos", "sum"]


def test_parquet_holds_a_row_for_each_item_and_codebook(tmp_path):
    table = Likelihoods.collect(TWO_BOOKS, ["a", "b"], [0.5, 0.25])
    table.write(tmp_path / "x.parquet", {"scorer": "model"})
    rows = pd.read_parquet(tmp_path / "x.parquet")
    assert rows.to_dict("list") == {
        "item": ["a", "a", "b", "b"],
        "codebook": [0, 1, 0, 1],
        "log_prob_nats": [-4.0, -6.0, -1.0, -1.0],
        "count": [2, 2, 1, 1],
        "eos_log_prob_nats": [-0.5, -1.5, -2.0, -2.0],
        "eos_count": [1, 1, 1, 1],
        "duration_s": [0.5, 0.5, 0.25, 0.25],
    }
    back = Likelihoods.read(tmp_path / "x.parquet")
    for convention in CONVENTIONS.values():
        assert back.scores(convention) == table.scores(convention)


class NoisyScorer:
    """Like a real model in batches: the same codes get values that differ in their last bits."""

    def __init__(self):
        self.rng, self.seen = np.random.default_rng(0), []

    def score_codes(self, codes):
        self.seen += [c.id for c in codes]
        return [CodeLogProbs(c.id, -1 + 1e-6 * self.rng.random(c.codes.shape), np.array([-1.0]), 0.0) for c in codes]


def test_items_with_equal_codes_tie_exactly():
    tokenizer, scorer = ArithmeticTokenizer(1), NoisyScorer()
    a, b = random_codes(tokenizer, [5, 6])
    twin = Codes("twin", a.codes.copy(), a.num_samples + 3, a.spec)
    table = Likelihoods.measure(scorer, [a, b, twin])
    scores = table.scores(CONVENTIONS["mean"])
    assert scores["twin"] == scores[a.id] != scores[b.id]
    assert scorer.seen == [a.id, b.id]
    assert table.duration_s[2] == twin.duration_s


class Backwards(NoisyScorer):
    def score_codes(self, codes):
        return [CodeLogProbs(c.id, -float(len(c.codes)) * np.ones(c.codes.shape), np.array([0.0]), 0.0)
                for c in reversed(codes)]  # fmt: skip


def test_scores_are_joined_by_id_and_not_by_order():
    codes = random_codes(ArithmeticTokenizer(1), [5, 6, 9])
    table = Likelihoods.measure(Backwards(), codes)
    assert table.scores(CONVENTIONS["mean"]) == {c.id: -len(c.codes) for c in codes}


@pytest.mark.parametrize("answer", [lambda made: made[1:], lambda made: [*made, made[0]]])
def test_a_scorer_that_leaves_out_or_repeats_a_clip_is_at_fault(answer, monkeypatch):
    whole = NoisyScorer.score_codes
    monkeypatch.setattr(NoisyScorer, "score_codes", lambda self, codes: answer(whole(self, codes)))
    with pytest.raises(ValueError, match="NoisyScorer scored other clips"):
        Likelihoods.measure(NoisyScorer(), random_codes(ArithmeticTokenizer(1), [5, 6]))


def test_an_unknown_convention_gets_suggestions():
    with pytest.raises(UsageError, match=r"did you mean 'mean\+eos'"):
        find_convention("mean+oes")
