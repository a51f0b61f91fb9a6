"""What stops a run before its budget is spent: a loss that is no number, one that runs away, a signal to leave."""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from slm.files import write_json

REPORT = "stopped.json"
IN_A_ROW = 3
"""Log lines above the limit before a run is said to diverge: one bad batch is no divergence."""


class Trouble:
    """Sees every line of training metrics, on every process alike."""

    def __init__(self, divergence_nats: float):
        self.divergence_nats = divergence_nats
        self._best, self._above = math.inf, 0

    def see(self, values: Mapping[str, float]) -> str | None:
        """Why the run should stop; None while it is well."""
        loss = values["train_nats_per_code"]
        if not math.isfinite(loss):
            return "the loss is not finite"
        # Weights are worth nothing after such a step, though its loss was computed before: no checkpoint may hold them.
        if not math.isfinite(values.get("grad_norm", 0.0)):
            return "the gradient is not finite"
        self._best = min(self._best, loss)
        self._above = self._above + 1 if loss > self._best + self.divergence_nats else 0
        if self.divergence_nats and self._above >= IN_A_ROW:
            return f"the loss has stayed {self.divergence_nats:g} nats per code above its best, {self._best:.3f},"
        return None


def write_report(out: Path, step: int, reason: str, lines: Sequence[dict[str, Any]]) -> None:
    """`OUT/stopped.json`: why, when, and the last lines of metrics."""
    file = out / REPORT
    texts = [{k: v if not isinstance(v, float) or math.isfinite(v) else str(v) for k, v in line.items()}
             for line in lines[-20:]]  # fmt: skip
    write_json(file, {"step": step, "reason": reason, "last_metrics": texts})


class LeaveSignal:
    """SIGTERM and SIGUSR1 (what Slurm sends before it takes a node away) ask for a checkpoint and an end."""

    def __init__(self) -> None:
        self.asked = False
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGUSR1)}

    def close(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
