"""Documents: what identifies them, and units that are made once and read ever after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk

from slm.data.documents import Documents
from slm.data.store import CodeStore
from slm.errors import UsageError
from slm.files import read_json, write_json
from slm.units import UnitBPE, Units
from tests.fakes import ArithmeticTokenizer, random_codes, write_corpus
from tests.loading.sources import corpus

LENGTHS = [5, 1, 0, 9, 30, 0, 7, 12]


def repetitive(path, num_codebooks=1, lengths=LENGTHS):
    codes = random_codes(ArithmeticTokenizer(num_codebooks, 3), lengths)
    return CodeStore(write_corpus(path, codes))


def rewritten(store, path, **options):
    load_from_disk(str(store.path)).save_to_disk(str(path), **options)
    write_json(path / "tokenizer.json", store.spec.to_dict())
    return CodeStore(path)


@pytest.fixture
def store(tmp_path):
    return repetitive(tmp_path / "corpus")


def bpe_of(store, dedup=False):
    read = Units(store.spec.codebook_sizes, dedup)
    documents = [read.apply(store.codes(i)) for i in range(len(store))]
    return UnitBPE.train(documents, store.spec.codebook_sizes, 3 * store.spec.num_codebooks + 2, dedup)


def test_the_digest_is_of_the_clips_however_they_are_stored(store, tmp_path):
    digest = Documents(store, keep=[1, 4]).digest()
    assert Documents(rewritten(store, tmp_path / "b", num_shards=3), keep=[1, 4]).digest() == digest
    assert Documents(store).digest() == Documents(store, keep=range(8)).digest() != digest


def test_the_digest_changes_with_any_clip(store, tmp_path):
    digests = {Documents(store).digest(), *(Documents(store, keep=k).digest() for k in ([1], [2], [1, 2], [2, 1], []))}
    codes = [store[i] for i in range(8)]
    changed = {
        "order": [codes[1], codes[0], *codes[2:]],
        "id": [*codes[:7], codes[7].__class__("clip-7", codes[7].codes, codes[7].num_samples, store.spec)],
        "length": [*codes[:7], codes[7].__class__(codes[7].id, codes[7].codes[:-1], codes[7].num_samples, store.spec)],
        "fewer": codes[:7],
    }
    for name, clips in changed.items():
        digests.add(Documents(CodeStore(write_corpus(tmp_path / name, clips))).digest())
    assert len(digests) == 6 + len(changed)


@pytest.mark.parametrize("kind", ["dedup", "bpe", "both", "several codebooks"])
@pytest.mark.parametrize("at_once", [4, 1 << 19])
def test_made_units_are_those_of_each_clip(tmp_path, monkeypatch, kind, at_once):
    monkeypatch.setattr("slm.data.unit_cache._FRAMES_AT_ONCE", at_once)
    store = repetitive(tmp_path / "one", 2 if kind == "several codebooks" else 1)
    store = rewritten(store, tmp_path / "corpus", num_shards=3)
    dedup = kind in ("dedup", "both")
    units = Units(store.spec.codebook_sizes, dedup, None if kind == "dedup" else bpe_of(store, dedup))
    keep = [6, 4, 3, 2]
    for _ in ("made", "found"):
        documents = Documents(store, units, keep)
        for i, index in enumerate(keep):
            expected = units.apply(store.codes(index))
            assert np.array_equal(documents.codes(i), expected)
            assert documents.codes(i).dtype == expected.dtype
            assert documents.num_frames[i] == len(expected)
        assert documents.duration_s == pytest.approx(sum(LENGTHS[i] for i in keep) * 160 / 8000)
    assert len(list((store.path / ".units").glob("[!.]*/about.json"))) == 1
    pieces = np.array([[0, 0, documents.num_frames[0], 1], [1, 0, documents.num_frames[1] // 2, 0]])
    share = documents.num_frames[1] // 2 / documents.num_frames[1]
    assert documents.audio_s(pieces) == pytest.approx((7 + 30 * share) * 160 / 8000)
    assert documents.num_codes(pieces) == documents.num_frames[0] + documents.num_frames[1] // 2


def test_processes_make_what_one_makes(tmp_path, monkeypatch):
    store = repetitive(tmp_path / "corpus", lengths=LENGTHS * 10)
    units = Units(store.spec.codebook_sizes, bpe=bpe_of(store))
    monkeypatch.setattr("slm.data.unit_cache._FRAMES_AT_ONCE", 50)
    monkeypatch.setattr("slm.data.unit_cache._PROCESSES_FROM_FRAMES", 1)
    monkeypatch.setattr("slm.data.unit_cache.available_cores", lambda: 2)
    documents = Documents(store, units)
    assert all(np.array_equal(documents.codes(i), units.apply(store.codes(i))) for i in range(len(store)))


def test_units_are_made_once_for_all_they_depend_on(store, tmp_path, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a container's user, who has no home
    one, other = Units((3,), dedup=True), Units((3,), bpe=bpe_of(store))
    Documents(store, one)
    (made,) = (store.path / ".units").glob("*/units.bin")
    first = made.stat().st_mtime_ns
    Documents(CodeStore(store.path), Units((3,), dedup=True), [1])
    assert made.stat().st_mtime_ns == first
    Documents(store, other)
    assert len(list((store.path / ".units").glob("*/units.bin"))) == 2
    # The same ids and lengths, other codes: tokenized anew in the same folder.
    (file,) = [entry["filename"] for entry in read_json(store.path / "state.json")["_data_files"]]
    again = [store[i] for i in range(len(store))]
    again = [type(c)(c.id, (2 - c.codes).astype(np.uint16), c.num_samples, c.spec) for c in again]
    source = write_corpus(tmp_path / "again", again)
    (new,) = source.glob("*.arrow")
    new.replace(store.path / file)
    documents = Documents(CodeStore(store.path), one)
    assert np.array_equal(documents.codes(4), one.apply(again[4].codes))


@pytest.mark.parametrize("damage", ["cut", "offsets", "about", "missing", "dtype"])
def test_damaged_units_are_made_again(store, capsys, damage):
    units = Units((3,), dedup=True)
    expected = [Documents(store, units).codes(i).tolist() for i in range(len(store))]
    (folder,) = (path.parent for path in (store.path / ".units").glob("*/about.json"))
    if damage == "cut":
        os.truncate(folder / "units.bin", 3)
    elif damage == "offsets":
        content = bytearray((folder / "offsets.npy").read_bytes())
        content[-8] ^= 1
        (folder / "offsets.npy").write_bytes(content)
    elif damage == "missing":
        (folder / "units.bin").unlink()
    else:
        (folder / "about.json").write_text("{" if damage == "about" else '{"shape": [1, 1], "dtype": "nothing"}')
    documents = Documents(store, units)
    assert [documents.codes(i).tolist() for i in range(len(store))] == expected
    assert "is damaged: its units are made again" in capsys.readouterr().err


HEADER = """
import sys
from slm.data.documents import Documents
from slm.data.store import CodeStore
from slm.units import Units
documents = Documents(CodeStore(sys.argv[1]), Units((3,), dedup=True))
"""
KILLED = """
import os, signal
import slm.data.unit_cache as cache
make = cache._make_block
def killed(frames, units, block):
    if block[1] > 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(frames, units, block)
cache._FRAMES_AT_ONCE, cache._make_block = 8, killed
"""


def test_a_run_killed_while_it_makes_them_leaves_nothing_half_made(store):
    assert started(KILLED + HEADER, store).wait() == -signal.SIGKILL
    left = [path.name for path in (store.path / ".units").iterdir()]
    assert any(".tmp-" in name for name in left)
    units = Units((3,), dedup=True)
    documents = Documents(store, units)
    assert all(np.array_equal(documents.codes(i), units.apply(store.codes(i))) for i in range(len(store)))
    assert not any(".tmp-" in path.name for path in (store.path / ".units").iterdir())


def started(code, store):
    command = [sys.executable, "-c", code, str(store.path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_several_processes_that_start_at_once_agree(store):
    processes = [started(HEADER + "print(documents.codes(4).tolist())", store) for _ in "abc"]
    expected = str(Units((3,), dedup=True).apply(store.codes(4)).tolist())
    assert [process.communicate()[0].strip() for process in processes] == [expected] * 3


def test_a_corpus_that_cannot_be_written_to_has_its_units_elsewhere(store, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(store.path)))
    units = Units((3,), dedup=True)
    for _ in ("made", "found"):
        assert np.array_equal(Documents(store, units).codes(4), units.apply(store.codes(4)))
    assert not (store.path / ".units").exists()
    assert len(list((tmp_path / "home/.cache/slm/units").glob("*/about.json"))) == 1


def test_where_units_can_be_kept_nowhere_it_says_so(store, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match=r"units of .*corpus cannot be kept in .*home.*: it takes a folder"):
        Documents(store, Units((3,), dedup=True))


@pytest.mark.parametrize("lengths", [[0], [0, 0]])
def test_clips_without_frames_have_no_units(tmp_path, lengths):
    store = repetitive(tmp_path / "corpus", lengths=lengths)
    for units in (Units((3,), dedup=True), Units((3,), bpe=bpe_of(repetitive(tmp_path / "other")))):
        for _ in ("made", "found"):
            documents = Documents(store, units)
            assert documents.num_frames.tolist() == lengths
            assert documents.codes(0).shape == (0, 1)


def test_codes_themselves_are_not_made(store):
    documents = Documents(store, Units((3,)), [4])
    assert documents.codes(0).base is not None
    assert not (store.path / ".units").exists()


def test_a_corpus_of_one_codebook_in_several_files(tmp_path):
    store = rewritten(corpus(tmp_path / "a", LENGTHS), tmp_path / "b", num_shards=3)
    parts = store.frames.parts()
    assert sum(len(offsets) - 1 for _, offsets in parts) == len(store)
    indices, starts, ends = np.array([4, 3, 2, 7]), np.array([3, 0, 0, 5]), np.array([20, 9, 0, 12])
    expected = [store.codes(int(i))[a:b] for i, a, b in zip(indices, starts, ends, strict=True)]
    assert np.array_equal(store.frames.gather(indices, starts, ends), np.concatenate(expected))
