"""Folders whose pairs stand in the names of their files: slamkit's layout, and the Spoken StoryCloze as it comes.

A name begins with a running number: 2k is the right item and 2k+1 the wrong one of pair k. Files are joined by that
number and by what else their names say, never by their order: one that is alone, or whose name contradicts its
partner's, is named and left out with it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval.benchmarks.base import LeftOut
from slm.audio import AUDIO_SUFFIXES
from slm.errors import UsageError
from slm.types import MinimalPair

_STORY = re.compile(r"(?P<story>.*)_(?P<word>correct|incorrect)")


@dataclass
class FoundPairs:
    """Item -> recording, the pairs among them, and the files that no rule pairs; `lost` counts the pairs that these
    belong to (a file whose name says none is one by itself). Items are paths below the root, without ending; labels say
    the list, its sub-folder and, where names do, the story."""

    files: dict[str, Path] = field(default_factory=dict)
    pairs: list[MinimalPair] = field(default_factory=list)
    unpaired: list[LeftOut] = field(default_factory=list)
    lost: int = 0

    def add(self, other: FoundPairs) -> None:
        self.files |= other.files
        self.pairs += other.pairs
        self.unpaired += other.unpaired
        self.lost += other.lost


def recordings_in(folder: Path) -> list[Path]:
    """The audio files right in a folder, of any ending that `slm.audio` reads, in any case. UsageError for two of one
    name: an item is called by its name without ending."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in AUDIO_SUFFIXES and not p.name.startswith(".")]
    by_stem: dict[str, Path] = {}
    for path in sorted(found):
        if other := by_stem.get(path.stem):
            raise UsageError(f"{folder} has {other.name} and {path.name}: keep one of them")
        by_stem[path.stem] = path
    return list(by_stem.values())


def numbered_pairs(root: Path, separator: str, subfolders: bool, name: str = "") -> FoundPairs:
    """The pairs of ROOT, or, with `subfolders`, of each folder in it that has recordings, as a list of its own (of ROOT
    itself where there is none); recordings beside such folders are named and left out. Items and groups begin with
    `name`, where there is more than one root."""
    found = FoundPairs()
    below = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")) if subfolders else []
    folders = [folder for folder in below if recordings_in(folder)]
    for folder in folders or [root]:
        found.add(_pairs_of(root, folder, separator, name))
    for path in recordings_in(root) if folders else ():
        item = (f"{name}/" if name else "") + path.stem
        found.files[item] = path
        found.unpaired.append(LeftOut(item, "lies beside the folders of the lists, in none of them"))
        found.lost += 1
    return found


def check_found(found: FoundPairs, roots: Sequence[Path]) -> None:
    """UsageError where no two files are a pair."""
    if not found.pairs:
        where = " and ".join(str(root) for root in roots)
        reason = f": the first of {len(found.unpaired)} files is {found.unpaired[0].item}, " if found.unpaired else ""
        why = found.unpaired[0].reason if found.unpaired else ""
        raise UsageError(f"no pairs of recordings in {where}{reason}{why}; fetch the benchmark again")


@dataclass(frozen=True)
class _Named:
    """A file as its name describes it."""

    path: Path
    item: str
    number: int
    story: str | None
    word: str | None

    @property
    def is_right(self) -> bool:
        return self.number % 2 == 0

    @property
    def fault(self) -> str | None:
        if self.word is not None and (self.word == "correct") != self.is_right:
            return f"{self.word}, but its number {self.number} is {'even' if self.is_right else 'odd'}"
        return None


def _pairs_of(root: Path, folder: Path, separator: str, name: str) -> FoundPairs:
    made = FoundPairs()
    label = folder.relative_to(root).as_posix() if folder != root else ""
    prefix = f"{name}/" if name else ""
    by_pair: dict[int, list[_Named]] = defaultdict(list)
    for path in recordings_in(folder):
        item = prefix + path.relative_to(root).with_suffix("").as_posix()
        made.files[item] = path
        head, _, rest = path.stem.partition(separator)
        if not head.isdecimal():
            made.unpaired.append(LeftOut(item, f"its name does not begin with a number and {separator!r}"))
            made.lost += 1
            continue
        said = _STORY.fullmatch(rest)
        story, word = (said["story"], said["word"]) if said else (None, None)
        by_pair[int(head) // 2].append(_Named(path, item, int(head), story, word))
    _check_start(folder, [m for members in by_pair.values() for m in members])
    for number, members in sorted(by_pair.items()):
        reason = _fault(members)
        if reason:
            made.unpaired += [LeftOut(m.item, reason) for m in members]
            made.lost += 1
            continue
        right, wrong = sorted(members, key=lambda m: m.number)
        group = prefix + (f"{label}/{number}" if label else str(number))
        made.pairs.append(
            MinimalPair(
                right.item, wrong.item, group=group, labels={"list": name, "folder": label, "story": right.story}
            )
        )
    return made


def _check_start(folder: Path, members: Sequence[_Named]) -> None:
    """UsageError for a list that begins with an odd number, unless its names say that odd ones are wrong: if it counts
    from 1, every pair would be a wrong one, and nothing but a number 0 tells that it does not."""
    first = min((m.number for m in members), default=0)
    if first % 2 and not any(m.word is not None and m.fault is None for m in members):
        raise UsageError(
            f"{folder} counts its files from {first}, but right items have even numbers (0, 2, ..) and wrong ones odd: "
            f"rename them, or restore number {first - 1}"
        )


def _fault(members: Sequence[_Named]) -> str | None:
    """Why these files, of one pair by their numbers, are none."""
    if len(members) == 1:
        return f"no partner of number {members[0].number ^ 1}"
    if len(members) > 2 or members[0].number == members[1].number:
        return f"files of one number: {', '.join(m.path.name for m in members)}"
    if fault := next((m.fault for m in members if m.fault), None):
        return fault
    if members[0].story != members[1].story:
        return f"of different stories: {members[0].path.name} and {members[1].path.name}"
    return None
