"""A gold.csv beside tars of recordings, as `coml/sWuggy` is distributed: WebDataset, in which the name of a recording
is its `filename` of gold.csv. A tar called `testset_1-000000.tar` is a part of the split `testset_1`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.benchmarks._archives import unpacked
from eval.benchmarks._gold import GoldRow, read_gold_file
from slm.audio import find_audio
from slm.errors import UsageError

_PART = re.compile(r"(.+?)(?:-\d+)*(?:-of-\d+)?")


@dataclass(frozen=True)
class GoldSplit:
    """The tars of one split, and the gold.csv that they belong to."""

    gold: Path
    name: str
    tars: tuple[Path, ...]


def find_splits(folder: Path | None, data: Path) -> list[GoldSplit]:
    """The splits of each gold.csv that has tars beside or below it: in the set's `folder` or below, or right in
    `data`."""
    made: list[GoldSplit] = []
    for gold in sorted(folder.rglob("gold.csv") if folder else data.glob("gold.csv")):
        parts: dict[str, list[Path]] = defaultdict(list)
        for tar in sorted(gold.parent.rglob("*.tar")):
            found = _PART.fullmatch(tar.stem)
            parts[found[1] if found else tar.stem].append(tar)
        made += [GoldSplit(gold, name, tuple(tars)) for name, tars in sorted(parts.items())]
    return made


def choose_tars(splits: Sequence[GoldSplit], wanted: str) -> GoldSplit:
    """The one that is called `wanted`, or whose name ends so (`en_dev` for dev). UsageError, with what there is, where
    there is none or several."""
    suits = [s for s in splits if s.name == wanted] or [s for s in splits if s.name.endswith(f"_{wanted}")]
    if not suits:
        known = ", ".join(sorted({s.name for s in splits}))
        raise UsageError(f"no tars of {wanted} beside {splits[0].gold}; --split says which, there are: {known}")
    if len(suits) > 1:
        folders = " or ".join(sorted({str(s.gold.parent) for s in suits}))
        raise UsageError(f"several sets of tars are called {wanted}: say which by --data {folders}, or by --split")
    return suits[0]


def read_split(split: GoldSplit, columns: Sequence[str], cache: Path) -> tuple[list[GoldRow], dict[str, Path]]:
    """The rows that the split is about, and filename -> recording. A row belongs to it whose recording is in its tars,
    or that of its partner (of the same voice and id): without one it is a file that is missing.

    UsageError where the tars hold none of the recordings.
    """
    rows = read_gold_file(split.gold, columns)
    folder = unpacked(split.tars, cache)
    found = {path.name.partition(".")[0]: path for path in find_audio(folder)}
    files = {row.filename: found[stem] for row in rows if (stem := _stem(row)) in found}
    if not files:
        raise UsageError(
            f"{split.tars[0]} holds none of the recordings of {split.gold}, such as {rows[0].filename}; fetch both"
        )
    stems: dict[str, GoldRow] = {}
    for row in rows:
        if row.filename in files and (first := stems.setdefault(_stem(row), row)) is not row:
            raise UsageError(
                f"{split.gold}, lines {first.line} and {row.line}: {first.filename} and {row.filename} would be one "
                f"recording of {split.tars[0]}; the names in tars must differ"
            )
    own = {(row.voice, row.id) for row in rows if row.filename in files}
    mine = [row for row in rows if (row.voice, row.id) in own]
    return mine, {row.filename: files.get(row.filename, folder / row.filename) for row in mine}


def _stem(row: GoldRow) -> str:
    """The key of its recording: WebDataset's, which ends at the first dot."""
    return Path(row.filename).name.partition(".")[0]
