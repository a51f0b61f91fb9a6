"""Spoken StoryCloze (TWIST, arXiv 2305.13009): which of two endings belongs to a story of five sentences?

sSC has the wrong endings of the written StoryCloze test, tSC endings of other stories; the ms_ forms have many
speakers. Every recording is the whole story, so the two of a pair begin alike. Read are the folders as they are
distributed (`<number>_<story>_{correct,incorrect}.wav`; ms_ in sub-folders), also zipped, and the data sets of pairs
`speed/sStoryCloze` and `speed/tStoryCloze`. Recordings of one story count as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from eval.benchmarks._archives import find_set
from eval.benchmarks._folders import check_found, numbered_pairs
from eval.benchmarks._pair_tables import choose_split, find_table, pairs_of, read_pairs
from eval.benchmarks._sizes import short_of
from eval.benchmarks.base import BENCHMARKS, Setup
from eval.benchmarks.pairs import PairBenchmark, Subset
from slm.errors import UsageError
from slm.types import MinimalPair

STORIES = 1_871  # in each of sSC and tSC
GOOGLE = "https://github.com/slp-rl/SpokenStoryCloze tells where the recordings are"


class StoryCloze(PairBenchmark):
    """One set; a subclass names its folder and, where there is one, its data set of pairs."""

    views = ("normalized",)
    folder: ClassVar[str]
    table: ClassVar[str] = ""
    subfolders: ClassVar[bool] = False
    size: ClassVar[int | None] = None
    """Stories in its folder, where that is known."""

    def __init__(self, setup: Setup):
        folder = find_set(setup, [self.folder])
        table = find_table(setup.data, [self.table]) if self.table else None
        self.split = "stories"
        if folder:
            found = numbered_pairs(folder, "_", self.subfolders)
            check_found(found, [folder])
            self.take(found)
            self.all_pairs = [by_story(pair) for pair in found.pairs]
            self.notes = short_of(setup.data, [(len(found.pairs) + found.lost, self.size, "stories")])
        elif table:
            rows, self.split = choose_split(read_pairs(table, setup.cache), setup.split)
            self.files, self.all_pairs = pairs_of(rows)
        else:
            raise UsageError(f"no {self.folder}: {self._remedy(setup.data)}")

    def _remedy(self, data: Path) -> str:
        said = f"put its zip, or its wavs in a folder {self.folder}, into {data} ({GOOGLE})"
        if self.table:
            said += f", or `hf download --repo-type dataset speed/{self.table} --local-dir {data / self.table}`"
        return said

    def subsets(self, pairs: Sequence[MinimalPair]) -> list[Subset]:
        return [Subset("all", "all stories, each counted once", (tuple(pairs),))]


def by_story(pair: MinimalPair) -> MinimalPair:
    """Grouped by its story, where the names of its files say which it is."""
    return replace(pair, group=pair.labels["story"]) if pair.labels["story"] else pair


@BENCHMARKS.register("ssc")
class SSC(StoryCloze):
    name = "ssc"
    about = "Spoken stories with their own ending against a wrong one: does the model follow the story?"
    folder, table, size = "sSC", "sStoryCloze", STORIES


@BENCHMARKS.register("tsc")
class TSC(StoryCloze):
    name = "tsc"
    about = "Spoken stories with their own ending against one of another story: does the model keep to the topic?"
    folder, table, size = "tSC", "tStoryCloze", STORIES


@BENCHMARKS.register("ms_ssc")
class MultiSpeakerSSC(StoryCloze):
    name = "ms_ssc"
    about = "The stories of sSC in many voices: does the model follow the story?"
    folder, subfolders = "ms_sSC", True


@BENCHMARKS.register("ms_tsc")
class MultiSpeakerTSC(StoryCloze):
    name = "ms_tsc"
    about = "The stories of tSC in many voices: does the model keep to the topic?"
    folder, subfolders = "ms_tSC", True
