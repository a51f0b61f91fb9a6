"""sBLIMP: grammatical against ungrammatical sentences, by the rules of the ZeroSpeech 2021 evaluation.

The k-th correct row of gold.csv is paired with the k-th incorrect one, which must be of the same sentence and voice;
voices are averaged within (type, subtype, id).
The official score is the plain mean over those; the mean over types (phenomena) is what some papers report.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.benchmarks._gold import GoldRow, audio_files, read_gold
from eval.benchmarks.base import BENCHMARKS, Setup
from eval.benchmarks.pairs import PairBenchmark, Subset, stratify
from slm.errors import UsageError
from slm.types import MinimalPair

COLUMNS = ("filename", "id", "voice", "type", "subtype", "transcription", "correct")


@BENCHMARKS.register("sblimp")
class SBlimp(PairBenchmark):
    name = "sblimp"
    about = "Grammatical against ungrammatical spoken sentences: does the model know the grammar?"

    def __init__(self, setup: Setup):
        self.split = setup.split
        self.path = setup.data / "syntactic" / setup.split / "gold.csv"
        rows = read_gold(setup.data, "syntactic", setup.split, COLUMNS)
        self.files = audio_files(setup.data, "syntactic", setup.split, rows)
        self.all_pairs = pair_by_row_order(self.path, rows)

    def subsets(self, pairs: Sequence[MinimalPair]) -> list[Subset]:
        types = stratify(pairs, lambda p: p.labels["type"])
        return [
            Subset("all", "all sentence pairs, each counted once", (tuple(pairs),)),
            Subset("mean over types", "the mean of the types' accuracies, each counting alike", (*types.values(),)),
            *(Subset(f"type {name}", f"pairs of type {name}", (members,)) for name, members in types.items()),
        ]


def pair_by_row_order(path: Path, rows: Sequence[GoldRow]) -> list[MinimalPair]:
    """The k-th correct row with the k-th incorrect one. UsageError where they disagree on the sentence or the voice."""
    right, wrong = [r for r in rows if r.correct], [r for r in rows if not r.correct]
    if len(right) != len(wrong):
        raise UsageError(f"{path} has {len(right)} correct rows and {len(wrong)} incorrect ones; fetch it again")
    for a, b in zip(right, wrong, strict=True):
        if _identity(a) != _identity(b):
            raise UsageError(
                f"{path}: line {a.line} ({', '.join(_identity(a))}) would be paired with line {b.line} "
                f"({', '.join(_identity(b))}); its rows are out of order, fetch it again"
            )
    return [
        MinimalPair(
            a.filename,
            b.filename,
            group="/".join((a.fields["type"], a.fields["subtype"], a.id)),
            labels={"voice": a.voice, "type": a.fields["type"], "subtype": a.fields["subtype"]},
        )
        for a, b in zip(right, wrong, strict=True)
    ]


def _identity(row: GoldRow) -> tuple[str, ...]:
    return row.fields["type"], row.fields["subtype"], row.id, f"voice {row.voice}"
