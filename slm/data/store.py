"""A tokenized corpus, read in place: the Arrow buffers of its shards are memory-mapped and viewed, never copied."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from slm.data.ids import Ids
from slm.data.ragged import Ragged, compact
from slm.data.shard import Shard
from slm.errors import UsageError
from slm.files import check_local, read_json
from slm.types import Codes, TokenizerSpec

_T = TypeVar("_T")


class CodeStore:
    """Random access to the codes of `tokenize_corpus.py --out DIR`.

    `ids` and `frames`, the codes `[T, K]` of each clip, stay in the mapped shards; `num_frames [N]` and
    `num_samples [N]` are loaded. Raises UsageError for a folder that is not a finished corpus.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.spec = read_spec(self.path)
        self._shards = [Shard(self.path / name) for name in shard_names(self.path)]
        self.frames = Ragged(part for part in self._each(lambda shard: shard.frames(self.spec.num_codebooks)))
        self.num_frames = self.frames.lengths
        self.ids = Ids((shard.table.column("id") for shard in self._shards), [shard.forget for shard in self._shards])

    def __len__(self) -> int:
        return len(self.num_frames)

    @cached_property
    def num_samples(self) -> np.ndarray:
        return compact(self._each(Shard.num_samples))

    @property
    def duration_s(self) -> float:
        return float(self.num_samples.sum()) / self.spec.sample_rate_hz

    def column(self, name: str) -> list:
        """A column of the shards as Python values, such as `text` or `speaker`."""
        return [value for shard in self._shards for value in shard.table.column(name).to_pylist()]

    def _each(self, read: Callable[[Shard], Iterable[_T]]) -> Iterator[_T]:
        """What is read of each shard, whose memory is given back then."""
        for shard in self._shards:
            yield from read(shard)
            shard.forget()

    def codes(self, index: int) -> np.ndarray:
        """Codes `[T, K]` of one clip: a read-only view."""
        return self.frames[index]

    @cached_property
    def digest(self) -> str:
        """sha256 of ids and lengths in their order, however the clips are divided among shards."""
        text, places, frames = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        done = 0
        for span, offsets in self.ids.spans():
            number = len(offsets) - 1
            text.update(span.data)
            places.update(np.diff(offsets).data)
            frames.update(self.num_frames[done : done + number].astype(np.int64).data)
            done += number
        return hashlib.sha256(text.digest() + places.digest() + frames.digest()).hexdigest()

    @property
    def content(self) -> list[str]:
        """What changes with any code of any shard."""
        return [shard.content for shard in self._shards]

    def __getitem__(self, index: int) -> Codes:
        if not 0 <= index < len(self):
            raise IndexError(f"no clip {index}: there are {len(self)}, from 0 on")
        return Codes(self.ids[index], self.codes(index), int(self.num_samples[index]), self.spec)

    def __iter__(self) -> Iterator[Codes]:
        return (self[i] for i in range(len(self)))


def read_spec(path: Path) -> TokenizerSpec:
    """The tokenizer of the corpus in a folder; UsageError where it is none."""
    if not path.is_dir():
        check_local(path, f"the corpus {path}")
        raise UsageError(f"no such corpus: {path} (make it with tokenize_corpus.py --out {path})")
    spec = path / "tokenizer.json"
    if not spec.is_file():
        raise UsageError(f"{path} is not a tokenized corpus: it has no tokenizer.json (see tokenize_corpus.py)")
    try:
        return TokenizerSpec.from_dict(read_json(spec))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{spec} is damaged ({error}); tokenize the corpus again") from error


def shard_names(path: Path) -> list[str]:
    """The files of its shards, in order; UsageError where the corpus is unfinished, or its list of them damaged."""
    state = path / "state.json"
    if not state.is_file():
        raise UsageError(f"{path} is unfinished: run the same tokenize_corpus.py command again to complete it")
    try:
        return [file["filename"] for file in read_json(state)["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{state} is damaged ({error}); tokenize the corpus again") from error


def map_table(path: Path) -> pa.Table:
    """A shard, mapped; UsageError where it is not there or cannot be read."""
    return Shard(path).table
