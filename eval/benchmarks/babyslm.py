"""BabySLM (arXiv 2306.01506): words and sentences that children hear, by the rules of its authors' evaluation.

Lexical: a word has several non-words, each pair with an id of its own; pairs share voice and id, as in sWUGGY, and all
pairs of a word count as one. (The authors average a word's non-words in each voice, then its voices: the same where
each voice says them all, as in their data.) Syntactic: pairs as in sBLIMP. In both one recording stands in several
pairs, and in as many rows of gold.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval.benchmarks._gold import GoldRow, pair_by_row_order, read_gold_file, wavs_beside
from eval.benchmarks._sizes import short_of
from eval.benchmarks.base import BENCHMARKS, Setup
from eval.benchmarks.pairs import PairBenchmark, Subset
from eval.benchmarks.sblimp import COLUMNS as SENTENCE_COLUMNS
from eval.benchmarks.sblimp import UNIT, by_label
from eval.benchmarks.swuggy import COLUMNS as WORD_COLUMNS
from eval.benchmarks.swuggy import by_frequency, pair_by_voice_and_id
from slm.errors import UsageError
from slm.types import MinimalPair

WORDS, SENTENCES = {"dev": 3_733}, {"dev": 2_160}  # words, and pairs of sentences, of each split whose size is known
FOLDERS = ("babyslm", "BabySLM")
URL = "https://cognitive-ml.fr/downloads/baby-slm/evaluation_sets"


@BENCHMARKS.register("babyslm_lexical")
class BabyLexical(PairBenchmark):
    name = "babyslm_lexical"
    about = "Spoken words that children hear against made-up words that sound alike: does the model know the word?"

    def __init__(self, setup: Setup):
        self.split = setup.split
        path, rows, self.files = _read(setup, "lexical", WORD_COLUMNS)
        pairs, self.unpaired = pair_by_voice_and_id(path, rows)
        self.lost = len(self.unpaired)
        words = _words(path, rows)
        self.all_pairs = [replace(pair, group=words[pair.positive]) for pair in pairs]
        have, known = len(set(words.values())), WORDS.get(setup.split)
        self.notes = short_of(path.parent, [(have, known, f"words of split {setup.split}")])

    def subsets(self, pairs: Sequence[MinimalPair]) -> list[Subset]:
        return [Subset("all", "all words, each counted once", (tuple(pairs),)), *by_frequency(pairs)]


@BENCHMARKS.register("babyslm_syntactic")
class BabySyntactic(PairBenchmark):
    name = "babyslm_syntactic"
    about = "Grammatical against ungrammatical sentences of words that children hear: does the model know the grammar?"

    def __init__(self, setup: Setup):
        self.split = setup.split
        path, rows, self.files = _read(setup, "syntactic", SENTENCE_COLUMNS)
        self.all_pairs = pair_by_row_order(path, rows, UNIT, ["voice"])
        have, known = len({pair.group for pair in self.all_pairs}), SENTENCES.get(setup.split)
        self.notes = short_of(path.parent, [(have, known, f"sentence pairs of split {setup.split}")])

    def subsets(self, pairs: Sequence[MinimalPair]) -> list[Subset]:
        return by_label("type", pairs, self.all_pairs)


def _words(path: Path, rows: Sequence[GoldRow]) -> dict[str, str]:
    """Recording of a word -> the word: as it is spelled, or its phones where non-words have no spelling."""
    column = "word" if any(row.fields["word"] for row in rows if not row.correct) else "phones"
    words = [row for row in rows if row.correct]
    if blank := next((row.line for row in words if not row.fields[column]), None):
        raise UsageError(f"{path}, line {blank}: {column} is empty; mend the row")
    return {row.filename: row.fields[column] for row in words}


def _read(setup: Setup, task: str, columns: Sequence[str]) -> tuple[Path, list[GoldRow], dict[str, Path]]:
    """gold.csv, its rows, and item -> recording. UsageError where they are not there."""
    folders = [place / task / setup.split for place in (*(setup.data / name for name in FOLDERS), setup.data)]
    folder = next((place for place in folders if (place / "gold.csv").is_file()), None)
    remedy = f"fetch {URL}/{task}/{setup.split}.zip, and unpack it into {folders[0].parent}"
    if folder is None:
        raise UsageError(f"no BabySLM: {folders[0]} has no gold.csv and wavs; {remedy}")
    path = folder / "gold.csv"
    rows = read_gold_file(path, columns, shared=True)
    if len({row.filename for row in rows}) == len(rows):
        raise UsageError(f"{path} is not BabySLM's: no recording stands in several of its pairs; {remedy}")
    return path, rows, wavs_beside(folder, rows, remedy)
