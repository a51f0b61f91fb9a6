"""Small drawings as SVG: no library, no script. They stretch to any width; text stands beside them as HTML."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

WIDTH, HEIGHT = 1000.0, 100.0  # of every drawing's own coordinates
MOST_POINTS = 1000  # of a drawn line: a screen shows no more, and 30 runs of 20,000 lines would be a page of 140 MB


@dataclass(frozen=True)
class Tick:
    """A label at `percent` of an axis."""

    percent: float
    label: str


@dataclass(frozen=True)
class Line:
    """One curve: its name, the class that colours it, an SVG path, and its last value."""

    name: str
    css: str
    path: str
    last: float


@dataclass(frozen=True)
class Chart:
    """Lines over common axes."""

    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def draw_lines(curves: Sequence[tuple[str, str, Sequence[tuple[float, float]]]]) -> Chart | None:
    """Curves (name, css class, points) -> a chart; None where no curve has two points."""
    curves = [(name, css, [p for p in points if math.isfinite(p[1])]) for name, css, points in curves]
    curves = [(name, css, thin_out(points)) for name, css, points in curves if len(points) > 1]
    if not curves:
        return None
    xs, ys = zip(*(p for _, _, points in curves for p in points), strict=True)
    x_ticks, y_ticks = nice_ticks(min(xs), max(xs)), nice_ticks(min(ys), max(ys))
    left, right = min(xs), max(xs)
    low, high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> str:
        return f"{WIDTH * _share(x, left, right):.1f} {HEIGHT * (1 - _share(y, low, high)):.2f}"

    lines = [Line(name, css, "M" + "L".join(place(*p) for p in points), points[-1][1]) for name, css, points in curves]
    return Chart(
        tuple(lines),
        tuple(Tick(100 * _share(v, left, right), f"{v:,.12g}") for v in x_ticks if left <= v <= right),
        tuple(Tick(100 * (1 - _share(v, low, high)), f"{v:.12g}") for v in y_ticks),
    )


def thin_out(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> Sequence[tuple[float, float]]:
    """Of a long line the first and the last point and, of each stretch, the lowest and the highest, so that no spike is
    lost. Stretches are even on a linear axis, and early ones shorter, for a logarithmic one."""
    if len(points) <= most:
        return points
    ends = np.concatenate([np.linspace(0, len(points), most // 4), np.geomspace(1, len(points), most // 4)])
    values = np.array([y for _, y in points])
    kept = {0, len(points) - 1}
    for start, end in pairwise(np.unique(ends.round().astype(int)).tolist()):
        kept |= {start + int(values[start:end].argmin()), start + int(values[start:end].argmax())}
    return [points[i] for i in sorted(kept)]


def is_number(value: Any) -> TypeGuard[int | float]:
    """One that can be drawn: no NaN or infinity, and no whole number that floats do not reach."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 x 10^n that span low..high."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Waveform:
    """The envelope of a recording as an SVG path, its length, and (0..100) where the prompt in it ends."""

    path: str
    duration_s: float
    prompt_percent: float


def file_inside(results: Path, folder: str, name: str) -> Path | None:
    """A file that results tell of; None where it would lie outside of them (`..`, a link, an absolute path), from where
    nothing is to come into a page that is shown to others, and for what is no path."""
    try:
        file = results / folder / name
        return file if file.resolve().is_relative_to(results.resolve()) else None
    except (ValueError, OSError, RuntimeError):  # a NUL, too long a name, links in a circle
        return None


def is_recording(wav: Path) -> bool:
    """Whether it is there, can be read, and is not empty: what was kept may have been removed since, or cut off."""
    import soundfile

    try:
        return wav.is_file() and soundfile.info(str(wav)).frames > 0
    except (soundfile.SoundFileError, OSError):
        return False


def draw_waveform(wav: Path, prompt_s: float, bins: int = 240) -> Waveform:
    """Minimum and maximum of each of `bins` stretches; the loudest peak fills the height."""
    import soundfile

    samples, rate_hz = soundfile.read(str(wav), dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    duration_s = len(mono) / rate_hz
    edges = np.linspace(0, len(mono), min(bins, len(mono)) + 1).astype(int)
    tops = np.maximum.reduceat(mono, edges[:-1])
    bottoms = np.minimum.reduceat(mono, edges[:-1])
    scale = max(float(np.abs(mono).max()), 1e-4)
    x = WIDTH * (np.arange(len(tops)) + 0.5) / len(tops)

    def points(values: np.ndarray) -> list[str]:
        y = HEIGHT / 2 * (1 - 0.96 * values / scale)
        return [f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True)]

    outline = points(np.maximum(tops, 0.008 * scale)) + points(np.minimum(bottoms, -0.008 * scale))[::-1]
    return Waveform("M" + "L".join(outline) + "Z", duration_s, 100 * min(1.0, prompt_s / duration_s))
