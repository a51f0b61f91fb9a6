"""Training on a GPU that is none (`tests.second_device`) learns as on the CPU, and goes on where it was."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

import train_lm
from slm.training.config import ModelConfig, PatternConfig, SamplesConfig
from tests.fakes import TINY_BACKBONE
from tests.model.test_depth import DEPTH
from tests.second_device import training_on_it
from tests.training.runs import config, losses, reset_accelerate

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "delay": ("two", {"ema_decay": 0.5, "rows_per_batch": 4, "accumulation": 2}),
    "flat": ("one", {"pattern": PatternConfig("flat"), "model": ModelConfig(TINY_BACKBONE, attention="sdpa")}),
    "depth": (
        "two",
        {"pattern": PatternConfig("parallel"), "model": ModelConfig(TINY_BACKBONE, depth=DEPTH, attention="eager")},
    ),
}


def trained(data: str, out: Path, **changes: Any) -> list[tuple[int, str, float]]:
    reset_accelerate()
    samples = SamplesConfig(every=6, count=2, prompt_s=0.2, seconds=0.2)
    train_lm.main(config(data, out, **{"steps": 6, "save_every": 3, "eval_every": 6, "samples": samples, **changes}))
    return losses(out)


@pytest.mark.parametrize("form", FORMS)
def test_it_learns_as_on_the_cpu_and_resumes(form: str, corpora: dict[str, str], tmp_path: Path) -> None:
    corpus, changes = FORMS[form]
    here = trained(corpora[corpus], tmp_path / "here", **changes)
    with training_on_it():
        there = trained(corpora[corpus], tmp_path / "there", **changes)
        rmtree(tmp_path / "there" / "final")
        rmtree(tmp_path / "there" / "checkpoints" / "step-0000006")
        again = trained(corpora[corpus], tmp_path / "there", **changes)
    assert again == there
    assert [(step, name) for step, name, _ in there] == [(step, name) for step, name, _ in here]
    assert [value for *_, value in there] == pytest.approx([value for *_, value in here], rel=1e-4)
