"""How fast a run is, measured against what the device can do."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from slm.training.budget import Budget, Progress


@torch.no_grad()
def matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """The device's own ceiling: the best of a few large matrix products. What MFU is a share of."""
    size = 8192 if device.type == "cuda" else 512
    generator = torch.Generator(device).manual_seed(0)
    # Random numbers: GPUs multiply zeros and ones faster than data.
    a, b = (torch.randn(size, size, device=device, dtype=dtype, generator=generator) for _ in range(2))
    best, repeats = float("inf"), 10 if device.type == "cuda" else 1
    for _ in range(4):
        _wait(device)
        start = time.perf_counter()
        for _ in range(repeats):
            a @ b
        _wait(device)
        best = min(best, (time.perf_counter() - start) / repeats)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


class Clock:
    """Seconds of wall-clock time that a run has taken, over its resumptions."""

    def __init__(self, before_s: float):
        self._begun = time.monotonic() - before_s

    def read(self) -> float:
        return time.monotonic() - self._begun


def peak_memory_gb(device: torch.device) -> float:
    """The most this process has held so far: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**30 if sys.platform == "darwin" else 2**20)


@dataclass
class Throughput:
    """Rates since the last reading. `ceiling_flops_per_s` is of all processes together."""

    device: torch.device
    ceiling_flops_per_s: float
    budget: Budget
    progress: Progress

    def __post_init__(self) -> None:
        self._time, self._aside_s = time.perf_counter(), 0.0

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done inside, such as an evaluation, takes of the time left but not of the rates."""
        _wait(self.device)  # or steps that are under way would be counted with it
        begun = time.perf_counter()
        yield
        self._aside_s += time.perf_counter() - begun

    def read(self, progress: Progress) -> dict[str, float]:
        """codes/s, seconds of audio/s (times real time), MFU, memory, seconds left."""
        now, before = time.perf_counter(), self.progress
        passed_s = now - self._time
        seconds = max(1e-9, passed_s - self._aside_s)
        spent = self.budget.fraction(progress) - self.budget.fraction(before)
        self._time, self._aside_s, self.progress = now, 0.0, progress
        left = (1 - self.budget.fraction(progress)) / spent * passed_s if spent > 0 else 0.0
        return {
            "codes_per_s": (progress.codes - before.codes) / seconds,
            "times_real_time": (progress.audio_s - before.audio_s) / seconds,
            "mfu": (progress.flops - before.flops) / seconds / self.ceiling_flops_per_s,
            "memory_gb": peak_memory_gb(self.device),
            "eta_s": left,
        }
