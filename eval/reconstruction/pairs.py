"""Ground truth and reconstructions side by side on disk, as papers offer them for download.

The ground truth is known by a part of its path: `gt`, `ground_truth`, `original` or `reference`, as a folder, as a
file name or as a word in one. What stands in the place of that word is the name of a system:

    PAIRS/ground_truth/a.wav           PAIRS/mimi/a.wav
    PAIRS/a/original.wav               PAIRS/a/mimi.wav
    PAIRS/music/rec_music_gt_1.wav     PAIRS/music/rec_music_mimi_1.wav
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from eval.benchmarks.base import LeftOut
from eval.reconstruction.material import Piece, domain_of, first_of_each, in_pieces, texts_of
from eval.reconstruction.settings import Reconstruction
from slm.audio import find_audio
from slm.corpus.sources.base import readable
from slm.errors import UsageError

NAMES = ("ground[-_ ]?truth", "gt", "original", "orig", "reference", "ref")
_TRUTH = re.compile(rf"(?<![^/_.\- ])(?:{'|'.join(NAMES)})(?![^/_.\- ])", re.IGNORECASE)


def find_pairs(data: Path, settings: Reconstruction) -> tuple[dict[str, list[Piece]], dict[str, list[LeftOut]]]:
    """System -> its pieces, each with `made`; and system -> the files left out: its own, those that it lacks in a
    domain where it has others, and those that are nobody's, having no ground truth.

    UsageError where no pair is found.
    """
    files = {readable(path.relative_to(data).with_suffix("")): path for path in find_audio(data)}
    texts = texts_of(data)
    systems: dict[str, list[Piece]] = {}
    used: set[str] = set()
    shared: list[tuple[str, str, set[str]]] = []  # ground truth of anything made: its domain, the systems that made it
    for truth in [name for name in files if _TRUTH.search(name)]:
        domain = domain_of(Path(truth), settings.domain)
        shared.append((truth, domain, set()))
        for system, name in _made_of(truth, files):
            used |= {truth, name}
            shared[-1][2].add(system)
            path = files[truth]
            text = texts.get(path.resolve(), "")
            systems.setdefault(system, []).append(Piece(name, path, domain, text=text, made=files[name]))
    if not systems:
        raise UsageError(
            f"no pairs in {data}: give --tokenizer for round trips, or put recordings of a system beside the ground "
            "truth, such as ground_truth/a.wav and mimi/a.wav (docs/reconstruction.md)"
        )
    nobodys = [LeftOut(name, "no ground truth, or nothing made of it, beside it") for name in sorted(files)
               if name not in used]  # fmt: skip
    made: dict[str, list[Piece]] = {}
    left_out: dict[str, list[LeftOut]] = {}
    for system in sorted(systems):
        taken, broken = first_of_each(systems[system], settings)
        made[system], left = in_pieces(taken, settings.cut_s)
        domains = {piece.domain for piece in systems[system]}
        lacking = [LeftOut(_place_of(truth, system), f"nothing of {system} beside {truth}")
                   for truth, domain, by in shared if by and system not in by and domain in domains]  # fmt: skip
        left_out[system] = [*nobodys, *lacking, *broken, *left]
    if not any(made.values()):
        first = left_out[min(left_out)][-1]
        raise UsageError(f"no pair in {data} can be judged; {first.item}: {first.reason}")
    return made, left_out


def _around(truth: str) -> tuple[str, str]:
    """What stands in a ground truth's path before and after the word for it."""
    word = list(_TRUTH.finditer(truth))[-1]
    return truth[: word.start()], truth[word.end() :]


def _place_of(truth: str, system: str) -> str:
    return system.join(_around(truth))


def _made_of(truth: str, files: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """(system, file) of everything that differs from the ground truth's path in that word alone."""
    before, after = _around(truth)
    for name in files:
        system = name[len(before) : len(name) - len(after)]
        fits = name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)
        if fits and "/" not in system and not _TRUTH.search(name):
            yield system, name
