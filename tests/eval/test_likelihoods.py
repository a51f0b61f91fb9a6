"""The table of log-probabilities: conventions by hand, exact ties, and what pandas reads back from Parquet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from eval.conventions import CONVENTIONS, find_convention, find_conventions, usual_conventions
from eval.frames import FrameLikelihoods
from eval.likelihoods import Likelihoods, Wanted
from eval.partings import Parting, continuations, find_partings, unit_starts
from slm.errors import UsageError
from slm.types import CodeLogProbs, Codes, MinimalPair
from slm.units import UnitBPE, Units, deduplicate
from tests.fakes import ArithmeticTokenizer, markov_codes, random_codes

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


def test_what_is_less_than_a_billionth_apart_ties():
    near = [CodeLogProbs("", np.array([[-1 - less]]), np.zeros(1), 0.5) for less in (0, 3e-10, 2e-9)]
    made = Likelihoods.collect(near, ["a", "b", "c"], [0.5] * 3).scores(CONVENTIONS["sum"])
    assert made["a"] == made["b"] > made["c"]


def test_one_stream_has_one_end_whatever_the_codebooks():
    flat = [CodeLogProbs("a", np.array([[-1.0, -2.0], [-3.0, -4.0]]), np.array([-0.5]), 0.5)]
    table = Likelihoods.collect(flat, ["a"], [0.5])
    assert table.scores(CONVENTIONS["mean+eos"])["a"] == pytest.approx(-10.5 / 5)
    assert table.scores(CONVENTIONS["first-mean+eos"])["a"] == pytest.approx(-4.5 / 3)
    assert table.eos_counts.tolist() == [[1, 0]]


def test_one_codebook_has_no_first():
    assert [c.name for c in usual_conventions(1)] == ["mean+eos", "mean", "sum+eos", "sum"]
    assert len(usual_conventions(2)) == 8


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
        "first_log_prob_nats": [-1.0, -2.0, -1.0, -1.0],
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


@pytest.mark.parametrize("field", ["log_probs", "eos_log_probs"])
def test_one_value_of_one_clip_that_is_nan_is_enough(field, monkeypatch):
    def answer(self, codes):
        first, *rest = (CodeLogProbs(c.id, np.full(c.codes.shape, -1.0), np.full(2, -1.0), 0.0) for c in codes)
        getattr(first, field).reshape(-1)[0] = np.nan
        return [first, *rest]

    monkeypatch.setattr(NoisyScorer, "score_codes", answer)
    with pytest.raises(UsageError, match="gives NaN"):
        Likelihoods.measure(NoisyScorer(), random_codes(ArithmeticTokenizer(2), [5, 6]))


def test_an_unknown_convention_gets_suggestions():
    with pytest.raises(UsageError, match=r"did you mean 'mean\+eos'"):
        find_convention("mean+oes")
    for name in ("", "first", "weighted", "meansum", "-mean", "firstmean", "local-0.5smean", "local-0.5s-normalized"):
        with pytest.raises(UsageError, match="unknown convention"):
            find_convention(name)
    with pytest.raises(UsageError, match="numbers with colons"):
        find_convention("weighted-1::2-mean")


def test_names_say_all_of_a_convention():
    assert [c.name for c in find_conventions("sum, mean,sum,")] == ["sum", "mean"]
    made = find_convention("local-0.25s-weighted-100:1.5-sum+eos-strict")
    assert (made.window_s, made.weights, made.mean, made.eos, made.tie) == (0.25, (100.0, 1.5), False, True, 0.0)
    assert made.meaning == (
        "sum of the log-probabilities of all codes of all codebooks, weighed by 100:1.5, and of the end of the clip, "
        "in the first 0.25 s after the two items of a pair part; a tie is a miss"
    )
    for name, meaning in (
        ("first-mean", "mean of the log-probabilities of the codes of the first codebook, without the end of the clip"),
        ("weighted-sum", "sum of the log-probabilities of all codes of all codebooks, weighed by the weights of the "
         "model's loss, without the end of the clip"),
        ("normalized", "sum of the log-probabilities of all codes of all codebooks, without the end of the clip, after "
         "the two items of a pair part, given what they share less given nothing"),
        ("salmon", "mean of the log-probabilities of all codes of all codebooks but the first code of the clip, "
         "without the end of the clip"),
    ):  # fmt: skip
        assert find_convention(name).meaning == meaning
    assert find_convention("local-1s").tie == 0.5
    assert find_convention("local-0.5s").mean
    assert not find_convention("normalized").mean
    assert find_convention("normalized-mean").mean
    with pytest.raises(UsageError, match="trained without codebook weights; give them, as in 'weighted-100:1:1-mean'"):
        find_convention("weighted-mean").for_model(None, 2)
    with pytest.raises(UsageError, match="3 weights for 2 codebooks"):
        find_convention("weighted-100:1:1-mean").for_model(None, 2)


def test_weighted_by_hand():
    table = Likelihoods.collect(TWO_BOOKS, ["a", "b"], [0.5, 0.25])
    assert table.scores(find_convention("weighted-10:1-sum")) == pytest.approx({"a": -40 - 6, "b": -10 - 1})
    assert table.scores(find_convention("weighted-10:1-mean")) == pytest.approx({"a": -46 / 22, "b": -1})
    assert table.scores(find_convention("weighted-10:1-mean+eos"))["a"] == pytest.approx((-46 - 5 - 1.5) / 33)
    first = table.scores(find_convention("first-mean+eos"))
    assert table.scores(find_convention("weighted-1:0-mean+eos")) == first
    own = find_convention("weighted-mean").for_model((10, 1), 2)
    assert table.scores(own) == table.scores(find_convention("weighted-10:1-mean"))


def test_an_end_weighs_as_much_as_the_first_codebook_of_its_stream():
    """Three codebooks in two streams, the second of which begins with codebook 2."""
    scored = [CodeLogProbs("a", np.array([[-1.0, -2.0, -3.0]]), np.array([-0.5, -0.25]), 0.5)]
    table = Likelihoods.collect(scored, ["a"], [0.5], Wanted(ends_at=[0, 2]))
    found = table.scores(find_convention("weighted-100:10:1-sum+eos"))["a"]
    assert found == pytest.approx(-100 - 20 - 3 - 50 - 0.25)


A = [[1], [1], [2], [2], [3]]
B = [[1], [1], [2], [4], [4]]


def pair_of(a, b):
    tokenizer = ArithmeticTokenizer(len(a[0]))
    codes = {n: Codes(n, np.array(c, np.uint16), 160 * len(c), tokenizer.spec) for n, c in (("a", a), ("b", b))}
    return codes, [MinimalPair("a", "b", "g")]


@pytest.mark.parametrize(
    ("dedup", "a", "b", "expected"),
    [
        (False, A, B, (Parting(3, 3), Parting(3, 3))),
        (True, A, B, (Parting(2, 4), Parting(2, 3))),
        (False, A, A[:3], (Parting(3, 3), Parting(3, 3))),
        (True, [[1], [1], [2]], [[1], [2], [2]], (Parting(0, 0), Parting(0, 0))),
        (False, A, A, (Parting(0, 0), Parting(0, 0))),
        (False, A, [[7]], (Parting(0, 0), Parting(0, 0))),
        (False, [[1, 1], [1, 2], [1, 3]], [[1, 1], [1, 4], [2, 3]], (Parting(1, 1), Parting(1, 1))),
    ],
)
def test_where_items_part_by_hand(dedup, a, b, expected):
    codes, pairs = pair_of(a, b)
    units = Units((16,) * len(a[0]), dedup)
    found = find_partings(units, codes, pairs)
    assert (found["a"], found["b"]) == expected
    rest = continuations(codes, found)
    for item, parting in found.items():
        if parting.frame == len(codes[item].codes):
            assert item not in rest
            continue
        assert rest[item].codes.tolist() == codes[item].codes[parting.frame :].tolist()
        before_s = parting.frame / codes[item].spec.frame_rate_hz
        assert rest[item].duration_s == pytest.approx(codes[item].duration_s - before_s)
        whole = units.apply(codes[item].codes)
        assert units.apply(rest[item].codes).tolist() == whole[parting.row :].tolist()


def test_an_item_of_two_pairs_must_part_in_one_place():
    codes, pairs = pair_of(A, B)
    codes["c"] = Codes("c", np.array([[9]], np.uint16), 160, codes["a"].spec)
    with pytest.raises(UsageError, match=r"a stands in several pairs.* leave these conventions out"):
        find_partings(Units((16,)), codes, [*pairs, MinimalPair("a", "c", "g")])


def test_byte_pairs_begin_where_their_first_code_does():
    """Against the frames that decoding the units before each gives."""
    tokenizer = ArithmeticTokenizer(1)
    corpus = [c.codes for c in markov_codes(tokenizer, 40, seed=1)]
    for dedup in (False, True):
        bpe = UnitBPE.train([deduplicate(c)[0] if dedup else c for c in corpus], (16,), 40, dedup)
        units = Units((16,), dedup, bpe)
        codes = np.repeat(corpus[0], np.arange(len(corpus[0])) % 3 + 1, axis=0)
        document = units.apply(codes)
        durations = units.durations(codes)
        expected = [int(durations[: len(bpe.decode(document[:i]))].sum()) for i in range(len(document) + 1)]
        assert len(document) < len(durations)
        assert unit_starts(units, codes, document).tolist() == expected


def test_what_follows_is_the_same_units_alone():
    """Byte pairs of two codebooks begin within frames too; those that part there part where the frame before begins."""
    tokenizer = ArithmeticTokenizer(2)
    corpus = [c.codes for c in markov_codes(tokenizer, 40, seed=3)]
    units = Units((16, 16), bpe=UnitBPE.train(corpus, (16, 16), 120))
    books = len(units.codebook_sizes)
    rows, moved = set(), 0
    for i, whole in enumerate(corpus[:20]):
        # As far as frame 3 they are one; then the first or the second codebook differs.
        other = whole.copy()
        other[3, i % 2] = (other[3, i % 2] + 1 + i % 5) % 16
        codes, pairs = pair_of(whole, other)
        found = find_partings(units, codes, pairs)
        rest = continuations(codes, found)
        documents = {item: units.apply(codes[item].codes) for item in "ab"}
        shared = next(r for r, (x, y) in enumerate(zip(*documents.values(), strict=False)) if x != y)
        for item, parting in found.items():
            assert units.apply(rest[item].codes).tolist() == documents[item][parting.row :].tolist()
            between = units.bpe.codebooks()[1][documents[item][parting.row : shared, 0]].cumsum()
            assert not (between % books == 0).any()  # no later unit would do
        rows.add(found["a"].row)
        moved += found["a"].row < shared
    assert len(rows) > 1
    assert moved


class Counting:
    """Unit r of a document gets -(r + 1), the end -0.5; what it was asked is kept."""

    def __init__(self):
        self.asked = []

    def score_codes(self, codes):
        self.asked += [c.codes[:, 0].tolist() for c in codes]
        return [CodeLogProbs(c.id, -np.cumsum(np.ones(c.codes.shape), axis=0), np.array([-0.5]), 0.0) for c in codes]


def measure_pair(a, b, **more):
    codes, pairs = pair_of(a, b)
    units, scorer = Units((16,)), Counting()
    wanted = Wanted(
        partings=find_partings(units, codes, pairs), alone=True, frame_rate_hz=50.0,
        starts={item: unit_starts(units, c.codes, c.codes) for item, c in codes.items()}, **more,
    )  # fmt: skip
    return Likelihoods.measure(scorer, list(codes.values()), wanted), scorer


def test_normalized_and_local_by_hand(tmp_path):
    """They part at 3: of a units 4 and 5 follow, -4 and -5; alone they get -1 and -2."""
    table, scorer = measure_pair(A, [*B, [5]])
    assert scorer.asked == [[1, 1, 2, 2, 3], [1, 1, 2, 4, 4, 5], [2, 3], [4, 4, 5]]
    by_hand = {
        "normalized": {"a": -9 + 3, "b": -15 + 6},
        "normalized-mean": {"a": -6 / 2, "b": -9 / 3},
        "normalized+eos": {"a": -6, "b": -9},
        "local-0.04s-sum": {"a": -9, "b": -9},
        "local-0.04s": {"a": -4.5, "b": -4.5},
        "local-0.02s-sum+eos": {"a": -4, "b": -4},
        "local-0.02s+eos": {"a": -4, "b": -4},
        "local-0.06s-sum+eos": {"a": -9.5, "b": -15},
        "local-0.08s+eos": {"a": -9.5 / 3, "b": -15.5 / 4},
        "salmon": {"a": -14 / 4, "b": -20 / 5},
    }
    table.write(tmp_path / "x.parquet", {"scorer": "model"})
    for made in (table, Likelihoods.read(tmp_path / "x.parquet")):
        for name, expected in by_hand.items():
            assert made.scores(find_convention(name)) == pytest.approx(expected), name
    long = pd.read_parquet(tmp_path / "x-frames.parquet")
    of_b = long[long.item == "b"]
    assert of_b.frame.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert of_b.log_prob_nats.tolist() == [-1, -2, -3, -4, -5, -6, -0.5]
    assert of_b.is_end.tolist() == [False] * 6 + [True]
    replace(table, frames=None).write(tmp_path / "x.parquet", {"scorer": "model"})
    assert Likelihoods.read(tmp_path / "x.parquet").frames is None, "of another table"


@pytest.mark.parametrize("ends", [1, 0])
def test_what_each_unit_got_is_read_as_it_was_written(ends):
    """Last units of two and three frames; without an end, nothing says how long they are."""
    starts, given = ([0, 2, 4, 6], [0, 2, 3, 6]), np.arange(-12.0, 0).reshape(2, 3, 2)
    eos_sums, eos_counts = np.array([[-0.5, 0.0]] * 2) * ends, np.array([[1, 0]] * 2) * ends
    table = FrameLikelihoods((*given,), (*map(np.array, starts),), eos_sums, eos_counts, 50.0).to_table(("a", "b"))
    read = FrameLikelihoods.from_table(table, np.full((2, 2), 3), eos_sums, eos_counts, 50.0)
    assert np.array_equal(read.log_probs, given)
    assert [s.tolist()[: 3 + ends] for s in read.starts] == [s[: 3 + ends] for s in starts]


def test_items_of_the_same_codes_tie_in_every_convention_and_what_has_nothing_has_no_score():
    same, _ = measure_pair(A, A)
    shorter, _ = measure_pair(A, A[:3])
    for name in ("normalized", "normalized-mean+eos", "local-0.5s", "local-0.5s-sum+eos"):
        scores = same.scores(find_convention(name))
        assert scores["a"] == scores["b"], name
    for name in ("normalized", "normalized+eos", "local-0.5s"):
        assert "b" not in shorter.scores(find_convention(name)), name
    single, _ = measure_pair(A, A[:1])
    assert single.scores(find_convention("salmon")).keys() == {"a"}
    assert shorter.scores(find_convention("local-0.5s+eos"))["b"] == -0.5


def test_a_table_without_what_a_convention_needs_says_so():
    table = Likelihoods.collect(TWO_BOOKS, ["a", "b"], [0.5, 0.25])
    for name in ("normalized", "local-0.5s"):
        with pytest.raises(UsageError, match="is one of pairs"):
            table.scores(find_convention(name))
    codes, pairs = pair_of(A, B)
    table = Likelihoods.measure(Counting(), list(codes.values()), Wanted(find_partings(Units((16,)), codes, pairs)))
    for name, message in (("normalized", "needs continuations scored alone"), ("local-0.5s", "score with --per_frame")):
        with pytest.raises(UsageError, match=message):
            table.scores(find_convention(name))
