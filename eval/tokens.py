"""The audio of a benchmark as codes, kept on disk: a rerun and every baseline use what the first run tokenized."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.benchmarks.base import LeftOut
from eval.processes import ALONE, Processes
from slm.corpus.sources.base import readable
from slm.data.store import CodeStore
from slm.devices import available_cores
from slm.errors import UsageError
from slm.files import check_folder, locked, read_json_lines, write_text
from slm.types import Codes, stable_hash

if TYPE_CHECKING:
    from slm.spoken_lm import SpokenLM


_HASHING_THREADS = 8
SHARD_HOURS = 0.25  # so small that there is a share for each of several processes


@dataclass(frozen=True)
class Tokens:
    """`codes` of each item that could be tokenized, at least one frame long; the others with the reason."""

    folder: Path
    codes: Mapping[str, Codes]
    left_out: tuple[LeftOut, ...]
    audio_sha256: str
    """Of the content of every file, with its item."""

    def place(self, out: Path) -> str:
        """Its folder as OUT/results.json names it: relative where it lies below OUT."""
        folder, here = self.folder.resolve(), out.resolve()
        return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def item_list_hash(items: Iterable[Any]) -> str:
    """sha256 of a benchmark's items in any order, each JSON-able: equal for two people who scored the same list."""
    return stable_hash(sorted(stable_hash(item) for item in items))


def tokenize_items(files: Mapping[str, Path], lm: SpokenLM, folder: Path, name: str,
                   processes: Processes = ALONE) -> Tokens:  # fmt: skip
    """Tokenize `files` (item -> path) into FOLDER/NAME-HASH, a corpus like any other, unless it is there already.

    HASH covers the tokenizer, the items and the content of their files: any model of that tokenizer takes what is
    there. Whoever comes while it is made waits. UsageError where none can be used.
    """
    nameable = {folder for folder in {path.parent for path in files.values()} if _is_text(folder.resolve())}
    present = {
        item: path for item, path in files.items()
        if os.path.isfile(path) and path.parent in nameable and _is_text(path.name)  # False of a name too long
    }  # fmt: skip
    missing = [LeftOut(item, _lack(path)) for item, path in files.items() if item not in present]
    if (first := next(iter(files.values()), None)) and not present and os.path.isfile(first):
        raise UsageError(f"{_lack(first)}: rename the file or a folder that it lies in")
    contents = sorted(zip(present, _digests(list(present.values())), strict=True))
    corpus = folder / f"{name}-{stable_hash([lm.spec.fingerprint, contents])[:12]}"
    left = _lock_of(corpus).exists() and os.access(folder, os.W_OK)  # by a killed run, or it is only just whole
    if processes.count > 1 or not _is_whole(corpus) or left:  # all meet, whatever each of them finds
        check_folder(folder, "--cache")
        folder.mkdir(parents=True, exist_ok=True)
        _tokenize_together(present, lm, corpus, processes)
    codes = _stored(corpus)
    empty = [LeftOut(item, "shorter than one frame") for item, c in codes.items() if not len(c.codes)]
    whole = {item: c for item, c in codes.items() if len(c.codes)}
    return Tokens(corpus, whole, (*missing, *_rejects(corpus), *empty), stable_hash(contents))


def _is_text(path: Path | str) -> bool:
    """Whether a list can name it."""
    return readable(path) == str(path)


def _lack(path: Path) -> str:
    """Why a file is not in the list."""
    return f"no UTF-8 in the name of {readable(path.resolve())}" if os.path.isfile(path) else f"no such file: {path}"


def _stored(corpus: Path) -> dict[str, Codes]:
    """UsageError where what is there was damaged, by a full disk or by hand."""
    try:
        return {c.id: c for c in CodeStore(corpus)}
    except (UsageError, ValueError, KeyError) as error:
        raise UsageError(
            f"the codes of a benchmark in {corpus} are damaged ({error}): remove that folder, and give this command "
            "again"
        ) from None


def _digests(paths: Sequence[Path]) -> list[str]:
    """sha256 of each file. Hashing lets go of Python's lock, so that threads do it beside each other."""
    threads = min(_HASHING_THREADS, available_cores())
    with ThreadPoolExecutor(threads) as pool:  # a thread has every n-th file: a task for each would cost as much
        parts = list(pool.map(lambda first: [_digest(path) for path in paths[first::threads]], range(threads)))
    return [parts[i % threads][i // threads] for i in range(len(paths))]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lock_of(corpus: Path) -> Path:
    return corpus.with_name(f".{corpus.name}.lock")


def _is_whole(corpus: Path) -> bool:
    return (corpus / "state.json").is_file()


def _tokenize_together(present: Mapping[str, Path], lm: SpokenLM, corpus: Path, processes: Processes) -> None:
    """Each process makes the shards of its number. Another run that is at it is waited for."""
    with locked(_lock_of(corpus)) if processes.is_main else nullcontext():
        manifest = corpus.with_name(f"{corpus.name}.jsonl")
        if processes.is_main and not _is_whole(corpus):
            name = corpus.name.rpartition("-")[0]
            print(f"{name}: tokenizing {len(present):,} files with {lm.spec.name}", file=sys.stderr, flush=True)
            lines = (json.dumps({"id": item, "path": str(path.resolve())}) + "\n" for item, path in present.items())
            write_text(manifest, "".join(lines))
        processes.wait()  # for the list, and for the lock
        if not _is_whole(corpus):
            _tokenize(manifest, lm, corpus, processes)
        processes.wait()
    if not _is_whole(corpus):
        raise UsageError(f"{corpus.name}: a process beside this one could not tokenize its part; it says why")


def _tokenize(manifest: Path, lm: SpokenLM, corpus: Path, processes: Processes) -> None:
    from slm.corpus.config import CorpusConfig
    from slm.corpus.pipeline import tokenize_corpus
    from slm.corpus.plan import NothingUsableError

    config = CorpusConfig(audio=str(manifest), tokenizer=lm.spec.name, out=str(corpus), shard_hours=SHARD_HOURS)
    if processes.count > 1:
        part = f"{processes.rank}/{processes.count}"
        config = replace(config, shard_range=part, num_workers=config.readers(processes.count))
    try:
        tokenize_corpus(config, lm.tokenizer)
    except NothingUsableError as error:
        raise UsageError(f"{corpus.name}: {error.finding}; fetch the recordings of the benchmark again") from None


def _rejects(corpus: Path) -> list[LeftOut]:
    return [LeftOut(row["id"], row["reason"]) for row in read_json_lines(corpus / "rejects.jsonl")]
