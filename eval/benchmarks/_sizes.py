"""How many there are in a data set as it is distributed: what holds fewer is scored, and said to be short."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

GENERATED = "generated.json"  # in the folder of a made-up set, which has a size of its own


def short_of(data: Path, sizes: Iterable[tuple[int, int | None, str]]) -> list[str]:
    """From how many there are, should be (None: not known) and of what, a sentence about those that are short, for the
    note of a result. Nothing where none is, or the set in DATA is a made-up one."""
    short = [f"{have:,} of {known:,} {what}" for have, known, what in sizes if known is not None and have < known]
    if not short or (data / GENERATED).is_file():
        return []
    return [f"The data is short of the whole set: {', '.join(short)}; fetch the others"]
