"""Units that are not the codes themselves: made once for a whole corpus, kept on disk, mapped from then on.

They lie in the corpus' folder (`.units/`) or, where that cannot be written to, below `~/.cache/slm/units`
(`XDG_CACHE_HOME`), in a folder named after all that they depend on: the codes, the ids and lengths of clips, and the
fingerprint of `Units`.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from slm.data.ragged import Ragged
from slm.data.store import CodeStore
from slm.devices import available_cores
from slm.errors import UsageError
from slm.files import atomic_directory, locked, read_json, user_cache, write_json
from slm.process_pool import ProcessPool
from slm.types import stable_hash
from slm.units import Units

_FRAMES_AT_ONCE = 1 << 19
_PROCESSES_FROM_FRAMES = 1 << 21  # below this, starting processes takes longer than they spare
_LINE_EVERY_S = 10.0

_TRIES = 30


def made_units(store: CodeStore, units: Units) -> Ragged:
    """The units `[R, K']` of all clips of a corpus, mapped; made now where they are not there, or not whole.

    Of several processes that start at once one makes them, and the others wait.
    """
    name = stable_hash({"corpus": store.digest, "codes": store.content, "units": units.fingerprint})[:32]
    places = [store.path / ".units", user_cache("units")]
    for place in places:
        if (found := _opened(place / name)) is not None:
            return found
    place = next((place for place in places if _is_writable(place)), places[-1])
    try:
        place.mkdir(parents=True, exist_ok=True)
        with locked(place / f"{name}.lock") as alone:
            found = _opened(place / name)  # another may have made them
            return _made(place, name, store, units, alone) if found is None else found
    except OSError as error:
        remedy = "it takes a folder that can be written to, with about as much room as the corpus"
        raise UsageError(f"units of {store.path} cannot be kept in {place} ({error}): {remedy}") from error


def _made(place: Path, name: str, store: CodeStore, units: Units, alone: bool) -> Ragged:
    if alone:  # what is half-written was left by a process that is gone
        for stale in place.glob(f".{name}.tmp-{platform.node()}-*"):
            shutil.rmtree(stale, ignore_errors=True)
    try:
        with atomic_directory(place / name) as folder:
            _write(folder, store, units)
    except OSError:
        if alone:
            raise
    # Without locks others may be putting the same in the same place at this moment.
    for _ in range(1 if alone else _TRIES):
        if (made := _opened(place / name)) is not None:
            return made
        time.sleep(0 if alone else 1)
    raise OSError(f"{place / name} was written and cannot be read")


def _is_writable(place: Path) -> bool:
    return os.access(place if place.exists() else place.parent, os.W_OK | os.X_OK)


def _opened(folder: Path) -> Ragged | None:
    """What `_write` wrote; None where it is not there or, which is said, not whole."""
    if not folder.is_dir():
        return None
    try:
        about = read_json(folder / "about.json")
        offsets = np.load(folder / "offsets.npy")
        shape, dtype = tuple(about["shape"]), np.dtype(about["dtype"])
        num_bytes = shape[0] * shape[1] * dtype.itemsize
        file = folder / "units.bin"
        if file.stat().st_size == num_bytes and zlib.crc32(offsets.data) == about["offsets_crc32"]:
            values = np.memmap(file, dtype, "r", shape=shape) if num_bytes else np.zeros(shape, dtype)
            return Ragged([(np.asarray(values), offsets)])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    print(f"{folder} is damaged: its units are made again", file=sys.stderr)
    return None


def _write(folder: Path, store: CodeStore, units: Units) -> None:
    told, lengths, dtype = time.monotonic(), [np.zeros(0, np.int64)], np.dtype(np.uint16)
    with open(folder / "units.bin", "wb") as file:
        for made, counts in _blocks_made(store, units):
            file.write(made.tobytes())
            lengths.append(counts)
            dtype = made.dtype
            if time.monotonic() - told > _LINE_EVERY_S:
                told = time.monotonic()
                done = sum(map(len, lengths))
                print(f"making units of {store.path}: {done:,} of {len(store):,} clips", file=sys.stderr, flush=True)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    np.save(folder / "offsets.npy", offsets)
    shape = [int(offsets[-1]), len(units.sizes)]
    write_json(folder / "about.json", {"shape": shape, "dtype": dtype.str, "offsets_crc32": zlib.crc32(offsets.data)})


def _blocks_made(store: CodeStore, units: Units) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Units and their lengths, a block of clips after the other. Byte-pair encoding takes all cores."""
    blocks = list(_blocks(store))
    cores = available_cores()
    if units.bpe is None or cores == 1 or int(store.num_frames.sum(dtype=np.int64)) < _PROCESSES_FROM_FRAMES:
        yield from (_make_block(store.frames, units, block) for block in blocks)
        return
    with ProcessPool(cores, get_context("spawn"), _start_worker, (store.path, units)) as pool:
        yield from pool.map(_worker_block, blocks)


def _blocks(store: CodeStore) -> Iterator[tuple[int, int, int]]:
    """(part of the store, first clip in it, the clip after the last), each of about so many frames."""
    for part, (_, offsets) in enumerate(store.frames.parts()):
        bounds = np.arange(offsets[0], offsets[-1], _FRAMES_AT_ONCE)
        firsts = np.unique([0, *np.searchsorted(offsets[:-1], bounds), len(offsets) - 1])
        yield from ((part, int(a), int(b)) for a, b in pairwise(firsts))


def _make_block(frames: Ragged, units: Units, block: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What `units.apply` makes of each clip of a block, one after another `[sum R, K']`, and their lengths."""
    part, first, last = block
    values, offsets = frames.parts()[part]
    codes, bounds = values[offsets[first] : offsets[last]], offsets[first : last + 1].astype(np.int64) - offsets[first]
    if units.dedup:
        codes, bounds = _deduplicated(codes, bounds)
    if units.bpe is None:
        return codes, np.diff(bounds)
    made = [units.bpe.encode(codes[start:end]) for start, end in pairwise(bounds)]
    return np.concatenate(made), np.array([len(ids) for ids in made], np.int64)


def _deduplicated(codes: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`slm.units.deduplicate` of many clips at once: where each begins, a run does."""
    starts = np.empty(len(codes), bool)
    starts[1:] = codes[1:, 0] != codes[:-1, 0]
    starts[bounds[:-1][bounds[:-1] < len(codes)]] = True
    before = np.concatenate([[0], np.cumsum(starts)])
    return codes[starts], before[bounds]


_WORKER: dict[str, tuple[Ragged, Units]] = {}


def _start_worker(path: Path, units: Units) -> None:
    _WORKER["corpus"] = CodeStore(path).frames, units


def _worker_block(block: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    return _make_block(*_WORKER["corpus"], block)
