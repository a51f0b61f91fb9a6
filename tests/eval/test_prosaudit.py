"""ProsAudit against pandas following the rules of the ZeroSpeech evaluation literally."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.benchmarks.base import Setup
from eval.benchmarks.prosaudit import ProsAudit
from eval.run import main
from slm.errors import UsageError
from tests.contracts import benchmark_law
from tests.eval.material import RIGHT, WRONG, config, scores, write_gold, write_level

HEADER = ("filename", "id", "voice", "type", "subtype", "transcription", "correct")


def write_prosaudit(folder: Path, pairs: int, seed: int = 0) -> Path:
    """Pairs in a random order, right and wrong rows mixed, the k-th of one belonging to the k-th of the other; an id
    occurs in both types and, of one voice or another, more than once."""
    rng = np.random.default_rng(seed)
    names = [(f"{i}", i % 5, f"v{i % 3}", ("lexical", "protosyntax")[i % 2]) for i in rng.permutation(pairs)]
    sides = {c: [(f"{n}-{c}", id, v, t, "x", "a sentence", c) for n, id, v, t in names] for c in (1, 0)}
    rows = []
    while any(sides.values()):
        rows.append(sides[1 if sides[1] and (not sides[0] or rng.random() < 0.5) else 0].pop(0))
    for name, *_, correct in rows:
        write_level(folder / f"{name}.wav", RIGHT if correct else WRONG)
    return write_gold(folder, HEADER, rows)


@pytest.mark.parametrize("place", ["english/dev", "prosaudit/english/dev", "prosaudit-dataset/english_dev"])
def test_it_is_what_pandas_makes_of_the_rules(tmp_path, place):
    gold = pd.read_csv(write_prosaudit(tmp_path / place, 24))
    benchmark = ProsAudit(Setup(tmp_path))
    benchmark_law(benchmark)
    rng = np.random.default_rng(1)
    made = {item: float(rng.integers(0, 4)) for item in sorted(benchmark.files)}
    found = {s.item.split("/", 2)[2]: s.value for s in benchmark.judge(made, "sum", resamples=10)}
    gold["score"] = gold.filename.map(made)
    right, wrong = gold[gold.correct == 1].reset_index(), gold[gold.correct == 0].reset_index()
    right["hit"] = (right.score > wrong.score) + 0.5 * (right.score == wrong.score)
    by_pair = right.groupby(["type", "id"]).hit.mean()
    by_type = by_pair.groupby("type").mean()
    assert found == pytest.approx(
        {
            "all": by_pair.mean(), "mean over types": by_type.mean(),
            "type lexical": by_type["lexical"], "type protosyntax": by_type["protosyntax"],
        }
    )  # fmt: skip


def test_rows_out_of_order_are_refused(tmp_path):
    rows = [("a", 1, "v", "lexical", "x", "t", 1), ("b", 2, "v", "lexical", "x", "t", 0)]
    write_gold(tmp_path / "english/dev", HEADER, rows)
    write_level(tmp_path / "english/dev/a.wav", 0.1)
    with pytest.raises(UsageError, match=r"line 2 \(lexical, 1\) would be paired with line 3 \(lexical, 2\)"):
        ProsAudit(Setup(tmp_path))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_gold_file_in_another_encoding_is_wrong_use(tmp_path, encoding):
    rows = [("a", 1, "v", "lexical", "x", "größer", 1), ("b", 1, "v", "lexical", "x", "größer", 0)]
    path = write_gold(tmp_path / "english/dev", HEADER, rows)
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    with pytest.raises(UsageError, match=r"gold.csv, after line 0: .*utf-8"):
        ProsAudit(Setup(tmp_path))


def test_it_runs_and_can_be_submitted(tmp_path, lm):
    gold = pd.read_csv(write_prosaudit(tmp_path / "data/english/test", 6))
    main(config(tmp_path / "data", benchmarks="prosaudit", split="test"))
    assert scores(tmp_path / "out", "prosaudit")["all", "mean"]["value"] == 1.0
    lines = (tmp_path / "out/submission-prosAudit/english_test.txt").read_text().splitlines()
    assert [line.split(" ")[0] for line in lines] == gold.filename.tolist()


def test_missing_data_says_what_to_fetch(tmp_path):
    with pytest.raises(UsageError, match=r"prosaudit/english/dev has no gold.csv .*zrc datasets:pull prosaudit"):
        ProsAudit(Setup(tmp_path))
