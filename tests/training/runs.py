"""What the tests of training share: a small run, started here or as the command, and what it logged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import train_lm
from slm.training.config import ModelConfig, OptimizerConfig, PatternConfig, TrainConfig
from slm.training.metrics import read_metrics
from tests.fakes import TINY_BACKBONE

ROOT = Path(train_lm.__file__).parent
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
TIMING = {"codes_per_s", "times_real_time", "mfu", "memory_gb", "eta_s"}


def reset_accelerate() -> None:
    """Accelerate keeps its state in singletons; each run in this process starts without."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def config(data: Any, out: Path, **changes: Any) -> TrainConfig:
    values = {
        "model": ModelConfig(backbone=TINY_BACKBONE),
        "pattern": PatternConfig("delay"),
        "optimizer": OptimizerConfig(lr=1e-2, warmup_steps=5),
        "steps": 40, "row_length": 64, "rows_per_batch": 8, "eval_fraction": 0.1,
        "log_every": 1, "eval_every": 40, "save_every": 10,
    }  # fmt: skip
    return TrainConfig(data=data, out=str(out), **{**values, **changes})


def as_arguments(c: TrainConfig, file: Path) -> list[str]:
    file.write_text(json.dumps(asdict(c)))  # JSON is YAML
    return ["--config", str(file)]


def losses(run: Path) -> list[tuple[int, str, float]]:
    """Everything that was logged but for speed, in order."""
    return [(m["step"], k, v) for m in read_metrics(run / "metrics.jsonl") for k, v in m.items() if k not in TIMING]


def run(command: list[str], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=env or ENV, capture_output=True, text=True, timeout=300)
