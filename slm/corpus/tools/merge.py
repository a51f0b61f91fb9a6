"""`python -m slm.corpus merge`: several corpora of one tokenizer become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from slm.corpus.summary import CorpusSummary
from slm.corpus.tools.derive import Part, derive
from slm.corpus.tools.finished import FinishedCorpus, clip_frames, find_doubled, hash_ids
from slm.errors import UsageError


@dataclass(frozen=True)
class MergeConfig:
    """Make one corpus of several of the same tokenizer: `python -m slm.corpus merge A B ... --out C`.

    Its clips are in the order of the corpora; a column that one of them lacks is empty in its rows. A run that was
    stopped goes on when the same command is given again.
    """

    corpora: list[str]
    """Folders of finished corpora."""
    out: str
    """Folder for the new one."""
    prefix: bool = False
    """Put the name of each corpus's folder and a slash before its ids, where some are in several corpora."""

    def __post_init__(self) -> None:
        if len(self.corpora) < 2:
            raise UsageError("merge takes two corpora or more: python -m slm.corpus merge A B --out C")


def merge(config: MergeConfig) -> None:
    """Write the corpus and print what it is."""
    print(merge_corpora(config).describe())


def merge_corpora(config: MergeConfig) -> CorpusSummary:
    """UsageError where tokenizers differ, or an id is in two corpora."""
    corpora = [FinishedCorpus(path) for path in config.corpora]
    _check_specs(corpora)
    prefixes = _prefixes(corpora) if config.prefix else [""] * len(corpora)
    parts, hashes = list[Part](), []
    for corpus, prefix in zip(corpora, prefixes, strict=True):
        for name in corpus.names:
            table = corpus.table(name)
            parts.append(Part(corpus, name, int(clip_frames(table).sum()), prefix=prefix))
            hashes.append(hash_ids([prefix + id for id in table.column("id").to_pylist()]))
    _check_ids(parts, find_doubled(hashes, lambda i: _ids(parts[i])))
    rejects = [
        replace(reject, id=prefix + reject.id)
        for corpus, prefix in zip(corpora, prefixes, strict=True)
        for reject in corpus.rejects()
    ]
    largest = max(part.num_frames for part in parts)
    return derive(config.out, "merge", {"prefixes": prefixes if config.prefix else []}, parts, largest, rejects)


def _check_specs(corpora: Sequence[FinishedCorpus]) -> None:
    first = corpora[0]
    for other in corpora[1:]:
        if other.spec.fingerprint != first.spec.fingerprint:
            raise UsageError(
                f"{first.path} holds codes of {first.spec.describe()}, and {other.path} of {other.spec.describe()}: "
                "only corpora of one tokenizer can be merged"
            )


def _prefixes(corpora: Sequence[FinishedCorpus]) -> list[str]:
    names = [corpus.path.resolve().name for corpus in corpora]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"--prefix needs folders of different names, and {twice[0]!r} comes twice: rename one")
    return [f"{name}/" for name in names]


def _ids(part: Part) -> list[str]:
    return [part.prefix + id for id in part.corpus.table(part.name).column("id").to_pylist()]


def _check_ids(parts: Sequence[Part], doubled: Sequence[tuple[str, int, int]]) -> None:
    if doubled:
        id, first, again = doubled[0]
        where = f"in {parts[first].corpus.path} and in {parts[again].corpus.path}"
        raise UsageError(
            f"{len(doubled)} ids come more than once, such as {id!r}, {where}: give --prefix to tell them apart, or "
            "select the clips of one first"
        )
