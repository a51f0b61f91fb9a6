"""`log.jsonl`: what happened to a corpus, for programs; a line an event, over all its runs.

Events: `start` (options, clips, shards, shards there), `reject` (id, path, reason), `shard` (index, hours done, times
real time), `stopped` (reason), `end` (rejects). Each has `time` (UTC) and `run_s`, the seconds since its run began,
which no change of the clock touches.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slm.files import disk_named


class Log:
    """Appends to a file that is made with the first event."""

    def __init__(self, path: Path):
        self.path, self._started = path, time.monotonic()

    def write(self, event: str, **facts: Any) -> None:
        times = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "run_s": self.run_s}
        line = json.dumps({"event": event, **times, **facts}, ensure_ascii=False, default=str)
        # A file's name may hold bytes that are no UTF-8: JSON reads their escapes as what they were.
        with disk_named(self.path), open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line + "\n")

    @property
    def run_s(self) -> float:
        return round(time.monotonic() - self._started, 3)
