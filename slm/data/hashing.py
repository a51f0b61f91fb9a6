"""Hashes of many ids, and shuffles of any size, without a table: each value follows from its place alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from slm.data.ids import Ids

_GOLDEN = 0x9E3779B97F4A7C15


def mix(values: np.ndarray) -> np.ndarray:
    """uint64 -> uint64, one to one, every bit depending on all (the finalizer of MurmurHash3, fmix64)."""
    values = values ^ (values >> np.uint64(33))
    values *= np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(33)
    values *= np.uint64(0xC4CEB9FE1A85EC53)
    values ^= values >> np.uint64(33)
    return values


def hash_ids(ids: Sequence[str]) -> Iterator[np.ndarray]:
    """uint64 hashes of ids, in order, many at a time. Each depends on its id alone, for good: held-out clips are
    chosen by it.

    The UTF-8 bytes are read as little-endian words of 8, the last filled up with zeros. From
    h = mix(number of bytes + 0x9E3779B97F4A7C15), each word makes h = mix(h ^ word).
    """
    for text, offsets in Ids.of(ids).spans():
        yield _hash_span(text, offsets)


def _hash_span(text: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    words = np.zeros(len(text) // 8 + 2, "<u8")
    words.view(np.uint8)[: len(text)] = text
    starts, left = offsets[:-1].copy(), np.diff(offsets)
    hashes = mix(left.astype(np.uint64) + np.uint64(_GOLDEN))
    masks = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
    rows: slice | np.ndarray = slice(None) if left.all() else np.flatnonzero(left)
    while len(left[rows]):
        word = _unaligned(words, starts[rows]) & masks[np.minimum(left[rows], 8)]
        hashes[rows] = mix(hashes[rows] ^ word)
        starts[rows] += 8
        left[rows] = np.maximum(left[rows] - 8, 0)
        if not (more := left[rows] > 0).all():
            rows = np.flatnonzero(more) if isinstance(rows, slice) else rows[more]
    return hashes


def _unaligned(words: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The 8 bytes from byte `at` on."""
    shift = (at & 7).astype(np.uint64) * np.uint64(8)
    low, high = words[at >> 3], words[(at >> 3) + 1]
    return (low >> shift) | ((high << np.uint64(1)) << (np.uint64(63) - shift))


def shuffled(places: np.ndarray, size: int, key: Sequence[int]) -> np.ndarray:
    """What stands at these places (int64) of a shuffle of 0 .. size - 1: a permutation that `key` chooses.

    A Feistel network over the bits of the places: half of them are changed by a hash of the other half, in turns. A
    value beyond `size` goes through again until it lies within, so that no table is needed.
    """
    bits = max(2, (size - 1).bit_length())
    low_bits = np.uint64(bits // 2)
    low_mask, high_mask = np.uint64((1 << bits // 2) - 1), np.uint64((1 << bits - bits // 2) - 1)
    rounds = 16 if bits <= 12 else 6  # few bits take more rounds until all permutations are alike
    keys = np.random.SeedSequence(list(key)).generate_state(rounds, np.uint64)
    made = np.asarray(places).astype(np.uint64)
    rows = np.arange(len(made))
    while len(rows):
        low, high = made[rows] & low_mask, made[rows] >> low_bits
        for number, round_key in enumerate(keys):
            if number % 2:
                high ^= mix(low ^ round_key) & high_mask
            else:
                low ^= mix(high ^ round_key) & low_mask
        made[rows] = (high << low_bits) | low
        rows = rows[made[rows] >= size]
    return made.astype(np.int64)
