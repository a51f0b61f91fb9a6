"""sWUGGY: spoken words against spoken pseudo-words, by the rules of the ZeroSpeech 2021 evaluation (arXiv 2011.11588).

A word and a non-word are a pair when they share voice and id; voices are averaged within an id, ids count alike. Bands
of frequency (occurrences of the word in the training corpus; LibriSpeech for the official set) are half-open:
0, [1, 5), [5, 20), [20, 100), [100, inf).

Four layouts are read: the official one (ROOT/lexical/SPLIT with gold.csv), gold.csv beside tars of its recordings (the
data set `coml/sWuggy`), pairs without voices (the data set `speed/sWUGGY`, columns `positive` and `negative`), and
slamkit's numbered lists (ROOT/swuggy_inter, ROOT/swuggy_oov).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.benchmarks._archives import find_folder
from eval.benchmarks._folders import FoundPairs, check_found, numbered_pairs
from eval.benchmarks._gold import GoldRow, audio_files, read_gold
from eval.benchmarks._gold_tars import GoldSplit, choose_tars, find_splits, read_split
from eval.benchmarks._pair_tables import choose_split, find_table, pairs_of, read_pairs
from eval.benchmarks._sizes import short_of
from eval.benchmarks._submission import SLM21_PARAMS, Submission, add_submission
from eval.benchmarks.base import BENCHMARKS, LeftOut, Result, Run, Setup
from eval.benchmarks.pairs import PairBenchmark, Subset
from slm.errors import UsageError
from slm.types import MinimalPair

REQUIRED = ("filename", "id", "voice", "correct")
COLUMNS = ("filename", "id", "voice", "frequency", "word", "phones", "length", "correct")
BANDS = {
    "frequency 1-4": (1, 5),
    "frequency 5-19": (5, 20),
    "frequency 20-99": (20, 100),
    "frequency 100 and more": (100, None),
}
SIZES = {"dev": 5_000, "test": 20_000}  # ids of each split, official layout
TABLES = ("sWUGGY",)
LISTS = {
    "swuggy_inter": "words that occur in the training text",
    "swuggy_oov": "words that do not occur in the training text",
}


@BENCHMARKS.register("swuggy")
class SWuggy(PairBenchmark):
    name = "swuggy"
    about = "Spoken words against made-up words that sound alike: does the model know the word?"

    def __init__(self, setup: Setup):
        tars = find_splits(find_folder(setup.data, TABLES), setup.data)
        table = find_table(setup.data, TABLES)
        lists = [p for p in (setup.data / name for name in LISTS) if p.is_dir()]
        self.layout = "sLM21"
        if (setup.data / "lexical").is_dir() or not (tars or table or lists):
            self._read_official(setup)
        elif tars:
            self._read_tars(choose_tars(tars, setup.split), setup)
        elif table:
            self._read_table(table, setup)
        else:
            self._read_lists(lists)

    def _read_official(self, setup: Setup) -> None:
        self.split = setup.split
        self.path = setup.data / "lexical" / setup.split / "gold.csv"
        rows = read_gold(setup.data, "lexical", setup.split, COLUMNS)
        self.files = audio_files(setup.data, "lexical", setup.split, rows)
        self.all_pairs, self.unpaired = pair_by_voice_and_id(self.path, rows)
        self.lost = len(self.unpaired)
        ids = len({row.id for row in rows})
        self.notes = short_of(setup.data, [(ids, SIZES.get(setup.split), f"ids of split {setup.split}")])

    def _read_tars(self, found: GoldSplit, setup: Setup) -> None:
        self.layout, self.split = "tars", found.name
        rows, self.files = read_split(found, REQUIRED, setup.cache)
        self.all_pairs, self.unpaired = pair_by_voice_and_id(found.gold, rows)
        self.lost = len(self.unpaired)

    def _read_table(self, table: str, setup: Setup) -> None:
        self.layout = "pairs"
        rows, self.split = choose_split(read_pairs(table, setup.cache), setup.split)
        self.files, self.all_pairs = pairs_of(rows)

    def _read_lists(self, lists: Sequence[Path]) -> None:
        """Of each list its sub-folders; groups and items are called by their list as well."""
        self.layout = self.split = "slamkit"
        found = FoundPairs()
        for folder in lists:
            found.add(numbered_pairs(folder, "_", subfolders=True, name=folder.name))
        check_found(found, lists)
        self.take(found)

    def run(self, run: Run) -> Result:
        result = super().run(run)
        if self.layout != "sLM21":
            return result
        return add_submission(
            result, run, Submission("sLM21", f"lexical/{self.split}.txt", SLM21_PARAMS), [*self.files]
        )

    def subsets(self, pairs: Sequence[MinimalPair]) -> list[Subset]:
        everything = Subset("all", "all words, each counted once", (tuple(pairs),))
        if self.layout == "pairs":
            return [everything]
        if self.layout == "slamkit":
            return [everything, *(_list_subset(name, meaning, pairs) for name, meaning in LISTS.items())]
        return [everything, *(by_frequency(pairs) if all("frequency" in p.labels for p in pairs) else [])]


def _list_subset(name: str, meaning: str, pairs: Sequence[MinimalPair]) -> Subset:
    return Subset(name, meaning, (tuple(p for p in pairs if p.labels["list"] == name),))


def by_frequency(pairs: Sequence[MinimalPair]) -> list[Subset]:
    """Within and out of the vocabulary, and the bands."""

    def within(low: int, high: int | None) -> tuple[tuple[MinimalPair, ...]]:
        return (tuple(p for p in pairs if p.labels["frequency"] >= low and (not high or p.labels["frequency"] < high)),)

    return [
        Subset("in-vocabulary", "words that occur in the training text (frequency of 1 or more)", within(1, None)),
        Subset("out-of-vocabulary", "words that do not occur in the training text", within(0, 1)),
        *(
            Subset(name, f"words whose count in the training text is {name.removeprefix('frequency ')}", within(*b))
            for name, b in BANDS.items()
        ),
    ]


def pair_by_voice_and_id(path: Path, rows: Sequence[GoldRow]) -> tuple[list[MinimalPair], list[LeftOut]]:
    """Pairs in the order of their words, and the rows that have no partner."""
    words, others = _by_key(path, rows, True), _by_key(path, rows, False)
    pairs = [
        MinimalPair(
            row.filename,
            others[key].filename,
            group=row.id,
            labels={"voice": row.voice, **_frequency(path, row)},
        )
        for key, row in words.items()
        if key in others
    ]
    lonely = [*(words[k] for k in words if k not in others), *(others[k] for k in others if k not in words)]
    return pairs, [LeftOut(r.filename, f"gold.csv, line {r.line}: no partner of its voice and id") for r in lonely]


def _by_key(path: Path, rows: Sequence[GoldRow], correct: bool) -> dict[tuple[str, str], GoldRow]:
    made: dict[tuple[str, str], GoldRow] = {}
    for row in rows:
        if row.correct == correct:
            if (row.voice, row.id) in made:
                first = made[row.voice, row.id].line
                kind = "word" if correct else "non-word"
                raise UsageError(
                    f"{path}, line {row.line}: voice {row.voice}, id {row.id} has a {kind} on line {first} already"
                )
            made[row.voice, row.id] = row
    return made


def _frequency(path: Path, row: GoldRow) -> dict[str, float]:
    """Of words only: non-words need none. Nothing where gold.csv has no such column."""
    if "frequency" not in row.fields:
        return {}
    try:
        frequency = float(row.fields["frequency"])
    except ValueError:
        frequency = -1.0
    if not frequency >= 0:
        raise UsageError(
            f"{path}, line {row.line}: frequency is {row.fields['frequency']!r}, not a count; mend the row"
        )
    return {"frequency": frequency}
