"""What stops a run before its budget is spent: a loss that is no number, one that runs away, a signal to leave."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from slm.files import write_json

LEFT = 143
"""The exit status of a run that a signal ended: as of a process that SIGTERM ends."""
REPORT = "stopped.json"
LOSS = "train_nats_per_code"
IN_A_ROW = 3
"""Log lines above the limit before a run is said to diverge: one bad batch is no divergence."""


class Trouble:
    """Sees every line of training metrics, on every process alike; `before`, the losses that the run had logged when it
    was resumed."""

    def __init__(self, divergence_nats: float, before: Sequence[float] = ()):
        self.divergence_nats = divergence_nats
        self._best, self._above = math.inf, 0
        for loss in before:
            self.see({LOSS: loss})

    def see(self, values: Mapping[str, float]) -> str | None:
        """Why the run should stop; None while it is well."""
        loss = values[LOSS]
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
    """SIGTERM and SIGUSR1 (what Slurm sends before it takes a node away) ask for a checkpoint and an end. Until there
    is something to save (`in_steps`), the process leaves at once, with the same status."""

    def __init__(self) -> None:
        self.asked = self.in_steps = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGUSR1)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.asked and not self.in_steps:
            print("asked to leave before the first step: the same command goes on from here", file=sys.stderr)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self.in_steps:
            sys.exit(LEFT)
