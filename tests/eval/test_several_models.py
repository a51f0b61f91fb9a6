"""Several models in one run, and several processes for one: each as if alone, and what is told apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import eval.tokens
from eval import comparison
from eval.benchmarks.pairs import Subset
from eval.comparison import Compared
from eval.config import EvalConfig
from eval.conventions import find_convention
from eval.run import main, name_models
from slm.config import join_list, parse_config
from slm.data.store import CodeStore
from slm.errors import UsageError
from slm.model.backbone import build_causal_lm
from slm.model.checkpoint import ModelRecord, save_model
from slm.model.statistics import CodeStatistics
from slm.tokenizers import TOKENIZERS
from slm.types import MinimalPair
from slm.units import Units
from tests.eval.material import (
    LevelLM,
    config,
    random_lexical,
    random_syntactic,
    scores,
    write_lexical,
    write_syntactic,
)
from tests.fakes import TINY_BACKBONE, ArithmeticTokenizer, markov_codes
from tests.model.test_slamkit import UNITS
from tests.model.test_slamkit import plain as log_probs
from tests.model.test_slamkit import save as save_published
from tests.training.two_processes import free_port


class NoisyLM(LevelLM):
    """As LevelLM, but wrong about some codes, by their number: `share` of 16 first codes."""

    def __init__(self, share: int, name: str):
        super().__init__(name=name)
        self.share = share

    def score_codes(self, codes):
        made = super().score_codes(codes)
        flip = [len(c.codes) % 5 < self.share for c in codes]
        return [s if not f else type(s)(s.id, -3 - s.log_probs, s.eos_log_probs, s.duration_s)
                for s, f in zip(made, flip, strict=True)]  # fmt: skip


@pytest.fixture
def models(monkeypatch):
    """Paths -> models whose answers are known."""
    known = {"runs/good/final": NoisyLM(0, "good"), "runs/same/final": NoisyLM(0, "same"),
             "runs/bad/final": NoisyLM(3, "bad")}  # fmt: skip
    monkeypatch.setattr("slm.spoken_lm.load_lm", lambda path, device, vocoder: known[path])
    monkeypatch.setattr("eval.run.check_models", lambda paths: None)
    return known


def test_each_model_has_its_folder_and_all_have_a_table(root, models, capsys, monkeypatch):
    tokenized = []
    real = eval.tokens._tokenize
    monkeypatch.setattr("eval.tokens._tokenize", lambda *a: (tokenized.append(a[2].name), real(*a)))
    decided, decide = [], comparison.decide
    monkeypatch.setattr("eval.comparison.decide", lambda *a: (decided.append(a[0][0].labels), decide(*a))[1])
    resampled, test = [], comparison.paired_test
    monkeypatch.setattr("eval.comparison.paired_test", lambda *a: (resampled.append(a[2:]), test(*a))[1])
    write_lexical(root, random_lexical(30, 2, seed=5))
    main(config(root, model=list(models), benchmarks="swuggy,sblimp", baselines="no", seed=3))
    out = root.parent / "out"
    assert [name.rsplit("-", 1)[0] for name in tokenized] == ["swuggy-dev", "sblimp-dev"]  # once for all
    for name in ("good", "same", "bad"):
        record = json.loads((out / name / "results.json").read_text())
        assert record["model"]["path"] == f"runs/{name}/final"
        assert record["results"][0]["config"]["model"] == f"runs/{name}/final"
    compared = json.loads((out / "comparison.json").read_text())
    assert [m["name"] for m in compared["models"]] == ["good", "same", "bad"]
    assert set(resampled) == {(50, 3)} == {(compared["resamples"], compared["seed"])}
    lexical = [t["name"] for t in compared["tests"] if t["benchmark"] == "swuggy"]
    each = len(set(lexical))
    assert len(lexical) == 3 * each  # pairs of models
    assert sum("frequency" in labels for labels in decided) == 3 * each  # models: each decides once, not once a pair
    for row in compared["rows"]:
        if row["metric"] == "pair_accuracy":
            for name, cell in row["scores"].items():
                own = scores(out / name, row["benchmark"])[row["name"], row["convention"]]
                assert cell["value"] == own["value"]
    printed = capsys.readouterr()
    assert "WARNING: on swuggy dev, all, these differ by less than the noise: same and good by +0.0 (" in printed.out
    assert "bad and good differ" not in printed.out
    assert "model 3 of 3: bad" in printed.err
    markdown = (out / "comparison.md").read_text()
    assert "| bad less good, all" in markdown
    assert "inside the noise" in markdown
    assert "paired bootstrap" in markdown
    assert (out / "index.html").read_text().count("runs/bad/final") >= 1


def test_numbers_without_a_first_one_are_compared_too_and_a_benchmark_that_a_model_is_unfit_for_costs_no_other(
    root, models, capsys
):
    for lm in models.values():
        object.__setattr__(lm.spec, "has_decoder", False)
    with pytest.raises(UsageError, match=r"(?s)else .* is done.*good, generation: .*no decoder.*bad, generation: "):
        main(config(root, model=["runs/good/final", "runs/bad/final"], benchmarks="continuation,generation",
                    prompts=str(root / "prompts")))  # fmt: skip
    out = root.parent / "out"
    [row] = json.loads((out / "comparison.json").read_text())["rows"]
    assert (row["benchmark"], row["headline"]) == ("continuation", False)
    for name, cell in row["scores"].items():
        [result] = json.loads((out / name / "results.json").read_text())["results"]
        assert cell["value"] == next(s["value"] for s in result["scores"]["model"] if s["metric"] == row["metric"])
    assert "\n| share of frames equal to the one before (codes)" in (out / "comparison.md").read_text()
    assert "|" not in capsys.readouterr().out.split("page:")[-2]  # no table without columns
    with pytest.raises(UsageError, match=r"^generation: .*no decoder"):  # of one model, before any work
        main(config(root, model="runs/good/final", benchmarks="continuation,generation", out=str(out / "one")))
    assert not (out / "one").exists()


def test_a_difference_is_that_of_the_items_one_by_one(root, models):
    """Accuracy by hand, from the tables of likelihoods and the gold file."""
    main(config(root, model=["runs/good/final", "runs/bad/final"], benchmarks="swuggy", baselines="no",
                convention="mean"))  # fmt: skip
    out = root.parent / "out"
    gold = pd.read_csv(root / "lexical/dev/gold.csv")
    by_id = {}
    for name in ("good", "bad"):
        table = pd.read_parquet(out / name / "likelihoods/swuggy-dev-model.parquet").set_index("item")
        rows = gold.assign(score=(table.log_prob_nats / table["count"])[gold.filename].to_numpy())
        words = rows[rows.correct == 1].set_index(["id", "voice"]).score
        others = rows[rows.correct == 0].set_index(["id", "voice"]).score
        margin = (words - others).round(9)
        by_id[name] = ((margin > 0) + 0.5 * (margin == 0)).groupby("id").mean()
    test = next(t for t in json.loads((out / "comparison.json").read_text())["tests"] if t["name"] == "all")
    differences = by_id["bad"] - by_id["good"]
    assert test["difference"] == pytest.approx(differences.mean())
    assert differences.mean() < 0
    assert (test["better"], test["worse"]) == ((differences > 0).sum(), (differences < 0).sum())
    assert test["count"] == len(differences)
    for failed in (True, False):  # what an earlier run left is no result of this one
        good = Compared("good", out / "good", find_convention("mean"), frozenset(["swuggy"] * failed))
        assert (good.result(SimpleNamespace(name="swuggy", split="dev")) is None) == failed


def test_pairs_of_which_a_model_could_score_one_item_only_are_compared_with_none(tmp_path):
    pairs = [MinimalPair(f"{name}+", f"{name}-", name) for name in "ab"]
    benchmark = SimpleNamespace(name="x", split="dev", all_pairs=pairs,
                                subsets=lambda pairs: [Subset("all", "", (tuple(pairs), ()))])  # fmt: skip
    known = {"one": {"a+": 1.0, "a-": 0.0, "b+": 0.0}, "two": {"a+": 0.0, "a-": 1.0, "b+": 1.0, "b-": 0.0}}
    one, two = (Compared(name, tmp_path, find_convention("mean")) for name in known)
    decisions = comparison._Decisions(benchmark, [(model, known[model.name]) for model in (one, two)])
    [test] = comparison._tests(benchmark, one, two, decisions, 100, 0)
    assert (test["count"], test["difference"], test["worse"]) == (1, -1.0, 1)


def test_another_cache_is_used_by_later_runs(root, models, tmp_path, monkeypatch):
    cache = str(tmp_path / "cache")
    main(config(root, model="runs/good/final", benchmarks="swuggy", baselines="no", cache=cache))
    record = json.loads((tmp_path / "out/results.json").read_text())
    assert record["results"][0]["details"]["tokens"].startswith(cache)
    assert not (tmp_path / "out/tokens").exists()
    monkeypatch.setattr("eval.tokens._tokenize", lambda *_: pytest.fail("tokenized again"))
    out = str(tmp_path / "out2")
    main(config(root, model="runs/bad/final", benchmarks="swuggy", baselines="no", cache=cache, out=out))


def test_what_was_scored_is_not_scored_again(root, models, monkeypatch):
    main(config(root, model="runs/good/final", benchmarks="swuggy"))
    first = scores(root.parent / "out", "swuggy")
    monkeypatch.setattr(NoisyLM, "score_codes", lambda *_: pytest.fail("scored again"))
    main(config(root, model="runs/good/final", benchmarks="swuggy"))
    assert scores(root.parent / "out", "swuggy") == first


def test_models_follow_each_other_on_the_command_line():
    args = join_list(["--model", "a", "b/final", "--benchmarks", "swuggy", "--out", "o"], "--model")
    assert args == ["--model", '["a", "b/final"]', "--benchmarks", "swuggy", "--out", "o"]
    assert parse_config(EvalConfig, args).models == ["a", "b/final"]
    one = join_list(["--benchmarks", "swuggy", "--out", "o", "--model", "a"], "--model")
    assert parse_config(EvalConfig, one).models == ["a"]
    assert parse_config(EvalConfig, [*one[:-1], "runs/1e5/final"]).models == ["runs/1e5/final"]


def test_every_model_has_a_name_of_its_own():
    assert name_models(["runs/x/final", "slprl/slam"]) == {"x": "runs/x/final", "slam": "slprl/slam"}
    twice = name_models(["a/x/final", "b/x/final", "y"])
    assert list(twice.values()) == ["a/x/final", "b/x/final", "y"]
    assert list(twice) == ["a-x-final", "b-x-final", "y"]
    with pytest.raises(UsageError, match="each once"):
        name_models(["a", "a"])


def test_a_model_that_is_none_or_has_other_codebooks_is_refused_before_the_first_is_scored(root, monkeypatch, tmp_path):
    monkeypatch.setattr("slm.spoken_lm.load_lm", lambda *_: pytest.fail("loaded a model"))
    with pytest.raises(UsageError, match=r"no model at .*nothing"):
        main(config(root, model=[str(tmp_path / "nothing"), str(tmp_path / "neither")], benchmarks="swuggy"))
    save_published(tmp_path / "one")
    with pytest.raises(UsageError, match=r"--model .*one: .*: 2 weights for 1 codebooks"):
        main(config(root, model=[str(tmp_path / "one"), str(tmp_path / "two")], benchmarks="swuggy",
                    conventions="weighted-3:1-mean"))  # fmt: skip


def save(folder: Path, seed: int) -> Path:
    tokenizer = TOKENIZERS.create("codec2-700c")
    record = ModelRecord(tokenizer.spec, "flat")
    lm = build_causal_lm({**TINY_BACKBONE, "max_position_embeddings": 1024}, record.make_pattern(), seed)
    codes = [(c.codes % 16, c.codes % 16) for c in markov_codes(ArithmeticTokenizer(4), 2)]
    folder.mkdir(parents=True)
    save_model(folder, lm, record, CodeStatistics.measure(Units(tokenizer.spec.codebook_sizes), codes))
    return folder


def test_a_published_model_is_scored_through_the_tokenizer_that_it_declares(root, monkeypatch):
    """Results and tokens go by the tokenizer that was found; there are no counts for a unigram model."""
    found = ArithmeticTokenizer(1, codebook_size=UNITS)
    monkeypatch.setattr("slm.tokenizers._of_model.load_tokenizer", lambda *_, **__: found)
    plain = save_published(root.parent / "slam")
    main(config(root, model=str(root.parent / "slam"), benchmarks="swuggy", baselines="yes", convention="slamkit"))
    out = root.parent / "out"
    record = json.loads((out / "results.json").read_text())
    assert record["tokenizer"]["fingerprint"] == found.spec.fingerprint
    assert set(record["results"][0]["scores"]) == {"model", "untrained"}
    table = pd.read_parquet(out / "likelihoods/swuggy-dev-model.parquet").set_index("item")
    codes = {c.id: c.codes for c in CodeStore(next((out / "tokens").glob("swuggy-dev-*/")))}
    for item, row in table.iterrows():
        expected = log_probs(plain, codes[item])
        assert row.log_prob_nats + row.eos_log_prob_nats == pytest.approx(expected.sum(), abs=1e-4)
        assert row["count"] + row.eos_count == len(expected)


@pytest.mark.thorough
def test_two_processes_find_what_one_finds(tmp_path):
    """The real command on real checkpoints: both score, one writes."""
    pytest.importorskip("pycodec2")
    data = write_lexical(tmp_path / "data", random_lexical(8, 1, seed=2))
    models = [str(save(tmp_path / f"m{seed}", seed)) for seed in (0, 1)]
    arguments = ["--model", *models, "--benchmarks", "swuggy", "--data", str(data), "--device", "cpu",
                 "--baselines", "no", "--bootstrap", "20"]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    log = tmp_path / "log"
    command = [sys.executable, "-m", "tests.eval.two_processes", str(free_port()), str(log), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--out", str(two)], cwd=Path(__file__).parents[2], env=environment, timeout=240)
    assert done.returncode == 0, Path(f"{log}-0").read_text() + Path(f"{log}-1").read_text()
    main(parse_config(EvalConfig, join_list([*arguments, "--out", str(one)], "--model")))
    a, b = (json.loads((out / "comparison.json").read_text()) for out in (one, two))
    assert [m["fingerprint"] for m in a["models"]] == [m["fingerprint"] for m in b["models"]]
    for name in ("m0", "m1"):
        x, y = (pd.read_parquet(out / name / "likelihoods/swuggy-dev-model.parquet") for out in (one, two))
        assert x.item.equals(y.item)
        assert np.allclose(x.log_prob_nats, y.log_prob_nats, atol=1e-4)
        assert len(list((two / name / "scored").glob("*/part-*"))) == 2  # one by each
    tokens = [next((out / "tokens").glob("swuggy-dev-*/")) for out in (one, two)]
    assert tokens[0].name == tokens[1].name
    for c, d in zip(*map(CodeStore, tokens), strict=True):
        assert (c.id, c.codes.tolist()) == (d.id, d.codes.tolist())
    assert {log.name for log in tokens[1].glob("log*.jsonl")} == {"log-0-of-2.jsonl", "log-1-of-2.jsonl"}
    assert "results:" in Path(f"{log}-0").read_text()
    assert "results:" not in Path(f"{log}-1").read_text()


@pytest.mark.thorough
@pytest.mark.parametrize("fault", ["loading-1", "tokenizing-1", "scoring-1", "writing-0"])
def test_what_fails_in_one_process_fails_in_both_and_the_rest_goes_on(tmp_path, fault):
    """Neither waits for the other for ever: one benchmark of one model, or one model, is not evaluated."""
    pytest.importorskip("pycodec2")
    status, logs, out = run_two(tmp_path, fault)
    assert status == "1 1\n"
    rank = int(fault[-1])
    assert "out of memory (MemoryError)" in logs[0]
    assert logs[0].count("cannot be evaluated") == 1
    assert ("process 1 of 2: out of memory" in logs[0]) == (rank == 1)
    compared = json.loads((out / "comparison.json").read_text())
    assert [(f["model"], f["benchmark"]) for f in compared["failures"]] == [
        ("m0", "" if fault == "loading-1" else "swuggy")
    ]
    assert [r["benchmark"] for r in json.loads((out / "m1/results.json").read_text())["results"]] == [
        "swuggy",
        "sblimp",
    ]
    if fault != "loading-1":
        record = json.loads((out / "m0/results.json").read_text())
        assert [r["benchmark"] for r in record["results"]] == ["sblimp"]
        assert [f["benchmark"] for f in record["failed"]] == ["swuggy"]


@pytest.mark.thorough
@pytest.mark.parametrize("rank", [0, 1])
def test_who_waits_for_a_process_that_is_gone_ends_in_one_line(tmp_path, rank):
    pytest.importorskip("pycodec2")
    status, logs, out = run_two(tmp_path, f"killed-{rank}")
    assert sorted(status.split()) == ["-9", "1"]
    assert "error: a process beside this one has ended" in logs[1 - rank]
    assert "Traceback" not in logs[1 - rank]
    assert not (out / "comparison.json").exists()


def run_two(tmp_path: Path, fault: str) -> tuple[str, list[str], Path]:
    """Two models on two benchmarks in two processes -> both exit statuses, what each said, and OUT."""
    data = write_syntactic(
        write_lexical(tmp_path / "data", random_lexical(8, 1, seed=2)), random_syntactic(4, 1, seed=3)
    )
    models = [str(save(tmp_path / f"m{seed}", seed)) for seed in (0, 1)]
    log, out = tmp_path / "log", tmp_path / "out"
    command = [sys.executable, "-m", "tests.eval.two_processes", str(free_port()), str(log), "--model", *models,
               "--benchmarks", "swuggy,sblimp", "--data", str(data), "--device", "cpu", "--baselines", "no",
               "--bootstrap", "20", "--out", str(out)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FAULT": fault}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, timeout=240, capture_output=True, text=True
    )
    return done.stdout, [Path(f"{log}-{rank}").read_text() for rank in (0, 1)], out
