"""BabySLM against pandas following its authors' rules literally; recordings stand in several pairs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from eval.benchmarks.babyslm import BabyLexical, BabySyntactic
from eval.benchmarks.base import Setup
from eval.benchmarks.swuggy import SWuggy
from eval.run import main
from slm.errors import UsageError
from tests.contracts import benchmark_law
from tests.eval.material import (
    LEXICAL,
    RIGHT,
    SYNTACTIC,
    WRONG,
    config,
    random_lexical,
    random_syntactic,
    scores,
    write_gold,
    write_level,
    write_lexical,
    write_syntactic,
)
from tests.eval.test_pair_benchmarks import accuracies, random_scores


def write_words(folder, words: int = 12, seed: int = 0):
    """1 to 4 non-words a word, without a spelling, each pair with an id of its own in two voices; rows in any order."""
    rng = np.random.default_rng(seed)
    rows = []
    for word in range(words):
        for _ in range(rng.integers(1, 5)):
            id, frequency = len(rows) // 4, (1, 4, 5, 20, 200)[word % 5]
            for voice in ("B", "I"):
                rows.append((f"w{word}-{voice}", id, voice, frequency, f"word{word}", f"w {word}", 2, 1))
                rows.append((f"n_{id}-{voice}", id, voice, "", "", f"n {id}", 2, 0))
    rng.shuffle(rows)
    return write_recorded(folder, LEXICAL, rows)


def write_sentences(folder):
    """Right sentences in two pairs each, wrong ones too, as the authors make agreement."""
    sides = {c: [(f"{c}{(i + i // 4 * c) % 8}-{v}", i, v, f"type{i // 8}", "x", "a sentence", c)
                 for i in range(16) for v in ("B", "I")] for c in (1, 0)}  # fmt: skip
    return write_recorded(folder, SYNTACTIC, [row for pair in zip(sides[1], sides[0], strict=True) for row in pair])


def write_recorded(folder, header, rows):
    for name, *_, correct in rows:
        write_level(folder / f"{name}.wav", RIGHT if int(correct) else WRONG)
    return write_gold(folder, header, rows)


@pytest.mark.parametrize("place", ["babyslm/lexical/dev", "BabySLM/lexical/dev", "lexical/dev"])
def test_words_are_what_pandas_makes_of_the_rules(tmp_path, place):
    gold = pd.read_csv(write_words(tmp_path / place))
    benchmark = BabyLexical(Setup(tmp_path))
    benchmark_law(benchmark, shared=True)
    made = random_scores(benchmark)
    found = accuracies(benchmark, made)

    assert gold[gold.correct == 0].word.isnull().all()
    gold["word"], gold["score"] = gold.phones, gold.filename.map(made)
    pairs = gold[gold.correct == 1].merge(gold[gold.correct == 0], on=["voice", "id"], suffixes=("", "_non"))
    assert len(pairs) == len(benchmark.all_pairs) > pairs.filename.nunique()
    pairs["hit"] = (pairs.score > pairs.score_non) + 0.5 * (pairs.score == pairs.score_non)
    by_word = pairs.groupby(["voice", "word"]).hit.mean().groupby("word").mean()
    frequency = pairs.groupby("word").frequency.first()
    assert found["all"] == found["in-vocabulary"] == pytest.approx(by_word.mean())
    assert found["frequency 5-19"] == pytest.approx(by_word[frequency.between(5, 19)].mean())
    assert pairs.hit.mean() != pytest.approx(by_word.mean())  # a word of many non-words counts no more
    [note] = benchmark.notes
    assert "12 of 3,733 words of split dev" in note


def test_sentences_are_what_pandas_makes_of_the_rules(tmp_path):
    gold = pd.read_csv(write_sentences(tmp_path / "babyslm/syntactic/test"))
    benchmark = BabySyntactic(Setup(tmp_path, split="test"))
    benchmark_law(benchmark, shared=True)
    made = random_scores(benchmark)
    found = accuracies(benchmark, made)

    gold["score"] = gold.filename.map(made)
    right, wrong = gold[gold.correct == 1].reset_index(), gold[gold.correct == 0].reset_index()
    assert right.filename.nunique() < len(right)
    right["hit"] = (right.score > wrong.score) + 0.5 * (right.score == wrong.score)
    by_pair = right.groupby(["type", "subtype", "id"]).hit.mean()
    assert found["all"] == pytest.approx(by_pair.mean())
    assert found["type type1"] == pytest.approx(by_pair["type1"].mean())
    assert not benchmark.notes


def test_they_run_and_a_missing_recording_costs_its_pairs(tmp_path, lm):
    gold = pd.read_csv(write_words(tmp_path / "data/babyslm/lexical/dev"))
    write_sentences(tmp_path / "data/babyslm/syntactic/dev")
    (tmp_path / "data/babyslm/lexical/dev/w3-B.wav").unlink()
    main(config(tmp_path / "data", benchmarks="babyslm_lexical,babyslm_syntactic"))
    assert scores(tmp_path / "out", "babyslm_syntactic")["all", "mean"]["value"] == 1.0
    words = scores(tmp_path / "out", "babyslm_lexical")["all", "mean"]
    assert (words["value"], words["count"]) == (1.0, 12)
    lost = int((gold.filename == "w3-B").sum())
    counts = json.loads((tmp_path / "out/results.json").read_text())["results"][0]["counts"]
    assert (counts["pairs"], counts["pairs_scored"]) == (len(gold) // 2, len(gold) // 2 - lost)


def test_a_recording_both_right_and_wrong_is_refused(tmp_path):
    rows = [("w1", 1, "a", 3, "word", "w", 1, 1), ("w1", 1, "a", "", "", "w", 1, 0)]
    write_recorded(tmp_path / "lexical/dev", LEXICAL, rows)
    with pytest.raises(UsageError, match=r"gold.csv, line 3: w1 stands on line 2 already, as correct"):
        BabyLexical(Setup(tmp_path))


def test_a_word_without_a_name_is_refused(tmp_path):
    """Words are told apart by it: all without one would count as one."""
    path = write_words(tmp_path / "lexical/dev", words=3)
    gold = pd.read_csv(path, dtype=str, keep_default_na=False)
    gold.loc[gold.phones == "w 1", "phones"] = ""
    gold.to_csv(path, index=False)
    first = gold.index[gold.phones == ""][0] + 2
    with pytest.raises(UsageError, match=f"gold.csv, line {first}: phones is empty; mend the row"):
        BabyLexical(Setup(tmp_path))


def test_swuggy_and_sblimp_are_not_taken_for_it(tmp_path):
    write_syntactic(write_lexical(tmp_path, random_lexical(4, 2, seed=0)), random_syntactic(4, 2, seed=0))
    for benchmark in (BabyLexical, BabySyntactic):
        with pytest.raises(UsageError, match=r"dev/gold.csv is not BabySLM's: no recording stands in several"):
            benchmark(Setup(tmp_path))


def test_swuggy_says_which_benchmark_reads_shared_recordings(tmp_path):
    write_words(tmp_path / "lexical/dev")
    with pytest.raises(UsageError, match=r"stands on line \d+ already .*--benchmarks babyslm_"):
        SWuggy(Setup(tmp_path))


def test_missing_data_says_what_to_fetch(tmp_path):
    with pytest.raises(UsageError, match=r"babyslm/syntactic/dev has no gold.csv .*syntactic/dev.zip, and unpack it"):
        BabySyntactic(Setup(tmp_path))
