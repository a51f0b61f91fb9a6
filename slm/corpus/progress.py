"""How far a run is: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

_PLAIN_EVERY_S = 30.0


class Progress:
    """Hours of audio done of all, times real time in this run, clips left out, time left. A context manager."""

    def __init__(self, total_s: float, done_s: float, rejects: int):
        self.total_s, self.done_s, self.rejects = total_s, done_s, rejects
        self.started_at_s, self._started = done_s, time.monotonic()
        self._last_line = self._started
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True))
            self._bar.add_task(self.line(), total=self.total_s, completed=self.done_s)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, seconds: float, rejects: int) -> None:
        self.done_s += seconds
        self.rejects += rejects
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done_s, description=self.line())
        elif time.monotonic() - self._last_line >= _PLAIN_EVERY_S:
            self._last_line = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    @property
    def real_time_factor(self) -> float:
        """Seconds of audio dealt with per second of this run."""
        return (self.done_s - self.started_at_s) / max(self.elapsed_s, 1e-9)

    def line(self) -> str:
        text = f"{self.done_s / 3600:.2f} / {self.total_s / 3600:.2f} h"
        if self.done_s > self.started_at_s:
            left_s = max(0.0, self.total_s - self.done_s) / self.real_time_factor
            text += f", {self.real_time_factor:.0f} x real time, {_clock(left_s)} left"
        return text + (f", {self.rejects} clips left out" if self.rejects else "")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
