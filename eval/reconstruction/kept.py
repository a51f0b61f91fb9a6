"""What came of each recording, kept as lines of a file for each source and domain: a run that was stopped goes on.

Its name is a hash of everything that the numbers depend on (tokenizer, number of codebooks, rate, alignment, metrics
and judges with their versions), and a line is found by the recording's name, bytes and words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from eval.reconstruction.alignment import Delay
from eval.reconstruction.material import Piece
from eval.reconstruction.scoring import Judged
from slm.files import append_json_lines, read_json_lines
from slm.types import stable_hash

FORMAT = 3


class KeptPieces:
    """`common` is the delay that is removed from all, once it is known. Lines are written as soon as a piece is
    judged; one that a killed run left unfinished is as if it were not there."""

    def __init__(self, file: Path):
        self.file = file
        self.common: Delay | None = None
        self._lines: dict[str, Mapping[str, Any]] = {}
        for found in read_json_lines(file):
            if "common" in found:
                self.common = Delay(**found["common"])
            else:
                self._lines[found["key"]] = found

    def find(self, piece: Piece) -> tuple[Judged, Mapping[str, Any], dict[str, Any] | None] | None:
        """What it was judged to be, what its making left (`Source.recall`), and its sample where one was kept."""
        line = self._lines.get(piece_key(piece))
        if line is None:
            return None
        own = dict(line["judged"])
        own["delay"] = Delay(**own["delay"])
        own["values"] = {name: (float(n), float(d)) for name, (n, d) in own["values"].items()}
        return Judged(**own), line["trace"], line["sample"]

    def set_common(self, delay: Delay) -> None:
        self.common = delay
        append_json_lines(self.file, [{"common": asdict(delay)}])

    def add(self, made: Sequence[tuple[Piece, Judged, Mapping[str, Any], Mapping[str, Any] | None]]) -> None:
        lines = (
            {"key": piece_key(piece), "judged": asdict(judged), "trace": trace, "sample": sample}
            for piece, judged, trace, sample in made
        )
        append_json_lines(self.file, lines)


def piece_key(piece: Piece) -> str:
    made = _digest(piece.made) if piece.made else None
    return stable_hash([piece.id, piece.text, _digest(piece.path), made])[:40]


def _digest(path: Path) -> str:
    """Of a file's bytes, read once in a run; empty where it cannot be read, which is found out later."""
    try:
        found = path.stat()
        return _digest_of(path, found.st_size, found.st_mtime_ns)
    except OSError:
        return ""


@cache
def _digest_of(path: Path, size: int, time_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
