"""Where the numbers of a run go: metrics.jsonl always, and the trackers of Accelerate that are asked for."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from slm.errors import UsageError
from slm.files import disk_named, read_json_lines, write_text
from slm.training.config import TrainConfig
from slm.training.watch import LOSS


class MetricsLog:
    """One JSON object a line in `out/metrics.jsonl`, and the same to Accelerate's trackers.

    Opened at `step`, it drops whatever a killed run had logged beyond that step, so that no step stands twice.
    """

    def __init__(self, out: Path, step: int, accelerator: Accelerator, config: TrainConfig):
        self._accelerator, self.enabled, self.lines = accelerator, accelerator.is_main_process, list[dict[str, Any]]()
        if not self.enabled:
            return
        self.path = out / "metrics.jsonl"
        self.lines = [line for line in read_metrics(self.path) if line["step"] <= step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in self.lines))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (closed by close)
        if accelerator.log_with:
            start_trackers(accelerator, out, step, config)

    def write(self, step: int, values: dict[str, Any]) -> None:
        if not self.enabled:
            return
        line = {"step": step, **values}
        self.lines.append(line)
        with disk_named(self.path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            self._accelerator.log(values, step=step)

    def last_evaluation(self) -> dict[str, float]:
        """The held-out figures that were logged last; none on processes that do not log."""
        found = [line for line in self.lines if any(name.startswith("eval_") for name in line)]
        return {name: value for name, value in found[-1].items() if name.startswith("eval_")} if found else {}

    def losses(self) -> list[float]:
        """Of every line of training that was logged; none on processes that do not log."""
        return [line[LOSS] for line in self.lines if LOSS in line]

    def close(self) -> None:
        """By all processes: one that ends with its process group is now and then aborted by it, after all was done."""
        if self.enabled:
            self._file.close()
        self._accelerator.end_training()


def usable_trackers(names: Sequence[str]) -> list[str]:
    """Those that are installed. UsageError for one that was asked for; without TensorBoard, the default, a line."""
    missing = [name for name in names if find_spec(name) is None]
    wanted = [name for name in missing if name != "tensorboard"]
    if wanted:
        raise UsageError(f"trackers: {', '.join(wanted)} not installed: pip install {' '.join(wanted)}")
    if missing:
        print("no TensorBoard curves: pip install tensorboard; metrics.jsonl has them all", file=sys.stderr)
    return [name for name in names if name not in missing]


def start_trackers(accelerator: Accelerator, out: Path, step: int, config: TrainConfig) -> None:
    """Curves go on where a resumed run goes on: TensorBoard drops later points, the others take up the same run, in
    which Trackio keeps later points twice. Runs of one name in two folders are two: Trackio knows them by name only."""
    run_id = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
    settings = {
        "tensorboard": {"purge_step": step + 1},
        "wandb": {"name": out.name, "id": run_id, "resume": "allow"},
        "trackio": {"name": f"{out.name}-{run_id[:6]}", "resume": "allow"},
    }
    names = [getattr(name, "value", str(name)) for name in accelerator.log_with]
    described = flat_options(config) if {*names} - {"tensorboard"} else None
    accelerator.init_trackers(config.project, described, {name: settings[name] for name in names})


def flat_options(config: TrainConfig) -> dict[str, Any]:
    """`{"optimizer.lr": 0.001, ..}`: trackers take no nesting."""
    made: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{prefix}.{key}" if prefix else key, inner)
        else:
            made[prefix] = value if isinstance(value, int | float | str | bool) else str(value)

    add("", asdict(config))
    return made


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    return read_json_lines(path)


def nats_per_code(prefix: str, nll: Sequence[float], count: Sequence[float]) -> dict[str, float]:
    """`[K + 1]` sums (codebooks, then ends) -> `<prefix>_nats_per_code` over all codes, and by codebook when K > 1."""
    ends = {f"{prefix}_nats_per_end": nll[-1] / max(1.0, count[-1])}
    return {**by_codebook(f"{prefix}_nats_per_code", nll, count), **ends}


def by_codebook(name: str, sums: Sequence[float], count: Sequence[float]) -> dict[str, float]:
    """`[K + 1]` sums (codebooks, then ends, which are left out) -> means over all codes, and by codebook when K > 1."""
    made = {name: sum(sums[:-1]) / max(1.0, sum(count[:-1]))}
    if len(sums) > 2:
        made |= {f"{name}_{k}": s / max(1.0, c) for k, (s, c) in enumerate(zip(sums[:-1], count[:-1], strict=True))}
    return made


def bits_per_s(nll: Sequence[float], duration_s: float) -> float:
    """All codes and ends of `duration_s` seconds of audio, in bits per second: comparable between tokenizers, but not
    with deduplicated units, whose durations are not coded."""
    return sum(nll) / math.log(2) / duration_s
