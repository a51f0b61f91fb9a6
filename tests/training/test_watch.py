"""What stops a run before its end: a loss or a gradient that is no number, a loss that runs away."""

from __future__ import annotations

import json
import math
import shutil

import pytest

import train_lm
from slm.errors import StoppedError
from slm.training import engine, metrics, watch
from slm.training.checkpoint import list_checkpoints
from slm.training.config import OptimizerConfig
from slm.training.metrics import nats_per_code, read_metrics
from tests.training.runs import ENV, config, losses, reset_accelerate, run


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoints(corpora, tmp_path):
    wild = OptimizerConfig(lr=1e30, warmup_steps=0, clip_norm=0)
    with pytest.raises(StoppedError, match=r"not finite at step \d+; what was saved before is kept.*stopped\.json"):
        train_lm.main(config(corpora["two"], tmp_path / "run", optimizer=wild))
    assert not (tmp_path / "run" / "final").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()
    report = json.loads((tmp_path / "run" / "stopped.json").read_text())
    assert report["reason"].endswith("is not finite")
    assert report["last_metrics"][-1]["step"] == report["step"]
    reset_accelerate()
    with pytest.raises(StoppedError):  # asked again, it begins again, and tells anew
        train_lm.main(config(corpora["two"], tmp_path / "run", optimizer=wild))


def test_a_gradient_that_is_not_finite_leaves_no_checkpoint_of_its_weights(corpora, tmp_path, monkeypatch):
    """The loss of that step was computed before, and is a number: all that is saved after it would be NaN."""
    original = engine.optimizer_step

    def overflows(accelerator, model, optimizer, clip_norm):
        if len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 3:
            next(model.parameters()).grad.fill_(math.inf)
        return original(accelerator, model, optimizer, clip_norm)

    monkeypatch.setattr(engine, "optimizer_step", overflows)
    with pytest.raises(StoppedError, match="the gradient is not finite at step 4"):
        train_lm.main(config(corpora["two"], tmp_path / "run", steps=6, save_every=2))
    monkeypatch.undo()
    assert [n for n, _ in list_checkpoints(tmp_path / "run")] == [2]
    reset_accelerate()
    train_lm.main(config(corpora["two"], tmp_path / "run", steps=6, save_every=2))
    assert math.isfinite(read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["eval_nats_per_code"])


def test_the_report_is_json_with_the_last_twenty_lines(tmp_path):
    lines = [{"step": step, watch.LOSS: 2.5 if step < 30 else math.nan} for step in range(1, 31)]
    watch.write_report(tmp_path, 30, "why", lines)
    shown = json.loads((tmp_path / "stopped.json").read_text(), parse_constant=pytest.fail)["last_metrics"]
    assert shown == [*lines[10:29], {"step": 30, watch.LOSS: "nan"}]


def test_a_loss_that_runs_away_is_told_from_one_bad_batch():
    trouble = watch.Trouble(1.0)
    complaints = [trouble.see({"train_nats_per_code": v}) for v in (3.0, 2.0, 9.0, 2.5, 3.1, 3.2, 2.9, 3.5, 3.6, 3.7)]
    assert complaints[:-1] == [None] * 9
    assert complaints[-1] is not None
    assert "1 nats per code above its best, 2.000" in complaints[-1]
    assert watch.Trouble(0.0).see({"train_nats_per_code": math.inf}) is not None


def test_a_resumed_run_knows_the_best_loss_it_had(corpora, tmp_path, monkeypatch):
    """Losses rise by 5 nats where it goes on, which is seen only against those before."""
    c = config(
        corpora["two"], tmp_path / "run", steps=12, save_every=4, eval_every=12, keep_checkpoints=3, divergence_nats=2.0
    )
    train_lm.main(c)
    best = min(value for step, key, value in losses(tmp_path / "run") if key == watch.LOSS and step <= 4)
    for folder in ("final", "checkpoints/step-0000008", "checkpoints/step-0000012"):
        shutil.rmtree(tmp_path / "run" / folder, ignore_errors=True)
    monkeypatch.setattr(metrics, "nats_per_code", lambda *found: {k: v + 5 for k, v in nats_per_code(*found).items()})
    reset_accelerate()
    with pytest.raises(StoppedError, match=rf"2 nats per code above its best, {best:.3f}, at step 7"):
        train_lm.main(c)


@pytest.mark.parametrize(
    ("ends", "status", "queued"),
    [("exit 143", 143, True), ("kill -USR1 $$", 138, True), ("exit 0", 0, False), ("exit 1", 1, False)],
)
def test_slurm_queues_a_run_again_that_left_or_had_no_time_to_hear_the_signal(tmp_path, ends, status, queued):
    """With a `srun` whose tasks end so, and a `scontrol` that writes down what it is asked."""
    asked = tmp_path / "asked"
    for name, text in (("srun", f"bash -c '{ends}'"), ("scontrol", f'echo "$@" >> "{asked}"')):
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}
    made = run(["bash", "configs/slurm/train.sbatch"], {**ENV, **slurm, "PATH": f"{tmp_path}:{ENV['PATH']}"})
    assert made.returncode == status
    assert ("requeue 7" in asked.read_text()) is queued


def test_who_waits_for_a_process_that_has_ended_shows_no_place_in_the_code():
    gone = "[/a/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:62634. This is typically .."
    with pytest.raises(StoppedError, match="another process of this run has ended"), engine.told_of_others():
        raise RuntimeError(gone)
    with pytest.raises(RuntimeError, match="size mismatch"), engine.told_of_others():
        raise RuntimeError("size mismatch")
