"""How far long work is: a line now and then."""

from __future__ import annotations

import sys
import time

QUIET_S = 5.0  # between two lines


class Progress:
    """Lines on standard error: how many of how many `things`, how fast, how long yet."""

    def __init__(self, name: str, things: str):
        self.name, self.things, self.started, self.told = name, things, time.monotonic(), 0.0
        self.done = 0

    def add(self, count: int, total: int) -> None:
        self.done += count
        self.tell(self.done, total)

    def tell(self, done: int, total: int) -> None:
        """At most every few seconds, and nothing about work that was over before the first line."""
        now = time.monotonic()
        if now - max(self.told, self.started) < QUIET_S and (done < total or not self.told):
            return
        self.told = now
        speed = done / (now - self.started)
        left = "" if done == total else f", {(total - done) / speed:.0f} s left"
        line = f"{self.name}: {done:,} of {total:,} {self.things}, {speed:,.1f}/s{left}"
        print(line, file=sys.stderr, flush=True)
