"""train_lm.py for real: it learns, resumes to the bit after kill -9, agrees over processes, refuses what is wrong."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.numpy import load_file

import train_lm
from slm.errors import UsageError
from slm.spoken_lm import load_lm
from slm.training.config import MixtureConfig, ModelConfig, OptimizerConfig, PatternConfig, SamplesConfig, TrainConfig
from slm.training.metrics import read_metrics
from tests.fakes import TINY_BACKBONE, ArithmeticTokenizer, markov_codes, random_codes, write_corpus
from tests.training.runs import ENV, ROOT, TORCHRUN, as_arguments, config, losses, reset_accelerate, run


@pytest.mark.parametrize(
    ("corpus", "vocabulary", "changes"),
    [
        ("two", 19, {}),
        ("two", 35, {"pattern": PatternConfig("flat"), "codebook_weights": [2.0, 1.0]}),
        ("one", 19, {"pattern": PatternConfig("flat"), "dedup": True}),
    ],
)
def test_it_learns_and_leaves_a_model_that_scores(corpora, tmp_path, capsys, corpus, vocabulary, changes):
    train_lm.main(config(corpora[corpus], tmp_path / "run", steps=80, **changes))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  held out")]
    assert said
    assert all(("durations not counted" in line) == bool(changes.get("dedup")) for line in said)
    logged = read_metrics(tmp_path / "run" / "metrics.jsonl")
    first, last = logged[0]["train_nats_per_code"], logged[-2]["train_nats_per_code"]
    assert first == pytest.approx(math.log(vocabulary), rel=0.1)
    assert last < 0.6 * first
    assert logged[-1]["eval_bits_per_s"] > 0
    lm = load_lm(tmp_path / "run" / "final")
    books = lm.spec.num_codebooks
    regular = markov_codes(ArithmeticTokenizer(books), 8, seed=9)
    trained = sum(s.log_probs.sum() for s in lm.score_codes(regular))
    untrained = sum(s.log_probs.sum() for s in lm.untrained(0).score_codes(regular))
    assert trained > 0.8 * untrained
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-0000070", "step-0000080"]


@pytest.mark.parametrize("valid_steps_only", [False, True])
def test_evaluation_equals_scoring_document_by_document(corpora, tmp_path, valid_steps_only):
    """The packed, batched evaluation of training and SpokenLM's own scores are the same number."""
    from slm.data.documents import hold_out
    from slm.data.store import CodeStore

    pattern = PatternConfig("delay", {"valid_steps_only": valid_steps_only})
    train_lm.main(config(corpora["two"], tmp_path / "run", pattern=pattern))
    store = CodeStore(corpora["two"])
    _, held = hold_out(store.ids, 0.1)
    scores = load_lm(tmp_path / "run" / "final").score_codes([store[int(i)] for i in held])
    nats = -sum(s.log_probs.sum() + s.eos_log_probs.sum() for s in scores)
    bits_per_s = nats / math.log(2) / sum(s.duration_s for s in scores)
    logged = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert logged["eval_bits_per_s"] == pytest.approx(bits_per_s, rel=1e-5)


@pytest.mark.parametrize("accumulation", [2, 4, 8])
def test_accumulation_does_not_change_the_run(corpora, tmp_path, accumulation):
    train_lm.main(config(corpora["two"], tmp_path / "whole", steps=6))
    rows = 8 // accumulation
    train_lm.main(config(corpora["two"], tmp_path / "parts", steps=6, rows_per_batch=rows, accumulation=accumulation))
    for (step, key, a), (_, _, b) in zip(losses(tmp_path / "whole"), losses(tmp_path / "parts"), strict=True):
        assert a == pytest.approx(b, rel=2e-4), (step, key)


def kill_after(command: list[str], run_dir: Path, steps: int) -> None:
    """Start, wait until `steps` steps are logged, then SIGKILL the process and all that it started."""
    process = subprocess.Popen(command, cwd=ROOT, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        done = read_metrics(run_dir / "metrics.jsonl")
        if done and done[-1]["step"] >= steps:
            break
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be killed"
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        one.send_signal(signal.SIGKILL)
    process.wait()


@contextmanager
def one_thread():
    """As the command has in these tests: sums over several are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("processes", "kills"),
    [(1, [16]), *(pytest.param(n, kills, marks=pytest.mark.thorough) for n, kills in ((1, [8, 18, 28]), (2, [16])))],
)
def test_kill_9_and_start_again_gives_the_same_losses(corpora, tmp_path, processes, kills):
    start = TORCHRUN if processes == 2 else [sys.executable]
    dropout = {**TINY_BACKBONE, "attention_dropout": 0.1}  # so that random states matter too
    settings = {"steps": 48, "save_every": 8, "eval_every": 24, "rows_per_batch": 8 // processes, "ema_decay": 0.9,
                "model": ModelConfig(backbone=dropout)}  # fmt: skip
    undisturbed = config(corpora["two"], tmp_path / "undisturbed", **settings)
    if processes == 1:
        with one_thread():
            train_lm.main(undisturbed)
    else:
        assert run([*start, "train_lm.py", *as_arguments(undisturbed, tmp_path / "a.yaml")]).returncode == 0
    disturbed = config(corpora["two"], tmp_path / "killed", **settings)
    killed = [*start, "train_lm.py", *as_arguments(disturbed, tmp_path / "b.yaml")]
    for steps in kills:
        kill_after(killed, tmp_path / "killed", steps)
    finished = run(killed)
    assert finished.returncode == 0, finished.stderr
    assert "resuming" in finished.stdout
    assert losses(tmp_path / "killed") == losses(tmp_path / "undisturbed")
    weights = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("killed", "undisturbed")]
    assert weights[0] == weights[1]


def test_another_division_of_the_same_step_resumes_the_run_and_another_step_does_not(corpora, tmp_path):
    """rows_per_batch x accumulation may be divided otherwise; their product may not change."""
    train_lm.main(config(corpora["two"], tmp_path / "whole", steps=20))
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-0000020")
    shutil.rmtree(tmp_path / "parts" / "final")
    reset_accelerate()
    train_lm.main(config(corpora["two"], tmp_path / "parts", steps=20, rows_per_batch=4, accumulation=2))
    for (step, key, a), (_, _, b) in zip(losses(tmp_path / "whole"), losses(tmp_path / "parts"), strict=True):
        assert a == pytest.approx(b, rel=2e-4), (step, key)
    reset_accelerate()
    with pytest.raises(UsageError, match="rows_per_step: 8 there, 16 now"):
        train_lm.main(config(corpora["two"], tmp_path / "parts", steps=20, accumulation=2))


def test_other_clips_under_the_same_name_are_another_run(corpora, tmp_path):
    tokenizer = ArithmeticTokenizer(2)
    corpus = write_corpus(tmp_path / "corpus", markov_codes(tokenizer, 60))
    train_lm.main(config(str(corpus), tmp_path / "run", steps=2))
    shutil.rmtree(corpus)
    renamed = [replace(c, id=f"other-{c.id}") for c in markov_codes(tokenizer, 60)]
    write_corpus(corpus, renamed)
    with pytest.raises(UsageError, match="train clips"):
        train_lm.main(config(str(corpus), tmp_path / "run", steps=2))


def test_what_a_kill_left_behind_is_removed_and_no_checkpoint(corpora, tmp_path):
    """Half-written files at each place where a kill can leave them: none is taken for a checkpoint, all are gone."""
    out = tmp_path / "run"
    out.mkdir()
    (out / ".run.json.tmp-999").write_text("{")
    train_lm.main(config(corpora["two"], out, steps=4, keep_checkpoints=1))
    shutil.copytree(out / "checkpoints/step-0000004", out / "checkpoints/step-0000002")  # no time to remove it
    for name in ("checkpoints/.step-0000010.tmp", "checkpoints/.step-0000005.old", ".final.tmp-999",
                 "samples/.step-0000004.tmp-999"):  # fmt: skip
        (out / name).mkdir(parents=True)
    reset_accelerate()
    train_lm.main(config(corpora["two"], out, steps=4, keep_checkpoints=1))
    assert list(out.rglob(".*")) == []
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-0000004"]


@pytest.mark.parametrize("name", ["optimizer.bin", "model.safetensors", "progress.json", "random_states_0.pkl"])
def test_a_checkpoint_that_was_cut_is_put_aside_for_the_one_before(corpora, tmp_path, capsys, name):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = {"steps": 6, "save_every": 2, "eval_every": 6, "keep_checkpoints": 2}
    train_lm.main(config(corpora["two"], whole, **settings))
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "final")
    (cut / "checkpoints" / "damaged-step-0000006" / "of an earlier time").mkdir(parents=True)
    os.truncate(cut / "checkpoints" / "step-0000006" / "state" / name, 50)
    reset_accelerate()
    train_lm.main(config(corpora["two"], cut, **settings))
    said = capsys.readouterr().out
    assert f"state/{name}" in said
    assert "going on from step-0000004" in said
    assert losses(cut) == losses(whole)
    assert sorted(p.name for p in (cut / "checkpoints").iterdir()) == [
        "damaged-step-0000006", "step-0000004", "step-0000006"
    ]  # fmt: skip
    for folder in (cut / "checkpoints").glob("step-*"):
        (folder / "state" / name).unlink()
    shutil.rmtree(cut / "final")
    reset_accelerate()
    with pytest.raises(UsageError, match="no other to go on from"):
        train_lm.main(config(corpora["two"], cut, **settings))


def test_evaluation_data_of_its_own(corpora, tmp_path):
    held = write_corpus(tmp_path / "held", markov_codes(ArithmeticTokenizer(2), 10, seed=5))
    train_lm.main(config(corpora["two"], tmp_path / "run", steps=4, eval_data=str(held)))
    scores = load_lm(tmp_path / "run" / "final").score_codes(markov_codes(ArithmeticTokenizer(2), 10, seed=5))
    nats = -sum(s.log_probs.sum() + s.eos_log_probs.sum() for s in scores)
    logged = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["eval_bits_per_s"]
    assert logged == pytest.approx(nats / math.log(2) / sum(s.duration_s for s in scores), rel=1e-5)


def test_bf16_autocast_trains_and_is_another_run_than_fp32(corpora, tmp_path):
    train_lm.main(config(corpora["two"], tmp_path / "run", steps=10, precision="bf16", rows_per_batch=4))
    logged = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert logged[9]["train_nats_per_code"] < logged[0]["train_nats_per_code"] - 0.3
    weights = load_file(tmp_path / "run" / "final" / "model.safetensors")
    assert {str(w.dtype) for w in weights.values()} == {"float32"}
    reset_accelerate()
    with pytest.raises(UsageError, match="precision: 'bf16' there, 'no' now"):
        train_lm.main(config(corpora["two"], tmp_path / "run", steps=10, precision="fp32", rows_per_batch=4))


def test_every_shipped_configuration_is_valid():
    from slm.config import parse_config

    files = [file for folder in ("train", "quickstart", "study") for file in ROOT.glob(f"configs/{folder}/*.yaml")]
    assert len(files) >= 4
    for file in files:
        parse_config(TrainConfig, ["--config", str(file), "--data", "x", "--out", "y"])


def test_the_card_has_its_figures_though_the_run_was_killed_before_its_end(corpora, tmp_path):
    c = config(corpora["two"], tmp_path / "run", steps=4)
    train_lm.main(c)
    card = (tmp_path / "run" / "final" / "README.md").read_text()
    shutil.rmtree(tmp_path / "run" / "final")
    reset_accelerate()
    train_lm.main(c)
    assert (tmp_path / "run" / "final" / "README.md").read_text() == card
    assert "eval_nats_per_code" in card


def test_a_finished_run_is_left_alone(corpora, tmp_path, capsys, caplog):
    tied = ModelConfig(backbone={**TINY_BACKBONE, "tie_word_embeddings": True})
    c = config(corpora["two"], tmp_path / "run", steps=4, model=tied)
    train_lm.main(c)
    assert "shared tensor" not in caplog.text
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "final").iterdir()}
    reset_accelerate()
    train_lm.main(c)
    assert "finished: nothing to do" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "final").iterdir()}
    weights = tmp_path / "run" / "final" / "model.safetensors"
    weights.unlink()
    reset_accelerate()
    train_lm.main(c)
    assert weights.is_file()  # made again of the last checkpoint


def test_another_run_in_the_same_folder_is_refused(corpora, tmp_path):
    train_lm.main(config(corpora["two"], tmp_path / "run", steps=2))
    with pytest.raises(UsageError, match=r"holds another run \(seed: 0 there, 1 now\)"):
        train_lm.main(config(corpora["two"], tmp_path / "run", steps=2, seed=1))
    other = OptimizerConfig(lr=1e-3, warmup_steps=5)
    with pytest.raises(UsageError, match=r"holds another run \(optimizer.lr: 0.01 there, 0.001 now\)"):
        train_lm.main(config(corpora["two"], tmp_path / "run", steps=2, optimizer=other))
    for damaged in ("", "[1]"):
        (tmp_path / "run" / "run.json").write_text(damaged)
        with pytest.raises(UsageError, match=r"run\.json is damaged"):
            train_lm.main(config(corpora["two"], tmp_path / "run", steps=2))
    (tmp_path / "mine").mkdir()
    for name in ("thesis.tex", ".thesis.tex.tmp"):
        (tmp_path / "mine" / name).write_text("do not touch")
    with pytest.raises(UsageError, match="not empty"):
        train_lm.main(config(corpora["two"], tmp_path / "mine"))
    assert len(list((tmp_path / "mine").iterdir())) == 2


def test_what_does_not_fit_is_refused_before_anything_is_written(corpora, tmp_path):
    out = tmp_path / "run"
    silent = str(write_corpus(tmp_path / "silent", random_codes(ArithmeticTokenizer(2), [0, 0])))
    for changes, message in [
        ({"eval_data": corpora["other"]}, "two different tokenizers"),
        ({"eval_data": silent}, "silent leaves no clip to evaluate on"),
        ({"data": silent, "eval_fraction": 0.0}, "silent leaves no clip to train on"),
        ({"dedup": True}, "dedup takes one codebook"),
        ({"codebook_weights": [1.0]}, "codebook_weights: 1 given for 2"),
        ({"pattern": PatternConfig("delya")}, "did you mean 'delay'"),
        ({"pattern": PatternConfig("delay", {"delays": [0, 1, 2]})}, "2 codebooks need as many"),
        ({"row_length": 1024}, "beyond the model's max_position_embeddings"),
        ({"row_length": 1}, "cannot hold one frame"),
        ({"row_length": 3, "pattern": PatternConfig("delay", {"valid_steps_only": True})}, "one frame .* it takes 4"),
        ({"data": str(tmp_path / "nowhere")}, "no such corpus"),
        ({"data": "s3://bucket/corpus"}, "the corpus s3:/bucket/corpus is a URL"),
    ]:
        with pytest.raises(UsageError, match=message):
            train_lm.main(config(**{"data": corpora["two"], "out": out, **changes}))
        assert not out.exists(), message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": OptimizerConfig(lr=-1)}, "lr must not be below 0"),
        ({"optimizer": OptimizerConfig(beta2=1.0)}, "beta2 must be in"),
        ({"codebook_weights": [0.0, 0.0]}, "nor all 0"),
        ({"codebook_weights": [-1.0, 1.0]}, "must not be below 0"),
        ({"log_every": 7}, "multiple of log_every"),
        ({"divergence_nats": -1.0}, "divergence_nats must not be below 0"),
        ({"optimizer": OptimizerConfig(lr=math.nan)}, "optimizer.lr must be a finite number, not nan"),
        ({"codebook_weights": [1.0, math.inf]}, "codebook_weights must be a finite number, not inf"),
        ({"seed": -1}, "seed must be in"),
        ({"budget": "1e400 steps"}, "above 0 and finite"),
        ({"samples": SamplesConfig(every=5, count=0)}, "samples.count must be above 0"),
        ({"samples": SamplesConfig(every=5), "eval_fraction": 0.0}, "continues held-out clips"),
        ({"mixture": MixtureConfig(weights=[1.0, 2.0])}, "2 given for 1 corpora"),
        ({"mixture": MixtureConfig(weights=[1.0], temperature=2.0)}, "give one of weights, temperature"),
    ],
)
def test_wrong_values_are_refused_at_once(changes, message):
    with pytest.raises(UsageError, match=message):
        config("x", Path("y"), **changes)


def test_all_complaints_come_at_once():
    with pytest.raises(UsageError, match=r"steps must be at least 1.*either model\.backbone"):
        TrainConfig(data="x", out="y", steps=0)


def test_an_unfinished_corpus_is_refused(corpora, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(corpora["two"], half)
    (half / "state.json").unlink()
    with pytest.raises(UsageError, match="unfinished: run the same tokenize_corpus"):
        train_lm.main(config(str(half), tmp_path / "run"))


def test_wrong_use_on_the_command_line_is_one_line_and_status_2(tmp_path):
    for arguments, message in [
        (["--data", "x", "--out", "y", "--optimiser.lr", "1"], "did you mean 'optimizer.lr'"),
        (["--data", "x", "--out", "y", "--model.backbone", "{model_type: llama}"], "no such corpus: x"),
    ]:
        made = run([sys.executable, "train_lm.py", *arguments])
        assert made.returncode == 2
        assert message in made.stderr
        assert made.stderr.strip().count("\n") == 0
