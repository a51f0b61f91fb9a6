""".item files: which stretch of which recording is which phone, between which neighbours, by which speaker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, nan
from pathlib import Path

import numpy as np

from eval.benchmarks.base import LeftOut
from slm.errors import UsageError

COLUMNS = ("#file", "onset", "offset", "#phone", "prev-phone", "next-phone", "speaker")


@dataclass(frozen=True)
class Item:
    """One line: times are in seconds, `context` are the phones before and after."""

    line: int
    file: str
    onset_s: float
    offset_s: float
    phone: str
    context: tuple[str, str]
    speaker: str


def read_items(path: Path) -> list[Item]:
    """The lines of an .item file after its header, where it has one. UsageError, with its line, for one that is not
    whole."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error}); save it as such, or fetch it again") from None
    items = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or (number == 1 and line.startswith("#")):
            continue
        if len(fields) != len(COLUMNS):
            raise UsageError(f"{path}, line {number}: {len(fields)} columns, not {' '.join(COLUMNS)}; mend the line")
        file, onset, offset, phone, before, after, speaker = fields
        try:
            times = float(onset), float(offset)
        except ValueError:
            times = nan, nan
        if not all(map(isfinite, times)):
            raise UsageError(f"{path}, line {number}: {onset} and {offset} are no times; mend the line")
        items.append(Item(number, file, *times, phone, (before, after), speaker))
    if not items:
        raise UsageError(f"{path} has no items; fetch it again")
    return items


@dataclass(frozen=True)
class Segment:
    """An item as codes `[T, K]`, at least one frame."""

    item: Item
    codes: np.ndarray


def cut(items: Sequence[Item], codes: Mapping[str, np.ndarray], rate_hz: float) -> tuple[list[Segment], list[LeftOut]]:
    """The codes of each item out of those `[T, K]` of its file; items without any are left out and named.

    As in libri-light, frame i is at (i + 1/2) / rate, and the last one that lies within an item is not taken.
    """
    segments, left_out = [], []
    for item in items:
        name = f"line {item.line}: {item.file} {item.onset_s:g}-{item.offset_s:g} s"
        if item.file not in codes:
            left_out.append(LeftOut(name, "its recording was not tokenized"))
            continue
        whole = codes[item.file]
        start = max(0, ceil(rate_hz * item.onset_s - 0.5))
        end = min(len(whole), floor(rate_hz * item.offset_s - 0.5))
        if end <= start:
            left_out.append(LeftOut(name, f"no frame at {rate_hz:g} Hz"))
        else:
            segments.append(Segment(item, whole[start:end]))
    return segments, left_out
