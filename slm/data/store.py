"""A tokenized corpus, read in place: the Arrow buffers of its shards are memory-mapped and viewed, never copied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from slm.errors import UsageError
from slm.files import read_json
from slm.types import Codes, TokenizerSpec


class CodeStore:
    """Random access to the codes of `tokenize_corpus.py --out DIR`.

    `ids`, `num_frames [N]`, `num_samples [N]` are loaded; `codes(i)` is a view `[T, K]` of the mapped shard.
    Raises UsageError for a folder that is not a finished corpus.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.spec = read_spec(self.path)
        self._tables = [map_table(self.path / name) for name in shard_names(self.path)]
        self._values: list[np.ndarray] = []
        self._offsets: list[np.ndarray] = []
        for table in self._tables:
            for batch in table.to_batches():
                values, offsets = _flat_codes(batch.column("codes"), self.spec.num_codebooks)
                self._values.append(values)
                self._offsets.append(offsets)
        lengths = [np.diff(o) for o in self._offsets]
        self.num_frames = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)
        self._starts = np.cumsum([0, *(len(n) for n in lengths)])
        self.ids: list[str] = self.column("id")
        self.num_samples = np.asarray(self.column("num_samples"), np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def duration_s(self) -> float:
        return float(self.num_samples.sum()) / self.spec.sample_rate_hz

    def column(self, name: str) -> list:
        """A column of the shards as Python values, such as `text` or `speaker`."""
        return [value for table in self._tables for value in table.column(name).to_pylist()]

    def codes(self, index: int) -> np.ndarray:
        """Codes `[T, K]` of one clip: a read-only view."""
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        offsets = self._offsets[part]
        row = index - int(self._starts[part])
        return self._values[part][offsets[row] : offsets[row + 1]]

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
