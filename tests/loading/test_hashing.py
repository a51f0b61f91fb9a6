"""Hashes and shuffles against plain Python."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from slm.data.documents import hold_out
from slm.data.hashing import hash_ids, mix, shuffled
from slm.data.ids import Ids

MASK = (1 << 64) - 1
IDS = ["", "a", "12345678", "123456789", "geh-straße/17", "日本語の音声", "x" * 1000, "\0", "\0\0", "1272-128104-0000"]


def slow_mix(h):
    h = ((h ^ (h >> 33)) * 0xFF51AFD7ED558CCD) & MASK
    h = ((h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53) & MASK
    return h ^ (h >> 33)


def slow_hash(id):
    data = id.encode()
    h = slow_mix((len(data) + 0x9E3779B97F4A7C15) & MASK)
    for start in range(0, len(data), 8):
        h = slow_mix(h ^ int.from_bytes(data[start : start + 8], "little"))
    return h


def arrays(ids, kind):
    """The same ids in columns of several chunks, some of them slices, one empty."""
    whole = pa.array(["before", *ids, "after"], kind)
    parts = [whole.slice(1, 3), whole.slice(4, 0), whole.slice(4, len(ids) - 3)]
    return [pa.chunked_array(parts[:2], kind), pa.chunked_array([], kind), pa.chunked_array(parts[2:], kind)]


def test_the_mixer_is_that_of_murmur_hash_3():
    values = [0, 1, 2**63, MASK, 0x0123456789ABCDEF]
    assert mix(np.array(values, np.uint64)).tolist() == [slow_mix(value) for value in values]
    assert slow_mix(1) == 0xB456BCFC34C2CB2C  # published


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_hashes_equal_a_plain_loop(kind):
    ids = [*IDS, *(f"speaker/{i}" * (i % 5) for i in range(200))]
    expected = [slow_hash(id) for id in ids]
    for given in (ids, Ids(arrays(ids, kind))):
        assert np.concatenate(list(hash_ids(given))).tolist() == expected
    assert len({*expected}) == len({*ids})


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_ids_are_a_sequence_of_strings(kind):
    told = []
    ids = Ids(arrays(IDS, kind), [lambda: told.append(1), lambda: told.append(2), lambda: told.append(3)])
    assert ids == IDS
    assert [*ids] == [ids[i] for i in range(len(ids))] == IDS
    assert ids[-1] == IDS[-1]
    assert ids[2:7:2] == IDS[2:7:2]
    assert IDS[3] in ids
    assert ids != IDS[1:]
    assert ids != [*IDS[:-1], "other"]
    with pytest.raises(IndexError):
        ids[len(IDS)]
    assert b"".join(text.tobytes() for text, _ in ids.spans()) == "".join(IDS).encode()
    assert told == [1, 2, 3]


def test_holding_out_is_by_the_hash():
    ids = [f"speaker/{i}" for i in range(2000)]
    kept, held = hold_out(ids, 0.1)
    assert held.tolist() == [i for i, id in enumerate(ids) if slow_hash(id) < int(0.1 * 2**64)]
    assert sorted([*kept, *held]) == list(range(2000))
    assert 150 < len(held) < 250
    grown = ["new", *ids]
    assert {ids[i] for i in held} <= {grown[i] for i in hold_out(grown, 0.1)[1]}
    assert [len(side) for side in hold_out([], 0.1)] == [0, 0]
    assert len(hold_out(ids, 0.0)[1]) == 0


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_a_shuffle_is_a_permutation_in_any_pieces(size):
    places = np.arange(size)
    whole = shuffled(places, size, (1, 2))
    assert sorted(whole.tolist()) == places.tolist()
    for some in np.array_split(places, 7):
        assert np.array_equal(whole[some], shuffled(some, size, (1, 2)))
    if size >= 16:
        assert not np.array_equal(whole, shuffled(places, size, (1, 3)))


@pytest.mark.thorough
def test_all_permutations_are_about_as_frequent():
    """Over many keys each of the 24 of 4 things comes up as chance has it (chi squared, 23 degrees, p = 1e-4)."""
    found = Counter(tuple(shuffled(np.arange(4), 4, (key,)).tolist()) for key in range(4800))
    assert sum((found[p] - 200) ** 2 / 200 for p in found) + 200 * (24 - len(found)) < 57.1


def test_neighbours_are_torn_apart():
    """Of a shuffle of 0 .. n - 1, neighbours are as far apart as strangers: n / 3 on average."""
    made = shuffled(np.arange(20_000), 20_000, (0,))
    assert np.abs(np.diff(made)).mean() == pytest.approx(20_000 / 3, rel=0.05)
    assert abs(np.corrcoef(made, np.arange(20_000))[0, 1]) < 0.03
