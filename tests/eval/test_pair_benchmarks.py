"""sWUGGY and sBLIMP against pandas following the published rules literally, and against cases done by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from eval.benchmarks.base import BENCHMARKS, Setup
from eval.benchmarks.sblimp import SBlimp
from eval.benchmarks.swuggy import SWuggy
from slm.errors import UsageError
from tests.contracts import benchmark_law
from tests.eval.material import (
    LEXICAL,
    SYNTACTIC,
    random_lexical,
    random_syntactic,
    write_gold,
    write_level,
    write_lexical,
    write_syntactic,
)


def accuracies(benchmark, scores) -> dict[str, float]:
    return {s.item.split("/", 2)[2]: s.value for s in benchmark.judge(scores, "sum", resamples=10)}


def random_scores(benchmark, seed: int = 0) -> dict[str, float]:
    """Few distinct values, so that ties occur."""
    rng = np.random.default_rng(seed)
    return {item: float(rng.integers(0, 4)) for item in sorted(benchmark.files)}


def test_swuggy_is_what_pandas_makes_of_the_rules(tmp_path):
    benchmark = SWuggy(Setup(write_lexical(tmp_path, random_lexical(60, 3, seed=1))))
    scores = random_scores(benchmark)
    found = accuracies(benchmark, scores)

    gold = pd.read_csv(tmp_path / "lexical/dev/gold.csv")
    gold["score"] = gold["filename"].map(scores)
    pairs = gold[gold.correct == 1].merge(gold[gold.correct == 0], on=["voice", "id"], suffixes=("", "_non"))
    pairs["hit"] = (pairs.score > pairs.score_non) + 0.5 * (pairs.score == pairs.score_non)
    by_id = pairs.groupby("id").agg(hit=("hit", "mean"), frequency=("frequency", "first"))
    bands = pd.cut(by_id.frequency, [0, 1, 5, 20, 100, np.inf], right=False)
    by_band = by_id.groupby(bands, observed=False).hit.agg(["mean", "count"])

    assert found["all"] == pytest.approx(by_id.hit.mean())
    assert found["out-of-vocabulary"] == pytest.approx(by_band["mean"].iloc[0])
    names = ["frequency 1-4", "frequency 5-19", "frequency 20-99", "frequency 100 and more"]
    assert [found[n] for n in names] == pytest.approx(by_band["mean"].iloc[1:].tolist())
    weighted = by_band.iloc[1:]
    expected = (weighted["mean"] * weighted["count"]).sum() / weighted["count"].sum()
    assert found["in-vocabulary"] == pytest.approx(expected)


def test_sblimp_is_what_pandas_makes_of_the_rules(tmp_path):
    benchmark = SBlimp(Setup(write_syntactic(tmp_path, random_syntactic(40, 4, seed=2))))
    scores = random_scores(benchmark)
    found = accuracies(benchmark, scores)

    gold = pd.read_csv(tmp_path / "syntactic/dev/gold.csv")
    gold["score"] = gold["filename"].map(scores)
    right, wrong = gold[gold.correct == 1].reset_index(), gold[gold.correct == 0].reset_index()
    right["hit"] = (right.score > wrong.score) + 0.5 * (right.score == wrong.score)
    by_pair = right.groupby(["type", "subtype", "id"]).hit.mean()
    by_type = by_pair.groupby("type").mean()

    assert found["all"] == pytest.approx(by_pair.mean())
    assert {k: found[f"type {k}"] for k in by_type.index} == pytest.approx(by_type.to_dict())
    assert found["mean over types"] == pytest.approx(by_type.mean())


def test_swuggy_by_hand_with_a_tie_two_voices_and_rows_out_of_order(tmp_path):
    """Id 7: voice a right, voice b tied -> 0.75; id 8: wrong -> 0; id 9, never in training: right -> 1."""
    rows = [("w8a", 8, "a", 3, 1), ("n7b", 7, "b", 0, 0), ("w7a", 7, "a", 12, 1), ("n9a", 9, "a", 0, 0),
            ("n8a", 8, "a", 0, 0), ("w7b", 7, "b", 12, 1), ("w9a", 9, "a", 0, 1), ("n7a", 7, "a", 0, 0)]  # fmt: skip
    benchmark = SWuggy(Setup(write_lexical(tmp_path, rows)))
    scores = {"w7a": 2.0, "n7a": 1.0, "w7b": 1.0, "n7b": 1.0, "w8a": 0.0, "n8a": 1.0, "w9a": 5.0, "n9a": 4.0}
    found = {s.item.split("/", 2)[2]: (s.value, s.count) for s in benchmark.judge(scores, "sum")}
    assert found == {
        "all": (pytest.approx(1.75 / 3), 3),
        "in-vocabulary": (pytest.approx(0.375), 2),
        "out-of-vocabulary": (1.0, 1),
        "frequency 1-4": (0.0, 1),
        "frequency 5-19": (0.75, 1),
    }


def test_sblimp_by_hand_pairs_by_row_order(tmp_path):
    """Type t: pair 1 (two voices: 1 and 0) -> 0.5, pair 2 -> 1; type u: pair 1 -> 0. All 0.5, over types 0.375."""
    rows = [("g1a", 1, "a", "t", "s", 1), ("g1b", 1, "b", "t", "s", 1), ("b1a", 1, "a", "t", "s", 0),
            ("b1b", 1, "b", "t", "s", 0), ("b2a", 2, "a", "t", "s", 0), ("g2a", 2, "a", "t", "s", 1),
            ("g3a", 1, "a", "u", "s", 1), ("b3a", 1, "a", "u", "s", 0)]  # fmt: skip
    benchmark = SBlimp(Setup(write_syntactic(tmp_path, rows)))
    scores = {"g1a": 2, "b1a": 1, "g1b": 1, "b1b": 2, "g2a": 1, "b2a": 0, "g3a": 0, "b3a": 1}
    found = accuracies(benchmark, {k: float(v) for k, v in scores.items()})
    assert found == pytest.approx({"all": 0.5, "mean over types": 0.375, "type t": 0.75, "type u": 0.0})


def test_the_hash_of_a_list_knows_its_words_not_only_its_names(tmp_path):
    def hash_of(folder, seed):
        return SWuggy(Setup(write_lexical(tmp_path / folder, random_lexical(5, 2, seed=seed))))._list_hash()

    assert hash_of("a", 1) == hash_of("b", 1)
    assert hash_of("a", 1) != hash_of("c", 2)


@pytest.mark.parametrize("name", ["swuggy", "sblimp"])
def test_the_law(tmp_path, name):
    write_lexical(tmp_path, random_lexical(12, 2, seed=3))
    write_syntactic(tmp_path, random_syntactic(12, 2, seed=3))
    benchmark_law(BENCHMARKS.get(name)(Setup(tmp_path)))


def test_pairs_without_scores_are_left_out_of_the_mean(tmp_path):
    benchmark = SWuggy(Setup(write_lexical(tmp_path, random_lexical(5, 1, seed=0))))
    scores = {item: float(item.endswith("_1")) for item in benchmark.files if not item.startswith("f0")}
    assert benchmark.judge(scores, "sum")[0].count == 4


def test_a_row_without_partner_is_named(tmp_path):
    rows = [("w1", 1, "a", 3, 1), ("n1", 1, "a", 0, 0), ("w2", 2, "a", 3, 1), ("n3", 3, "a", 0, 0)]
    benchmark = SWuggy(Setup(write_lexical(tmp_path, rows)))
    assert [(left.item, left.reason) for left in benchmark.unpaired] == [
        ("w2", "gold.csv, line 4: no partner of its voice and id"),
        ("n3", "gold.csv, line 5: no partner of its voice and id"),
    ]
    assert (len(benchmark.all_pairs), benchmark.lost) == (1, 2)


@pytest.mark.parametrize(("split", "sizes"), [("dev", ("5,000", "6,300")), ("test", ("20,000", "63,000"))])
def test_a_set_that_is_short_says_so_unless_it_is_a_made_up_one(tmp_path, split, sizes):
    write_lexical(tmp_path, random_lexical(4, 2, seed=0), split)
    write_syntactic(tmp_path, random_syntactic(5, 2, seed=0), split)
    setup = Setup(tmp_path, split)
    assert SWuggy(setup).notes == [
        f"The data is short of the whole set: 4 of {sizes[0]} ids of split {split}; fetch the others"
    ]
    assert SBlimp(setup).notes == [
        f"The data is short of the whole set: 5 of {sizes[1]} sentence pairs of split {split}; fetch the others"
    ]
    (tmp_path / "generated.json").write_text("{}")
    assert not SWuggy(setup).notes
    assert not SBlimp(setup).notes


def test_a_mean_over_some_types_is_called_so(tmp_path):
    benchmark = SBlimp(Setup(write_syntactic(tmp_path, random_syntactic(12, 1, seed=0))))
    lacking = {item for p in benchmark.all_pairs if p.labels["type"] == "type1" for item in (p.positive, p.negative)}
    found = accuracies(benchmark, dict.fromkeys(benchmark.files.keys() - lacking, 0.0))
    assert set(found) == {"all", "mean over 2 of 3 types", "type type0", "type type2"}


GOOD = ("w1", 1, "a", 3, "word", "w", 1, 1)
BAD = {
    "frequency": (("w2", 2, "a", "many", "word", "w", 1, 1), r"line 3: frequency is 'many'"),
    "correct": (("w2", 2, "a", 3, "word", "w", 1, "yes"), r"line 3: correct is 'yes', not 0 or 1"),
    "too few": (("w2", 2, "a", 3), r"line 3: as many values as columns"),
    "too many": (("w2", 2, "a", 3, "word", "w", 1, 1, "x"), r"line 3: as many values as columns"),
    "no id": (("w2", "", "a", 3, "word", "w", 1, 1), r"line 3: id is empty"),
    "file twice": (("w1", 2, "a", 3, "word", "w", 1, 1), r"line 3: w1 stands on line 2 already"),
    "file twice by two names": (("./w1.wav", 2, "a", 3, "word", "w", 1, 1), r"line 3: \./w1 stands on line 2 already"),
    "voice and id twice": (("w2", 1, "a", 3, "word", "w", 1, 1), r"line 3: voice a, id 1 has a word on line 2"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_row_is_named_by_its_line(tmp_path, fault):
    row, message = BAD[fault]
    non_words = [("n1", 1, "a", 0, "wrod", "w", 1, 0), ("n2", 2, "a", 0, "drow", "w", 1, 0)]
    write_gold(tmp_path / "lexical/dev", LEXICAL, [GOOD, row, *non_words])
    write_level(tmp_path / "lexical/dev/w1.wav", 0.1)
    with pytest.raises(UsageError, match=message):
        SWuggy(Setup(tmp_path))


def test_sblimp_refuses_rows_whose_ids_disagree(tmp_path):
    rows = [("g1", 1, "a", "t", "s", "x", 1), ("g2", 2, "a", "t", "s", "x", 1),
            ("b2", 2, "a", "t", "s", "x", 0), ("b1", 1, "a", "t", "s", "x", 0)]  # fmt: skip
    gold = write_gold(tmp_path / "syntactic/dev", SYNTACTIC, rows)
    write_level(tmp_path / "syntactic/dev/g1.wav", 0.1)
    with pytest.raises(
        UsageError, match=r"line 2 \(t, s, 1, voice a\) would be paired with line 4 \(t, s, 2, voice a\)"
    ):
        SBlimp(Setup(tmp_path))
    gold.write_text("\n".join(gold.read_text().splitlines()[:4]))
    with pytest.raises(UsageError, match=r"2 correct rows and 1 incorrect ones: line 2 \(t, s, 1, voice a\) would be"):
        SBlimp(Setup(tmp_path))
    write_gold(gold.parent, SYNTACTIC, [rows[0], rows[3], rows[1]])
    with pytest.raises(UsageError, match=r"2 correct rows and 1 .*: line 4 \(t, s, 2, voice a\) has no row to be"):
        SBlimp(Setup(tmp_path))


def test_sblimp_refuses_to_pair_two_voices(tmp_path):
    rows = [("g1", 1, "a", "t", "s", "x", 1), ("g2", 1, "b", "t", "s", "x", 1),
            ("b2", 1, "b", "t", "s", "x", 0), ("b1", 1, "a", "t", "s", "x", 0)]  # fmt: skip
    write_gold(tmp_path / "syntactic/dev", SYNTACTIC, rows)
    write_level(tmp_path / "syntactic/dev/g1.wav", 0.1)
    with pytest.raises(UsageError, match=r"line 2 \(t, s, 1, voice a\) .* line 4 \(t, s, 1, voice b\)"):
        SBlimp(Setup(tmp_path))


def test_missing_material_says_what_to_fetch(tmp_path):
    with pytest.raises(UsageError, match=r"lexical/dev; .*zrc datasets:pull .*eval\.minimal_pairs"):
        SWuggy(Setup(tmp_path))
    (tmp_path / "lexical/dev").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"gold\.csv is missing: older archives"):
        SWuggy(Setup(tmp_path))
    with pytest.raises(UsageError, match=r"lexical/test \(there are: dev\)"):
        SWuggy(Setup(tmp_path, split="test"))
    write_gold(tmp_path / "lexical/dev", LEXICAL, [GOOD])
    with pytest.raises(UsageError, match=r"none of its recordings, such as w1\.wav"):
        SWuggy(Setup(tmp_path))
    write_gold(tmp_path / "lexical/dev", LEXICAL[1:], [GOOD[1:]])
    with pytest.raises(UsageError, match="has no column filename"):
        SWuggy(Setup(tmp_path))


def test_an_unknown_benchmark_gets_suggestions():
    with pytest.raises(UsageError, match="did you mean 'swuggy'"):
        BENCHMARKS.get("swugy")
