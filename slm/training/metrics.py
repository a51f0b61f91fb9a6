"""Where the numbers of a run go: metrics.jsonl always, TensorBoard where it is installed, one line on the terminal."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slm.files import write_text


class MetricsLog:
    """One JSON object a line in `out/metrics.jsonl`, mirrored to TensorBoard.

    Opened at `step`, it drops whatever a killed run had logged beyond that step, so that no step stands twice.
    """

    def __init__(self, out: Path, step: int, enabled: bool):
        self.enabled, self._writer = enabled, None
        if not enabled:
            return
        self.path = out / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (closed by close)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("no TensorBoard curves: pip install tensorboard; metrics.jsonl has them all")
        else:
            self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        if not self.enabled:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.enabled:
            self._file.close()
            if self._writer is not None:
                self._writer.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    made = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            made.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return made


def nats_per_code(prefix: str, nll: Sequence[float], count: Sequence[float]) -> dict[str, float]:
    """`[K + 1]` sums (codebooks, then ends) -> `<prefix>_nats_per_code` over all codes, and by codebook when K > 1."""
    *codes, end = [n / max(1.0, c) for n, c in zip(nll, count, strict=True)]
    made = {f"{prefix}_nats_per_code": sum(nll[:-1]) / max(1.0, sum(count[:-1])), f"{prefix}_nats_per_end": end}
    if len(codes) > 1:
        made |= {f"{prefix}_nats_per_code_{k}": value for k, value in enumerate(codes)}
    return made


def bits_per_s(nll: Sequence[float], duration_s: float) -> float:
    """All codes and ends of `duration_s` seconds of audio, in bits per second: comparable between tokenizers, but not
    with deduplicated units, whose durations are not coded."""
    return sum(nll) / math.log(2) / duration_s


class Throughput:
    """Codes and audio per second of wall time since the last reading."""

    def __init__(self) -> None:
        self._time, self._codes = time.perf_counter(), 0.0

    def add(self, codes: float) -> None:
        self._codes += codes

    def read(self, codes_per_audio_s: float) -> dict[str, float]:
        now = time.perf_counter()
        rate = self._codes / (now - self._time)
        self._time, self._codes = now, 0.0
        return {"codes_per_s": rate, "times_real_time": rate / codes_per_audio_s}
