"""gold.csv of the ZeroSpeech data sets (sLM21, ProsAudit) and of BabySLM: one row a wav, checked row by row."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slm.audio import find_audio
from slm.errors import UsageError
from slm.types import MinimalPair

_PAIRS = {"lexical": "sWUGGY", "syntactic": "sBLIMP"}  # the data sets of pairs without voices


def fetch(task: str) -> str:
    """How to get the data of a task."""
    pairs = _PAIRS[task]
    return (
        "fetch it with `zrc datasets:pull sLM21-dataset`, or make a small synthetic one with "
        "`python -m eval.minimal_pairs --out ROOT`, and give its folder as --data; pairs without voices do too: "
        f"`hf download --repo-type dataset speed/{pairs} --local-dir ROOT/{pairs}`"
    )


@dataclass(frozen=True)
class GoldRow:
    """One wav. `filename` is without ending; `fields` are all columns; `line` is where it stands; `voice` is empty
    where the file has no such column."""

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
        raise UsageError(f"no such benchmark data: {folder}{there}; {fetch(task)}")
    path = folder / "gold.csv"
    if not path.is_file():
        raise UsageError(
            f"{path} is missing: older archives of the 2021 challenge come without it; "
            "get the one with gold.csv by `zrc datasets:pull sLM21-dataset`"
        )
    return read_gold_file(path, columns)


def read_gold_file(path: Path, columns: Sequence[str], shared: bool = False) -> list[GoldRow]:
    """The rows of a gold.csv in their own order. UsageError as in `read_gold`, and for a recording that has a row
    already, or, where pairs may have recordings in common (`shared`), one that says otherwise whether it is correct."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            missing = [c for c in columns if c not in (reader.fieldnames or ())]
            if missing:
                raise UsageError(f"{path} has no column {', '.join(missing)}; it needs {', '.join(columns)}")
            rows = [_row(path, reader.line_num, fields) for fields in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageError(f"{path}, after line {reader.line_num}: {error}") from error
    _check_unique(path, rows, shared)
    return rows


def _row(path: Path, line: int, fields: Mapping[str, str]) -> GoldRow:
    if None in fields or None in fields.values():
        raise UsageError(f"{path}, line {line}: as many values as columns are needed; mend the row")
    for column in ("filename", "id", "voice"):
        if column in fields and not fields[column]:
            raise UsageError(f"{path}, line {line}: {column} is empty; mend the row")
    if fields["correct"] not in ("0", "1"):
        raise UsageError(f"{path}, line {line}: correct is {fields['correct']!r}, not 0 or 1; mend the row")
    name, suffix = os.path.splitext(fields["filename"])
    name = name if suffix.lower() == ".wav" else fields["filename"]
    return GoldRow(line, name, fields["id"], fields.get("voice", ""), fields["correct"] == "1", fields)


def _check_unique(path: Path, rows: Sequence[GoldRow], shared: bool) -> None:
    if not rows:
        raise UsageError(f"{path} has no rows; fetch the data set again")
    seen: dict[str, GoldRow] = {}
    for row in rows:
        first = seen.setdefault(os.path.normpath(row.filename), row)
        if first is row or (shared and first.correct == row.correct):
            continue
        where = f"{path}, line {row.line}: {row.filename} stands on line {first.line} already"
        if shared:
            raise UsageError(f"{where}, as {'correct' if first.correct else 'incorrect'}")
        raise UsageError(f"{where} (the pairs of BabySLM have recordings in common: --benchmarks babyslm_{{TASK}})")


def audio_files(root: Path, task: str, split: str, rows: Sequence[GoldRow]) -> dict[str, Path]:
    """Item -> its recording. One that is missing is left out when the benchmark runs; UsageError where all
    are."""
    return wavs_beside(root / task / split, rows, fetch(task))


def wavs_beside(folder: Path, rows: Sequence[GoldRow], remedy: str) -> dict[str, Path]:
    """The same for a gold.csv anywhere; `remedy` tells how to get the data."""
    # A wav comes before what else is called so.
    found = sorted(find_audio(folder), key=lambda p: p.suffix.lower() == ".wav")
    there = {p.relative_to(folder).with_suffix("").as_posix(): p for p in found}
    files = {row.filename: there.get(row.filename, folder / f"{row.filename}.wav") for row in rows}
    if not any(map(os.path.isfile, files.values())):  # False of a name too long
        raise UsageError(f"{folder} has gold.csv but none of its recordings, such as {rows[0].filename}.wav; {remedy}")
    return files


def pair_by_row_order(
    path: Path, rows: Sequence[GoldRow], unit: Sequence[str], same: Sequence[str]
) -> list[MinimalPair]:
    """The k-th correct row with the k-th incorrect one. The columns `unit` say which pairs are averaged first, and with
    `same` are what both must agree on: UsageError where they do not."""
    right, wrong = [r for r in rows if r.correct], [r for r in rows if not r.correct]

    def identity(row: GoldRow) -> str:
        return ", ".join([*(row.fields[c] for c in unit), *(f"{c} {row.fields[c]}" for c in same)])

    parted = next(((a, b) for a, b in zip(right, wrong, strict=False) if identity(a) != identity(b)), None)
    where = ""
    if parted:
        a, b = parted
        where = f"line {a.line} ({identity(a)}) would be paired with line {b.line} ({identity(b)})"
    if len(right) != len(wrong):
        rest = max(right, wrong, key=len)[min(len(right), len(wrong)) :]
        where = where or f"line {rest[0].line} ({identity(rest[0])}) has no row to be paired with"
        raise UsageError(
            f"{path} has {len(right)} correct rows and {len(wrong)} incorrect ones: {where}; restore the row that is "
            "missing, or fetch it again"
        )
    if where:
        raise UsageError(f"{path}: {where}; its rows are out of order, fetch it again")
    labels = [c for c in ("voice", *unit) if c != "id"]
    return [
        MinimalPair(
            a.filename,
            b.filename,
            group="/".join(a.fields[c] for c in unit),
            labels={c: a.fields[c] for c in labels if c in a.fields},
        )
        for a, b in zip(right, wrong, strict=True)
    ]
