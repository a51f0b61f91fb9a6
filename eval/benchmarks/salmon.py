"""SALMon (arXiv 2409.07437): does the model hear how something is said, and where, beside what is said?

Eight parts of 200 pairs. Read are its folders (`<part>/sample_<i>_<j>.wav`, or another ending of audio: j = 0 is
right, 1 wrong) and the data set `slprl/SALMon` (one configuration a part, or `all`; columns `task`, `ind`,
`positive_audio`, `negative_audio`).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from eval.benchmarks._archives import find_set
from eval.benchmarks._folders import FoundPairs, check_found, recordings_in
from eval.benchmarks._pair_tables import PairRow, find_table, is_table, pairs_of, read_pairs
from eval.benchmarks._sizes import short_of
from eval.benchmarks.base import BENCHMARKS, LeftOut, Setup
from eval.benchmarks.pairs import PairBenchmark, Subset, mean_over, stratify
from slm.errors import UsageError
from slm.types import MinimalPair

PARTS = {
    "bg_alignment": "the background noise fits what is said",
    "bg_all_consistency": "the background stays the same (the other one of any kind)",
    "bg_domain_consistency": "the background stays the same (the other one of the same kind)",
    "gender_consistency": "the speaker's gender stays the same",
    "rir_consistency": "the room stays the same",
    "sentiment_alignment": "the mood of the voice fits what is said",
    "sentiment_consistency": "the mood of the voice stays the same",
    "speaker_consistency": "the speaker stays the same",
}
PAIRS = 200  # in each of them
NAMES = ("SALMon", "salmon_benchmark")  # of its folder, in any case
SITE = "https://github.com/slp-rl/salmon"
COLUMNS = ("positive_audio", "negative_audio")
_SAMPLE = re.compile(r"sample_(\d+)_(\d+)")


@BENCHMARKS.register("salmon")
class Salmon(PairBenchmark):
    name = "salmon"
    about = "Recordings that go on, or fit, against ones that do not: does the model hear voice, mood, room and noise?"
    views = ("local-0.5s", "normalized")

    def __init__(self, setup: Setup):
        self.split = "parts"
        folder = find_set(setup, NAMES) or setup.data
        parts = [p for p in PARTS if (folder / p).is_dir() and recordings_in(folder / p)] if folder.is_dir() else []
        found = FoundPairs()
        for part in parts:
            found.add(sample_pairs(folder, part))
        if parts:
            check_found(found, [folder])
        else:
            found = _table_pairs(setup)
        self.take(found)
        self.notes = _notes(setup.data, found.pairs, folder if parts else None)

    def subsets(self, pairs: Sequence[MinimalPair]) -> list[Subset]:
        parts = stratify(pairs, lambda p: p.labels["part"])
        return [
            mean_over("part", parts, {*PARTS, *(p.labels["part"] for p in self.all_pairs)}),
            *(Subset(name, PARTS.get(name, f"the part {name}"), (members,)) for name, members in parts.items()),
        ]


def _notes(data: Path, pairs: Sequence[MinimalPair], folder: Path | None) -> list[str]:
    """What is not there of the parts, and which of them are short. Beside a `folder` of parts no other is read."""
    there = Counter(pair.labels["part"] for pair in pairs)
    missing = [part for part in PARTS if part not in there]
    beside = folder is not None and data in (folder, folder.parent)  # no archive unpacked
    fetch = f"put their folders into {folder} ({SITE} tells where they are)" if beside else _fetch(data)
    notes = [f"Parts that are missing: {', '.join(missing)}; {fetch}"] if missing else []
    return notes + short_of(data, ((there[part], PAIRS, f"pairs of {part}") for part in PARTS if part in there))


def _fetch(data: Path) -> str:
    root = data / "SALMon"
    return (
        f"put the folders of its parts into {root} ({SITE} tells where they are), or "
        f"`hf download --repo-type dataset slprl/SALMon --local-dir {root}`"
    )


def sample_pairs(root: Path, part: str) -> FoundPairs:
    """The files of a part by their two numbers; one that is alone, or named otherwise, is left out."""
    made = FoundPairs()
    lost: set[str] = set()
    samples: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in recordings_in(root / part):
        item = f"{part}/{path.stem}"
        made.files[item] = path
        named = _SAMPLE.fullmatch(path.stem)
        if named is None or int(named[2]) > 1:
            made.unpaired.append(LeftOut(item, "its name is not sample_<number>_0 or sample_<number>_1"))
            lost.add(str(int(named[1])) if named else item)
        else:
            samples[int(named[1])][int(named[2])].append(item)
    for number, sides in sorted(samples.items()):
        if len(sides[0]) == len(sides[1]) == 1:
            pair = MinimalPair(sides[0][0], sides[1][0], group=f"{part}/{number}", labels={"part": part})
            made.pairs.append(pair)
            continue
        lost.add(str(number))
        reason = "several files of one number" if sides[0] and sides[1] else "no partner of its number"
        made.unpaired += [LeftOut(item, reason) for side in (0, 1) for item in sides[side]]
    made.lost = len(lost - {pair.group.rpartition("/")[2] for pair in made.pairs})
    return made


def _table_pairs(setup: Setup) -> FoundPairs:
    made = FoundPairs()
    for part, rows in _tables(setup).items():
        files, pairs = pairs_of(rows, f"{part}/")
        made.files |= files
        made.pairs += [MinimalPair(p.positive, p.negative, p.group, {**p.labels, "part": part}) for p in pairs]
    return made


def _tables(setup: Setup) -> dict[str, list[PairRow]]:
    """Part -> its pairs, from a table of all of them, or one a part in a folder of its name."""
    location = find_table(setup.data, NAMES)
    if location is None:
        raise UsageError(f"no SALMon: {_fetch(setup.data)}")
    single = [p for p in PARTS if is_table(Path(location, p))]
    if single:
        return {p: read_pairs(str(Path(location, p)), setup.cache / "salmon", *COLUMNS) for p in single}
    config = None if Path(location).is_dir() else "all"
    found: dict[str, list[PairRow]] = defaultdict(list)
    for row in read_pairs(location, setup.cache / "salmon", *COLUMNS, config=config):
        if "task" not in row.fields:
            raise UsageError(f"{location} has no column task, which says the part of a pair; fetch it again")
        found[str(row.fields["task"])].append(row)
    return {part: found[part] for part in sorted(found)}
