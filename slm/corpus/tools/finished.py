"""A finished corpus, read a shard at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from slm.corpus.plan import Reject
from slm.corpus.tools.files import local
from slm.data.store import map_table, read_spec, shard_names
from slm.errors import UsageError


class FinishedCorpus:
    """The shards of a corpus by name; they are mapped, not loaded. UsageError for a folder that is no finished one."""

    def __init__(self, path: str | Path):
        self.path = local(path)
        self.spec = read_spec(self.path)
        try:
            self.names = shard_names(self.path)
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{self.path / 'state.json'} is damaged ({error}); check --redo mends that") from None

    def table(self, name: str) -> pa.Table:
        return map_table(self.path / name)

    def tables(self) -> Iterator[pa.Table]:
        return map(self.table, self.names)

    def rejects(self) -> Iterator[Reject]:
        path = self.path / "rejects.jsonl"
        if path.is_file():
            with open(path, encoding="utf-8") as lines:
                for line in lines:
                    yield Reject(**json.loads(line))

    def digest(self) -> str:
        """sha256 of the list of its shards with their seals (of a corpus by another program: of their names)."""
        listing = self.path / "shards.json"
        return hashlib.sha256((listing if listing.is_file() else self.path / "state.json").read_bytes()).hexdigest()


def clip_frames(table: pa.Table) -> np.ndarray:
    """Frames of each row `[rows]`."""
    lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in table.column("codes").chunks]
    return np.concatenate(lengths) if lengths else np.zeros(0, np.int32)


def hash_ids(ids: Sequence[str]) -> np.ndarray:
    """`[ids]` of 8 bytes each, the same in this process only."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def find_doubled(hashes: Sequence[np.ndarray], ids: Callable[[int], Iterable[str]]) -> list[tuple[str, int, int]]:
    """Ids that come twice in several lists of ids, given the hashes of each list, and the lists where each is first
    and again: `ids` is asked only for lists whose hashes leave a doubt."""
    found, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *hashes]), return_counts=True)
    doubtful = found[counts > 1]
    first: dict[str, int] = {}
    doubled = []
    for i, some in enumerate(hashes):
        if np.isin(some, doubtful).any():
            for id in ids(i):
                if id in first:
                    doubled.append((id, first[id], i))
                else:
                    first[id] = i
    return doubled
