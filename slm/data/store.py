"""A tokenized corpus, read in place: the Arrow buffers of its shards are memory-mapped and viewed, never copied."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from slm.data.ids import Ids
from slm.data.ragged import Ragged, compact
from slm.errors import UsageError
from slm.files import read_json
from slm.types import Codes, TokenizerSpec


class CodeStore:
    """Random access to the codes of `tokenize_corpus.py --out DIR`.

    `ids` and `frames`, the codes `[T, K]` of each clip, stay in the mapped shards; `num_frames [N]` and
    `num_samples [N]` are loaded. Raises UsageError for a folder that is not a finished corpus.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.spec = read_spec(self.path)
        self._files = [self.path / name for name in shard_names(self.path)]
        self._tables = [map_table(file) for file in self._files]
        self.ids = Ids(self._chunks("id"))
        self.frames = Ragged(_flat_codes(chunk, self.spec.num_codebooks) for chunk in self._chunks("codes"))
        self.num_frames = self.frames.lengths

    def __len__(self) -> int:
        return len(self.num_frames)

    @cached_property
    def num_samples(self) -> np.ndarray:
        return compact([chunk.to_numpy() for chunk in self._chunks("num_samples")])

    @property
    def duration_s(self) -> float:
        return float(self.num_samples.sum()) / self.spec.sample_rate_hz

    def column(self, name: str) -> list:
        """A column of the shards as Python values, such as `text` or `speaker`."""
        return [value for table in self._tables for value in table.column(name).to_pylist()]

    def _chunks(self, name: str) -> list[pa.Array]:
        return [chunk for table in self._tables for chunk in table.column(name).chunks]

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

    @cached_property
    def content(self) -> list[str]:
        """What changes with any shard: its seal, or of one that another program wrote size and time of change."""
        made = []
        for file, table in zip(self._files, self._tables, strict=True):
            seal = (table.schema.metadata or {}).get(b"sha256")
            about = file.stat()
            made.append(seal.decode() if seal else f"{file.name} {about.st_size} {about.st_mtime_ns}")
        return made

    def __getitem__(self, index: int) -> Codes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Codes(self.ids[index], self.codes(index), int(self.num_samples[index]), self.spec)

    def __iter__(self) -> Iterator[Codes]:
        return (self[i] for i in range(len(self)))


def read_spec(path: Path) -> TokenizerSpec:
    """The tokenizer of the corpus in a folder; UsageError where it is none."""
    if not path.is_dir():
        raise UsageError(f"no such corpus: {path} (make it with tokenize_corpus.py --out {path})")
    spec = path / "tokenizer.json"
    if not spec.is_file():
        raise UsageError(f"{path} is not a tokenized corpus: it has no tokenizer.json (see tokenize_corpus.py)")
    try:
        return TokenizerSpec.from_dict(read_json(spec))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{spec} is damaged ({error}); tokenize the corpus again") from error


def shard_names(path: Path) -> list[str]:
    """The files of its shards, in order; UsageError where the corpus is unfinished."""
    state = path / "state.json"
    if not state.is_file():
        raise UsageError(f"{path} is unfinished: run the same tokenize_corpus.py command again to complete it")
    return [file["filename"] for file in read_json(state)["_data_files"]]


def map_table(path: Path) -> pa.Table:
    """A shard, mapped; UsageError where it is not there or cannot be read."""
    if not path.is_file():
        raise UsageError(f"a shard is missing: {path}; run the tokenize_corpus.py command that made it again")
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_stream(source).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"{path} is damaged ({error}); delete it and run the command that made it again") from error


def _flat_codes(column: pa.ListArray, num_codebooks: int) -> tuple[np.ndarray, np.ndarray]:
    """A list<fixed_size_list<uint>> column -> `[sum T, K]` values and row offsets `[rows + 1]`, without copying.

    `.values` ignores an array's own slice, so both offsets (of the list and of the fixed-size list) are applied.
    """
    offsets = column.offsets.to_numpy()
    frames = column.values
    flat = frames.values.to_numpy(zero_copy_only=True)[frames.offset * num_codebooks :]
    return flat[: len(frames) * num_codebooks].reshape(-1, num_codebooks), offsets
