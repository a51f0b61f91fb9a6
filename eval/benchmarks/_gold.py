"""gold.csv of the ZeroSpeech sLM21 data set: one row a wav, checked row by row."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slm.errors import UsageError

FETCH = (
    "fetch it with `zrc datasets:pull sLM21-dataset`, or make a small synthetic one with "
    "`python -m eval.minimal_pairs --out ROOT`, and give its folder as --data"
)


@dataclass(frozen=True)
class GoldRow:
    """One wav. `filename` is without ending; `fields` are all columns; `line` is where it stands."""

    line: int
    filename: str
    id: str
    voice: str
    correct: bool
    fields: Mapping[str, str]


def read_gold(root: Path, task: str, split: str, columns: Sequence[str]) -> list[GoldRow]:
    """The rows of ROOT/`task`/`split`/gold.csv in their own order.

    Raises UsageError for a missing folder or file, a missing column, and, with its line, for a row that is not whole.
    """
    folder = root / task / split
    if not folder.is_dir():
        known = sorted(p.name for p in (root / task).glob("*") if p.is_dir())
        there = f" (there are: {', '.join(known)})" if known else ""
        raise UsageError(f"no such benchmark data: {folder}{there}; {FETCH}")
    path = folder / "gold.csv"
    if not path.is_file():
        raise UsageError(
            f"{path} is missing: older archives of the 2021 challenge come without it; "
            "get the one with gold.csv by `zrc datasets:pull sLM21-dataset`"
        )
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        missing = [c for c in columns if c not in (reader.fieldnames or ())]
        if missing:
            raise UsageError(f"{path} has no column {', '.join(missing)}; it needs {', '.join(columns)}")
        try:
            rows = [_row(path, reader.line_num, fields) for fields in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageError(f"{path}, after line {reader.line_num}: {error}") from error
    _check_unique(path, rows)
    return rows


def _row(path: Path, line: int, fields: Mapping[str, str]) -> GoldRow:
    if None in fields or None in fields.values():
        raise UsageError(f"{path}, line {line}: as many values as columns are needed; mend the row")
    for column in ("filename", "id", "voice"):
        if not fields[column]:
            raise UsageError(f"{path}, line {line}: {column} is empty; mend the row")
    if fields["correct"] not in ("0", "1"):
        raise UsageError(f"{path}, line {line}: correct is {fields['correct']!r}, not 0 or 1; mend the row")
    name = fields["filename"].removesuffix(".wav")
    return GoldRow(line, name, fields["id"], fields["voice"], fields["correct"] == "1", fields)


def _check_unique(path: Path, rows: Sequence[GoldRow]) -> None:
    if not rows:
        raise UsageError(f"{path} has no rows; fetch the data set again")
    seen: dict[str, int] = {}
    for row in rows:
        if row.filename in seen:
            raise UsageError(f"{path}, line {row.line}: {row.filename} stands on line {seen[row.filename]} already")
        seen[row.filename] = row.line


def audio_files(root: Path, task: str, split: str, rows: Sequence[GoldRow]) -> dict[str, Path]:
    """Item -> its wav. One that is missing is left out when the benchmark runs; UsageError where all of them are."""
    files = {row.filename: root / task / split / f"{row.filename}.wav" for row in rows}
    if not any(path.is_file() for path in files.values()):
        raise UsageError(
            f"{root / task / split} has gold.csv but none of its wavs, such as {rows[0].filename}.wav; {FETCH}"
        )
    return files
