"""Where curves go: to the trackers that are asked for, each step once, each folder to a run of its own."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

import train_lm
from slm.errors import UsageError
from slm.training import metrics
from tests.training.runs import config, reset_accelerate


def test_trackers_that_are_missing_are_named_with_their_install_line(corpora, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install wandb"):
        train_lm.main(config(corpora["two"], tmp_path / "run", trackers=["wandb"]))
    with pytest.raises(UsageError, match="none of tensorboard, wandb, trackio"):
        config(corpora["two"], tmp_path / "run", trackers=["comet"])


def test_a_run_is_the_same_for_trackers_when_it_goes_on_and_another_in_another_folder(tmp_path):
    def names(out) -> tuple[str, str]:
        told = {}
        accelerator = SimpleNamespace(log_with=["wandb", "trackio"], init_trackers=lambda *given: told.update(given[2]))
        metrics.start_trackers(accelerator, out, 0, config("corpus", out))  # type: ignore[arg-type]
        return told["wandb"]["id"], told["trackio"]["name"]

    here, there = tmp_path / "a" / "lm", tmp_path / "b" / "lm"
    assert names(here) == names(here)
    assert all(one != other for one, other in zip(names(here), names(there), strict=True))
    assert names(here)[1].startswith("lm-")


def test_tensorboard_has_each_step_once_though_the_run_was_resumed(corpora, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    c = config(corpora["two"], tmp_path / "run", steps=6, save_every=2, eval_every=6)
    train_lm.main(c)
    shutil.rmtree(tmp_path / "run" / "final")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-0000006")
    reset_accelerate()
    train_lm.main(c)
    (folder,) = {f.parent for f in (tmp_path / "run" / "tensorboard").rglob("events*")}
    found = event_accumulator.EventAccumulator(str(folder))
    found.Reload()
    assert [e.step for e in found.Scalars("train_nats_per_code")] == [1, 2, 3, 4, 5, 6]
