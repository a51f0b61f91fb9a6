"""gold.csv of both tasks, with the columns of sLM21."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from eval.minimal_pairs.utterance import Pair, phonemes_of
from slm.files import write_text

LEXICAL = ("filename", "id", "voice", "frequency", "word", "phones", "length", "correct")
SYNTACTIC = ("filename", "id", "voice", "type", "subtype", "transcription", "correct")

Numbered = tuple[int, str, Pair]
"""A pair with the id and the voice that its rows have."""


def write_gold(out: Path, lexical: Sequence[Numbered], syntactic: Sequence[Numbered]) -> None:
    """OUT/lexical/dev/gold.csv, and, where there are sentences, OUT/syntactic/dev/gold.csv: the right row of each pair,
    then the wrong one."""
    write_text(out / "lexical/dev/gold.csv", _csv(LEXICAL, _lexical_rows(lexical)))
    if syntactic:
        write_text(out / "syntactic/dev/gold.csv", _csv(SYNTACTIC, _syntactic_rows(syntactic)))


def _lexical_rows(pairs: Sequence[Numbered]) -> Iterator[tuple]:
    """A pseudo-word has frequency 0, and its phonemes in the place of letters."""
    for id, voice, pair in pairs:
        right, wrong = phonemes_of(pair)
        count = pair.labels["frequency"]
        known = pair.right.text, int(count) if count == int(count) else count
        for item, said, (word, frequency), correct in (
            (pair.right, right, known, 1),
            (pair.wrong, wrong, ("".join(wrong), 0), 0),
        ):
            yield Path(item.path).stem, id, voice, frequency, word, " ".join(said), len(said), correct


def _syntactic_rows(pairs: Sequence[Numbered]) -> Iterator[tuple]:
    for id, voice, pair in pairs:
        for item, correct in ((pair.right, 1), (pair.wrong, 0)):
            yield Path(item.path).stem, id, voice, pair.labels["type"], pair.labels["subtype"], item.text, correct


def _csv(header: Sequence[str], rows: Iterator[tuple]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
