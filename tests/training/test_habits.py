"""What makes a run pleasant and safe: budgets, averages, samples, a way to leave, reports of trouble, a dry run."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import train_lm
from slm.errors import UsageError
from slm.samples import Sampler
from slm.spoken_lm import load_lm
from slm.training import checkpoint, throughput, watch
from slm.training.budget import Budget, Progress, duration_text
from slm.training.checkpoint import Checkpoints, list_checkpoints
from slm.training.config import MixtureConfig, ModelConfig, OptimizerConfig, PatternConfig, SamplesConfig
from slm.training.ema import MovingAverage
from slm.training.metrics import read_metrics
from slm.training.setup import load_data, make_loader, make_pattern
from slm.types import AudioClip
from tests.fakes import TINY_BACKBONE, ArithmeticTokenizer, markov_codes, random_codes, write_corpus
from tests.training.runs import config, losses, reset_accelerate


def steps_done(run) -> int:
    return read_metrics(run / "metrics.jsonl")[-1]["step"]


@pytest.mark.parametrize("budget", ["3000 tokens", "30 audio-s", "0.7 epochs", "4e8 flops"])
def test_a_budget_ends_the_run_and_the_schedule(corpora, tmp_path, budget):
    train_lm.main(config(corpora["two"], tmp_path / "run", budget=budget, eval_fraction=0.0, rows_per_batch=2))
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    state = tmp_path / "run" / "checkpoints" / f"step-{len(lines):07d}" / "state" / "progress.json"
    progress = json.loads(state.read_text())
    field = {"tokens": "codes", "audio-s": "audio_s", "epochs": "epochs", "flops": "flops"}[budget.split()[1]]
    amount = float(budget.split()[0])
    assert progress[field] >= amount > progress[field] * (len(lines) - 1.5) / len(lines)
    assert lines[-1]["lr"] == pytest.approx(1e-3)  # final_lr_ratio of the peak
    assert max(line["lr"] for line in lines) <= 1e-2


def test_a_budget_of_time_ends_the_run_when_it_is_over_resumed_or_not(corpora, tmp_path):
    run, falling = tmp_path / "run", OptimizerConfig(lr=1e-2, warmup_steps=0)
    c = config(corpora["two"], run, budget="1 s", eval_fraction=0.0, save_every=1, optimizer=falling)
    train_lm.main(c)
    steps = steps_done(run)
    assert steps >= 2
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoints" / f"step-{steps:07d}")
    reset_accelerate()
    train_lm.main(c)
    rates = [line["lr"] for line in read_metrics(run / "metrics.jsonl")]
    assert len(rates) >= steps
    assert rates == sorted(rates, reverse=True)  # what was spent before is spent
    assert rates[-1] == pytest.approx(1e-3)
    steps = steps_done(run)
    reset_accelerate()
    train_lm.main(c)
    assert steps_done(run) == steps


def test_between_two_logs_a_run_asks_no_device_for_a_number(corpora, tmp_path, monkeypatch):
    """Nor does it hand over one by `new_tensor`, which waits as well: numbers are read where they are logged."""
    asked = []
    for name in ("new_tensor", "item", "tolist", "__bool__", "__float__"):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, *a, _n=name, _f=plain: asked.append(_n) or _f(self, *a))
    model = ModelConfig(backbone=TINY_BACKBONE, attention="sdpa")  # that by document reads where each begins
    settings = {"model": model, "eval_fraction": 0.0, "save_every": 90, "log_every": 90}
    counts = []
    for steps in (2, 5):
        asked.clear()
        train_lm.main(config(corpora["two"], tmp_path / f"{steps}", steps=steps, **settings))
        counts.append(sorted(asked))
        reset_accelerate()
    assert counts[0] == counts[1] != []


def test_codes_and_seconds_of_a_run_are_those_of_its_corpus(corpora, tmp_path):
    train_lm.main(config(corpora["two"], tmp_path / "run", budget="1 epoch", eval_fraction=0.0, rows_per_batch=1))
    state = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1] / "state" / "progress.json"
    progress, corpus = json.loads(state.read_text()), markov_codes(ArithmeticTokenizer(2), 120)
    assert progress["codes"] == sum(c.codes.size for c in corpus)
    assert progress["audio_s"] == pytest.approx(sum(c.duration_s for c in corpus))


def test_rates_leave_out_what_is_no_training(monkeypatch):
    times = iter([0.0, 3.0, 9.0, 10.0, 12.0])  # made, aside from 3 to 9, read, read
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(times))
    measured = throughput.Throughput(torch.device("cpu"), 100.0, Budget(100.0, "steps"), Progress())
    with measured.aside():
        pass
    first = measured.read(Progress(steps=10, codes=80, audio_s=40.0, flops=200.0))
    then = measured.read(Progress(steps=20, codes=160, audio_s=80.0, flops=400.0))
    told = ("codes_per_s", "times_real_time", "mfu", "eta_s")
    assert [first[name] for name in told] == [20.0, 10.0, 0.5, 90.0]
    assert [then[name] for name in told] == [40.0, 20.0, 1.0, 16.0]


def test_the_ceiling_is_the_best_of_a_few_products_and_memory_what_the_system_says(monkeypatch):
    cpu = torch.device("cpu")
    times = iter([0.0, 3.0, 10.0, 12.0, 20.0, 24.0, 30.0, 33.0])  # begun and done: the second took 2 s
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(times))
    assert throughput.matmul_flops_per_s(cpu, torch.float32) == 512**3  # of a multiplication and an addition each
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert throughput.peak_memory_gb(cpu) == pytest.approx(int(peak[1]) / 2**20, rel=0.05)


def test_a_moving_average_is_the_sum_it_is_said_to_be():
    model = torch.nn.Linear(1, 1, bias=False)
    seen, average = [model.weight.item()], MovingAverage(model, 0.75)
    for value in (1.0, -2.0, 5.0):
        model.weight.data.fill_(value)
        seen.append(value)
        average.update()
    expected = seen[0]
    for value in seen[1:]:
        expected = 0.75 * expected + 0.25 * value
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 5.0


def test_a_moving_average_of_16_bit_weights_moves():
    model = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    model.weight.data.fill_(0.02)
    average = MovingAverage(model, 0.999)
    model.weight.data.fill_(0.05)
    live = model.weight.item()
    for _ in range(1000):
        average.update()
    with average.applied():
        assert model.weight.item() == pytest.approx(0.02 + 0.03 * (1 - 0.999**1000), rel=0.01)
    assert model.weight.item() == live


def test_the_average_is_what_is_saved_and_evaluated(corpora, tmp_path):
    for name, decay in [("raw", 0.0), ("average", 0.9)]:
        reset_accelerate()
        train_lm.main(config(corpora["two"], tmp_path / name, steps=12, eval_every=12, ema_decay=decay))
    raw, average = ({(s, k): v for s, k, v in losses(tmp_path / name)} for name in ("raw", "average"))
    assert raw[12, "train_nats_per_code"] == average[12, "train_nats_per_code"]
    assert raw[12, "eval_nats_per_code"] < average[12, "eval_nats_per_code"] - 0.1  # early on, an average lags behind
    weights = [load_file(tmp_path / name / "final" / "model.safetensors") for name in ("raw", "average")]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_checkpoints_cost_less_than_a_fiftieth_of_the_time(monkeypatch):
    now, took = [0.0], [7.0]
    counted: list[float] = []

    def statistics() -> None:  # of the whole corpus, which takes long, once
        now[0] += 0 if counted else 90.0
        counted.append(now[0])

    accelerator: Any = SimpleNamespace(is_main_process=True)
    kept = Checkpoints(accelerator, None, None, None, statistics, None, 2, clock=lambda: now[0])  # type: ignore[arg-type]
    monkeypatch.setattr(kept, "_write", lambda progress: now.__setitem__(0, now[0] + took[0]))
    spent, saves_at = 0.0, []
    while now[0] < 24 * 3600:
        now[0] += 0.5  # a step
        if kept.is_due():
            saves_at.append(now[0])
            kept.save(None)
            spent, took[0] = spent + took[0], took[0] * 1.1 if len(saves_at) < 20 else 0.1
    assert saves_at[0] == 120
    assert np.diff(saves_at[:3]) == pytest.approx([90 + 61 * 7, 61 * 7.7], abs=1.0)
    assert np.diff(saves_at)[-5:] == pytest.approx([120.1] * 5, abs=1.0)  # never all the time
    assert spent / now[0] < 0.02


def test_a_full_disk_keeps_no_half_of_a_checkpoint(corpora, tmp_path, monkeypatch):
    def on_a_full_disk(folder: Path, *_: object) -> None:
        assert (folder / "state" / "optimizer.bin").is_file()
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_model", on_a_full_disk)
    monkeypatch.setattr("slm.files._takes_no_more", lambda folder: True)
    with pytest.raises(OSError, match="No space left") as caught:
        train_lm.main(config(corpora["two"], tmp_path / "run", steps=2, eval_every=2))
    folder = tmp_path / "run" / "checkpoints"
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(folder / "step-0000002"))
    assert list(folder.iterdir()) == []


def test_without_a_number_of_steps_time_decides_when_to_save(corpora, tmp_path, monkeypatch):
    settings = {"steps": 6, "eval_every": 6, "log_every": 2, "save_every": None, "keep_checkpoints": 9}
    train_lm.main(config(corpora["two"], tmp_path / "rare", **settings))
    reset_accelerate()
    monkeypatch.setattr(checkpoint, "FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(checkpoint, "TIMES_ITS_COST", 0)
    train_lm.main(config(corpora["two"], tmp_path / "often", **settings))
    steps = {name: [n for n, _ in list_checkpoints(tmp_path / name)] for name in ("rare", "often")}
    assert steps == {"rare": [6], "often": [2, 4, 6]}  # where it logs, and at the end
    assert losses(tmp_path / "rare") == losses(tmp_path / "often")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_leaves_and_the_run_goes_on_as_if_it_had_not(corpora, tmp_path, monkeypatch, number):
    c = config(corpora["two"], tmp_path / "left", steps=12, eval_every=12, save_every=12, log_every=2)
    before = signal.getsignal(number)
    original = watch.Trouble.see

    def see(self, values):
        if len(read_metrics(tmp_path / "left" / "metrics.jsonl")) == 2:
            os.kill(os.getpid(), number)
        return original(self, values)

    monkeypatch.setattr(watch.Trouble, "see", see)
    with pytest.raises(SystemExit) as left:
        train_lm.main(c)
    assert left.value.code == 143
    assert [p.name for p in (tmp_path / "left" / "checkpoints").iterdir()] == ["step-0000006"]
    monkeypatch.undo()
    reset_accelerate()
    train_lm.main(c)
    reset_accelerate()
    train_lm.main(config(corpora["two"], tmp_path / "whole", steps=12, eval_every=12, save_every=12, log_every=2))
    assert losses(tmp_path / "left") == losses(tmp_path / "whole")
    signal.signal(number, before)


def test_a_decoder_at_fault_does_not_end_the_training(tmp_path, capsys):
    (codes,) = random_codes(ArithmeticTokenizer(2), [5])
    sampler = object.__new__(Sampler)
    sampler.accelerator, sampler._decodes = SimpleNamespace(print=print), True
    sampler._tokenizer = SimpleNamespace(decode=lambda codes: AudioClip(codes.id, np.full(9, np.nan, np.float32), 100))
    for stem in "ab":
        sampler._write_one(tmp_path / stem, codes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "b.npy"]
    assert capsys.readouterr().out.count("samples are codes, not audio") == 1


def test_samples_are_continuations_of_held_out_clips(corpora, tmp_path, capsys):
    samples = SamplesConfig(every=4, count=2, prompt_s=0.2, seconds=0.3)
    train_lm.main(config(corpora["two"], tmp_path / "run", steps=8, samples=samples))
    folders = sorted((tmp_path / "run" / "samples").iterdir())
    assert [f.name for f in folders] == ["step-0000004", "step-0000008"]
    store = {c.id: c.codes for c in markov_codes(ArithmeticTokenizer(2), 120)}
    for file in folders[0].iterdir():
        assert file.suffix == ".npy"  # no tokenizer "arithmetic" can be loaded to decode with
        codes = np.load(file)
        assert 10 <= len(codes) <= 25
        assert (codes[:10] == store[file.stem[3:]][:10]).all()
        assert codes.max() < 16
    assert "samples are codes, not audio" in capsys.readouterr().out
    reset_accelerate()
    with pytest.raises(UsageError, match="the model has 512 positions"):
        train_lm.main(
            config(corpora["two"], tmp_path / "long", samples=SamplesConfig(every=4, prompt_s=0.2, seconds=11))
        )
    reset_accelerate()
    train_lm.main(config(corpora["two"], tmp_path / "without", steps=8))
    assert losses(tmp_path / "run") == losses(tmp_path / "without")  # they leave the run as it is


def test_several_corpora_are_mixed_as_told(corpora, tmp_path):
    tokenizer = ArithmeticTokenizer(2)
    small = str(write_corpus(tmp_path / "small", markov_codes(tokenizer, 12, seed=7)))
    mixture = MixtureConfig(weights=[1.0, 1.0])
    c = config([corpora["two"], small], tmp_path / "run", steps=6, mixture=mixture, eval_fraction=0.0)
    data = load_data(c)
    large, little = make_loader(c, data, make_pattern(c, data), 0, 1).epochs_at(60)
    sizes = [sum(len(codes.codes) + 3 for codes in markov_codes(tokenizer, n, seed=s)) for n, s in ((120, 0), (12, 7))]
    assert little / large == pytest.approx(sizes[0] / sizes[1], rel=0.15)  # as many rows of each
    train_lm.main(c)
    lm = load_lm(tmp_path / "run" / "final")
    assert lm.record.training["data"] == ["two", "small"]
    assert lm.record.training["rows_per_step"] == c.rows_per_batch * c.accumulation
    reset_accelerate()
    with pytest.raises(UsageError, match="two different tokenizers"):
        train_lm.main(config([corpora["two"], corpora["other"]], tmp_path / "no"))


def test_unit_bpe_goes_through_the_whole(corpora, tmp_path):
    from slm.units import UnitBPE

    corpus = [c.codes for c in markov_codes(ArithmeticTokenizer(2), 120)]
    UnitBPE.train(corpus, (16, 16), 60).save(tmp_path / "units.model")
    pattern = PatternConfig("flat")
    train_lm.main(
        config(corpora["two"], tmp_path / "run", bpe=str(tmp_path / "units.model"), pattern=pattern, steps=20)
    )
    lm = load_lm(tmp_path / "run" / "final")
    held = markov_codes(ArithmeticTokenizer(2), 3, seed=3)
    assert [len(s.log_probs) for s in lm.score_codes(held)] == [len(lm.record.units.apply(c.codes)) for c in held]
    assert sum(len(s.log_probs) for s in lm.score_codes(held)) < sum(c.codes.size for c in held)
    logged = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert logged[-2]["train_nats_per_code"] < 0.9 * logged[0]["train_nats_per_code"]


def test_unit_bpe_of_another_tokenizer_is_refused(corpora, tmp_path):
    from slm.units import UnitBPE

    codes = [c.codes for c in markov_codes(ArithmeticTokenizer(2), 20)]
    made_by = ArithmeticTokenizer(2).spec.fingerprint
    UnitBPE.train(codes, (16, 16), 60, tokenizer=made_by).save(tmp_path / "units.model")
    options = {"bpe": str(tmp_path / "units.model"), "pattern": PatternConfig("flat")}
    assert load_data(config(corpora["two"], tmp_path / "run", **options)).units.bpe.tokenizer == made_by
    with pytest.raises(UsageError, match="learned from codes of another tokenizer than"):
        load_data(config(corpora["other"], tmp_path / "run", **options))


def test_a_depth_transformer_trains_and_scores(corpora, tmp_path):
    model = ModelConfig(backbone=TINY_BACKBONE, depth={**TINY_BACKBONE, "num_hidden_layers": 1})
    train_lm.main(config(corpora["two"], tmp_path / "run", model=model, steps=20))
    logged = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert logged[-2]["train_nats_per_code"] < 0.9 * logged[0]["train_nats_per_code"]
    assert 0 < logged[-1]["eval_accuracy_1"] <= 1
    held = markov_codes(ArithmeticTokenizer(2), 3, seed=3)
    assert all(s.log_probs.shape == c.codes.shape
               for s, c in zip(load_lm(tmp_path / "run" / "final").score_codes(held), held, strict=True))  # fmt: skip


def test_accuracy_is_that_of_a_plain_loop(corpora, tmp_path):
    train_lm.main(config(corpora["one"], tmp_path / "run", pattern=PatternConfig("flat"), steps=20))
    from slm.data.documents import hold_out
    from slm.data.store import CodeStore

    store, lm = CodeStore(corpora["one"]), load_lm(tmp_path / "run" / "final")
    hits = []
    for i in hold_out(store.ids, 0.1)[1]:
        ids = torch.tensor([lm.pattern.streams[0].bos_id, *store.codes(int(i))[:, 0].tolist()])
        likeliest = lm.model.causal_lm(ids[None]).logits[0].argmax(dim=-1)
        hits += (likeliest[:-1] == ids[1:]).tolist()
    logged = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["eval_accuracy"]
    assert logged == pytest.approx(np.mean(hits))


def test_a_dry_run_tells_and_writes_nothing(corpora, tmp_path, capsys):
    train_lm.main(config(corpora["two"], tmp_path / "run", budget="10 epochs", dry_run=True, eval_fraction=0.0))
    told = capsys.readouterr().out
    for word in ("parameters", "epochs", "FLOPs", "GB", "MFU"):
        assert word in told
    steps = int(next(line for line in told.splitlines() if line.startswith("steps")).split()[1].replace(",", ""))
    taken = sum(len(c.codes) + 3 for c in markov_codes(ArithmeticTokenizer(2), 120))  # two delayed streams: T + 3 steps
    assert steps == pytest.approx(10 * taken / (8 * 64), rel=0.1)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_how_often_each_corpus_of_a_mixture_is_heard(corpora, tmp_path, capsys):
    """All are as large: the third, of next to no weight, is not reached."""
    mixture = MixtureConfig(weights=[3, 1, 1e-9])
    three = [str(shutil.copytree(corpora["two"], tmp_path / name)) for name in "abc"]
    c = config(three, tmp_path / "run", mixture=mixture, dry_run=True, eval_fraction=0.0)
    train_lm.main(c)
    told = capsys.readouterr().out
    line = next(line for line in told.splitlines() if line.startswith("corpora"))
    often = [float(part.split()[1]) for part in line.removeprefix("corpora").split(",")]
    data = load_data(c)
    loader = make_loader(c, data, make_pattern(c, data), 0, 1)
    assert often == pytest.approx(loader.epochs_at(40), rel=0.1)
    assert often[0] > 2.5 * often[1] > 0 == often[2]
    train_lm.main(replace(c, steps=10_000))
    assert re.search(r"corpora +a [\d,]+00 epochs", capsys.readouterr().out)


def test_what_is_heard_is_told_in_a_unit_that_has_digits(corpora, tmp_path, capsys):
    """The corpus has 0.02 s a frame: seconds, of which no tenth of an hour would be seen."""
    train_lm.main(config(corpora["two"], tmp_path / "run", budget="1 epoch", dry_run=True, eval_fraction=0.0))
    seconds = sum(c.duration_s for c in markov_codes(ArithmeticTokenizer(2), 120))
    told = capsys.readouterr().out
    assert f"{seconds:.3g} s in 120 clips" in told
    lines = {line[:9].strip(): line[10:].split() for line in told.splitlines()}
    heard, of_a_step = lines["audio"], float(lines["one step"][-4])
    assert heard[1:3] == ["s", "heard,"]
    assert seconds <= float(heard[0]) < seconds + of_a_step  # a run ends with a whole step
    train_lm.main(config(corpora["two"], tmp_path / "run", budget="1e30 flops", dry_run=True))  # until it is stopped
    assert [duration_text(s) for s in (0.25, 99.0, 570, 7200, 145_000 * 3600)] == [
        "0.25 s", "99 s", "9.5 min", "2.0 h", "145,000.0 h"
    ]  # fmt: skip


def test_a_finished_run_that_is_given_again_writes_nothing(corpora, tmp_path, capsys):
    c = config(corpora["two"], tmp_path / "run", steps=4, save_every=2, eval_every=4)
    train_lm.main(c)
    before = {f: (f.stat().st_mtime_ns, f.stat().st_size) for f in (tmp_path / "run").rglob("*") if f.is_file()}
    reset_accelerate()
    train_lm.main(c)
    assert "is finished: nothing to do" in capsys.readouterr().out
    after = {f: (f.stat().st_mtime_ns, f.stat().st_size) for f in (tmp_path / "run").rglob("*") if f.is_file()}
    assert after == before
