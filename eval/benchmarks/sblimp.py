"""sBLIMP: grammatical against ungrammatical sentences, by the rules of the ZeroSpeech 2021 evaluation.

The k-th correct row of gold.csv is paired with the k-th incorrect one, which must be of the same sentence and voice;
voices are averaged within (type, subtype, id).
The official score is the plain mean over those; the mean over types (phenomena) is what some papers report.

Three layouts are read: the official one (ROOT/syntactic/SPLIT with gold.csv), pairs without voices (the data set
`speed/sBLIMP`, columns `positive` and `negative`), and slamkit's numbered lists (the sub-folders of ROOT/sblimp).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.benchmarks._folders import check_found, numbered_pairs
from eval.benchmarks._gold import audio_files, pair_by_row_order, read_gold
from eval.benchmarks._pair_tables import choose_split, find_table, pairs_of, read_pairs
from eval.benchmarks._sizes import short_of
from eval.benchmarks._submission import SLM21_PARAMS, Submission, add_submission
from eval.benchmarks.base import BENCHMARKS, Result, Run, Setup
from eval.benchmarks.pairs import PairBenchmark, Subset, mean_over, stratify
from slm.types import MinimalPair

COLUMNS = ("filename", "id", "voice", "type", "subtype", "transcription", "correct")
UNIT = ("type", "subtype", "id")
SIZES = {"dev": 6_300, "test": 63_000}  # sentence pairs of each split, official layout
TABLES = ("sBLIMP",)


@BENCHMARKS.register("sblimp")
class SBlimp(PairBenchmark):
    name = "sblimp"
    about = "Grammatical against ungrammatical spoken sentences: does the model know the grammar?"

    def __init__(self, setup: Setup):
        table, lists = find_table(setup.data, TABLES), setup.data / "sblimp"
        self.layout = "sLM21"
        if (setup.data / "syntactic").is_dir() or not (table or lists.is_dir()):
            self._read_official(setup)
        elif table:
            self._read_table(table, setup)
        else:
            self._read_lists(lists)

    def _read_official(self, setup: Setup) -> None:
        self.split = setup.split
        self.path = setup.data / "syntactic" / setup.split / "gold.csv"
        rows = read_gold(setup.data, "syntactic", setup.split, COLUMNS)
        self.files = audio_files(setup.data, "syntactic", setup.split, rows)
        self.all_pairs = pair_by_row_order(self.path, rows, UNIT, ["voice"])
        sentences = len({pair.group for pair in self.all_pairs})
        known = SIZES.get(setup.split)
        self.notes = short_of(setup.data, [(sentences, known, f"sentence pairs of split {setup.split}")])

    def _read_table(self, table: str, setup: Setup) -> None:
        self.layout = "pairs"
        rows, self.split = choose_split(read_pairs(table, setup.cache), setup.split)
        self.files, self.all_pairs = pairs_of(rows)

    def _read_lists(self, lists: Path) -> None:
        self.layout = self.split = "slamkit"
        found = numbered_pairs(lists, "+", subfolders=True)
        check_found(found, [lists])
        self.take(found)

    def run(self, run: Run) -> Result:
        result = super().run(run)
        if self.layout != "sLM21":
            return result
        place = f"syntactic/{self.split}.txt"
        return add_submission(result, run, Submission("sLM21", place, SLM21_PARAMS), [*self.files])

    def subsets(self, pairs: Sequence[MinimalPair]) -> list[Subset]:
        label = {"sLM21": "type", "slamkit": "folder"}.get(self.layout)
        return by_label(label, pairs, self.all_pairs) if label else [_everything(pairs)]


def by_label(label: str, pairs: Sequence[MinimalPair], known: Sequence[MinimalPair]) -> list[Subset]:
    """All, the mean over what the label says, and each. `known` are the pairs of the whole set."""
    members = stratify(pairs, lambda p: p.labels[label])
    return [
        _everything(pairs),
        mean_over(label, members, {p.labels[label] for p in known}),
        *(Subset(f"{label} {name}", f"pairs of {label} {name}", (of_it,)) for name, of_it in members.items()),
    ]


def _everything(pairs: Sequence[MinimalPair]) -> Subset:
    return Subset("all", "all sentence pairs, each counted once", (tuple(pairs),))
