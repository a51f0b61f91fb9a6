"""WebDataset tars: written by `tarfile`, as WebDataset itself writes them."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile

import numpy as np
import pytest

from slm.audio import read_audio
from slm.corpus import containers, remote
from slm.corpus.planning import PlanSettings, make_plan
from slm.corpus.reading import probe_clip, read_clip
from slm.corpus.sources import list_clips, open_source
from slm.errors import AudioError, UsageError
from tests.corpus.audio import write_clip
from tests.fakes import ArithmeticTokenizer


@pytest.fixture
def clip(tmp_path):
    """The bytes of a recording of 0.3 s, by its seed."""

    def made(seed=0):
        return write_clip(tmp_path / "clips" / f"{seed}.wav", 0.3, seed=seed).read_bytes()

    return made


def write_tar(path, files, format=tarfile.GNU_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_are_files_of_one_name(tmp_path, clip, format):
    long = "é" * 100
    files = {
        "./a/one.json": json.dumps({"text": "in JSON", "n": 3, "speaker": "s"}).encode(),
        "./a/one.wav": clip(1),
        "a/two.WAV": clip(2),
        "a/two.txt": "wörd\n".encode(),
    }
    if format != tarfile.USTAR_FORMAT:
        files |= {f"{long}.wav": clip(3), f"{long}.json": b"{}"}
    path = write_tar(tmp_path / "x.tar", files, format)
    one, two, *rest = list_clips(path)
    assert (one.id, one.metadata) == ("a/one", {"text": "in JSON", "n": 3, "speaker": "s"})
    assert (two.id, two.metadata) == ("a/two", {"text": "wörd"})
    assert [(clip.id, clip.metadata) for clip in rest] == [(long, {})] * (format != tarfile.USTAR_FORMAT)
    for number, found in enumerate([one, two, *rest], start=1):
        assert probe_clip(found).num_frames == 2400
        assert np.array_equal(read_clip(found, 8000), read_audio(tmp_path / "clips" / f"{number}.wav", 8000))


def test_ids_tell_tars_and_files_of_a_sample_apart(tmp_path, clip):
    for i in range(9, 12):
        write_tar(tmp_path / "shards" / f"s-{i:03d}.tar", {"0.wav": clip(i), "0.json": b'{"n": 1}'})
    whole = list_clips(tmp_path / "shards")
    assert [clip.id for clip in whole] == ["s-009/0", "s-010/0", "s-011/0"]
    assert list_clips(tmp_path / "shards" / "s-{009..011}.tar") == whole
    assert list_clips(tmp_path / "shards" / "s-0{10..11}.tar") == whole[1:]
    several = write_tar(tmp_path / "x.tar", {"k.mic1.wav": clip(1), "k.mic2.wav": clip(2), "k.json": b'{"n": 1}'})
    assert [(clip.id, clip.metadata) for clip in list_clips(several)] == [
        ("k.mic1.wav", {"n": 1}),
        ("k.mic2.wav", {"n": 1}),
    ]


def test_tars_of_one_name_are_told_apart_by_their_folders(tmp_path, clip):
    for i, name in enumerate(["train/en/0.tar", "train/de/0.tar", "train/1.tar"]):
        write_tar(tmp_path / "shards" / name, {"a.wav": clip(i)})
    ids = [clip.id for clip in list_clips(tmp_path / "shards")]
    assert sorted(ids) == ["train/1/a", "train/de/0/a", "train/en/0/a"]
    assert [clip.id for clip in list_clips(f"file://{tmp_path}/shards", "webdataset")] == ids
    for i in range(2):
        write_tar(tmp_path / f"s{i}" / "0.tar", {"a.wav": clip(i)})
    assert [clip.id for clip in list_clips(tmp_path / "s{0..1}" / "0.tar")] == ["s0/0/a", "s1/0/a"]
    repository = open_source(tmp_path / "shards", "hub")
    assert sorted(clip.id for clip in repository.clips()) == sorted(ids)


def test_sidecars_of_other_names_are_columns_or_those_of_their_audio(tmp_path, clip):
    files = {"s.wav": clip(1), "s.txt": b"a", "s.normalized.txt": b"b", "s.about.json": b'{"n": 1}'}
    files |= {
        "t.x.wav": clip(2),
        "t.x.txt": b"c",
        "t.y.wav": clip(3),
        "t.y.json": b'{"text": "d"}',
        "t.json": b'{"n": 2}',
    }
    assert [(clip.id, clip.metadata) for clip in list_clips(write_tar(tmp_path / "x.tar", files))] == [
        ("s", {"text": "a", "normalized": "b", "about": {"n": 1}}),
        ("t.x.wav", {"text": "c", "n": 2}),
        ("t.y.wav", {"text": "d", "n": 2}),
    ]


def member(name, type, linkname="", **pax):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = type, linkname, pax
    return info


def test_members_that_are_no_plain_files_are_left_out_with_the_reason(tmp_path, clip):
    sparse = {"GNU.sparse.map": "0,4", "GNU.sparse.size": "9000"}
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a.wav", "f.wav"):
            info = tarfile.TarInfo(name)
            info.size = len(clip())
            tar.addfile(info, io.BytesIO(clip()))
        tar.addfile(member("b.wav", tarfile.LNKTYPE, "a.wav"))
        tar.addfile(member("c.wav", tarfile.SYMTYPE, "a.wav"))
        tar.addfile(member("d.wav", tarfile.FIFOTYPE))
        tar.addfile(member("e.wav", tarfile.REGTYPE, **sparse))
        tar.addfile(member("g", tarfile.DIRTYPE))
    kept, rejects = rejects_of(tmp_path / "x.tar", tmp_path)
    assert kept == ["a", "f"]
    link = "a link inside the tar: pack it with --dereference --hard-dereference"
    assert rejects == {
        "b": link, "c": link, "d": "a device or pipe", "e": "a sparse file inside the tar: pack it without --sparse",
    }  # fmt: skip


def test_links_tar_itself_makes_are_seen(tmp_path, clip):
    (tmp_path / "a.wav").write_bytes(clip())
    os.link(tmp_path / "a.wav", tmp_path / "b.wav")
    subprocess.run(["tar", "cf", "x.tar", "a.wav", "b.wav"], cwd=tmp_path, check=True)
    kept, rejects = rejects_of(tmp_path / "x.tar", tmp_path)
    assert (kept, list(rejects)) == (["a"], ["b"])


def test_names_that_are_not_utf8_can_be_stored(tmp_path, clip):
    with tarfile.open(tmp_path / "x.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        for name, data in {"é.wav": clip(), "é.txt": b"x", "a.é": b"x"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    kept, _ = rejects_of(tmp_path / "x.tar", tmp_path)
    assert kept == ["\\xe9"]


def test_files_that_tell_nothing_are_counted(tmp_path, clip):
    files = {"a.wav": clip(), "a.npy": b"x", "a.json": b"{}", "b.json": b"{}", "README": b"x", ".hidden.wav": b"x"}
    source = open_source(write_tar(tmp_path / "x.tar", files))
    assert [clip.id for clip in source.clips()] == ["a"]
    assert source.skipped == {".npy": 1, ".json": 1, "": 1}
    write_clip(tmp_path / "z" / "alone.wav", 0.3)
    (tmp_path / "x.tar.gz").touch()
    source = open_source(tmp_path, "webdataset")
    assert [clip.id for clip in source.clips()] == ["a"]
    assert source.skipped == {".npy": 1, ".json": 1, "": 1, ".wav": 2, ".gz": 1}  # one is the fixture's


def rejects_of(path, tmp_path):
    (tmp_path / "out").mkdir()
    plan = make_plan(tmp_path / "out", open_source(path), ArithmeticTokenizer().spec, PlanSettings(1), 0)
    kept = [planned.clip.id for shard in plan.shards for planned in plan.clips(shard)]
    return kept, {reject.id: reject.reason for reject in plan.rejects()}


def test_bad_metadata_leaves_a_sample_out(tmp_path, clip):
    sidecars = {"a.json": b"{", "b.json": b"[]", "c.txt": b"\xff", "d.txt": b"fine", "e.json": b'{"t": "\\ud800"}'}
    files = {}
    for i, (name, data) in enumerate(sidecars.items()):
        files |= {f"{name[0]}.wav": clip(i), name: data}
    kept, rejects = rejects_of(write_tar(tmp_path / "x.tar", files), tmp_path)
    assert kept == ["d"]
    assert list(rejects) == ["a", "b", "c", "e"]
    assert all(reason.startswith(f"bad metadata: {id}.") for id, reason in rejects.items())


@pytest.mark.parametrize(("where", "reason"), [
    ("in the audio", r"truncated or no tar: it ends within b\.wav; only what comes before is kept"),
    ("in a header", r"truncated or no tar: no header and no end mark at byte"),
    ("at the end", r"truncated or no tar: no header and no end mark at byte"),
    ("garbage", r"truncated or no tar: no header and no end mark at byte"),
])  # fmt: skip
def test_a_tar_that_breaks_off_is_one_reject(tmp_path, clip, where, reason):
    path = write_tar(tmp_path / "x.tar", {"a.wav": clip(1), "a.txt": b"x", "b.wav": clip(2)})
    with tarfile.open(path) as tar:
        b, end = tar.getmember("b.wav"), tar.offset
    data = path.read_bytes()
    cut = {"in the audio": b.offset_data + 700, "in a header": b.offset + 100, "at the end": end}
    path.write_bytes(data[: cut[where]] if where in cut else data[: b.offset] + b"\1" * 5000)
    kept, rejects = rejects_of(path, tmp_path)
    assert kept == (["a", "b"] if where == "at the end" else ["a"])
    assert list(rejects) == ["x"]
    assert re.match(reason, rejects["x"])


def test_what_is_no_tar_or_compressed_is_told_with_the_remedy(tmp_path, clip):
    (tmp_path / "no.tar").write_bytes(b"text " * 1000)
    (found,) = list_clips(tmp_path / "no.tar")
    assert found.member.startswith("refused:truncated or no tar: ")
    for name in ("x.tar.gz", "x.tgz", "x.tar.zst"):
        write_tar(tmp_path / name, {"a.wav": clip()})
        with pytest.raises(UsageError, match=r"is compressed, .*: unpack it to \.tar files"):
            list_clips(tmp_path / name)
    with pytest.raises(UsageError, match=r"cannot read .*s-2\.tar: No such file"):
        list_clips(tmp_path / "s-{2..3}.tar")


def test_listing_reads_headers_and_sidecars_only(tmp_path, monkeypatch):
    """Of 20 MB, little more than a block of the buffer for each file."""
    files = {}
    for i in range(10):
        files |= {f"{i}.wav": bytes(2_000_000), f"{i}.json": b'{"n": 1}'}
    path = write_tar(tmp_path / "x.tar", files)
    read = []
    real = remote.read_bytes

    def counted(path, start=None, stop=None):
        read.append(stop - start)
        return real(path, start, stop)

    monkeypatch.setattr(remote, "read_bytes", counted)
    url = f"file://{path}"
    assert len(list_clips(url)) == 10
    assert 0 < sum(read) < 4_000_000
    assert containers.open_member(url, list_clips(url)[3].member).open().read(10) == bytes(10)


def test_a_folder_of_tars_that_cannot_be_listed_is_left_out_by_name(unprivileged):
    folder, drop_rights = unprivileged
    (folder / "closed").mkdir()
    write_tar(folder / "a.tar", {"x.wav": b"RIFF"})
    write_tar(folder / "closed" / "b.tar", {"y.wav": b"RIFF"})
    assert [clip.id for clip in list_clips(folder)] == ["a/x", "closed/b/y"]
    (folder / "closed").chmod(0)
    drop_rights()
    one, two = list_clips(folder)
    assert (one.id, two.id) == ("a/x", "closed/")
    with pytest.raises(AudioError, match="no permission to read: a folder"):
        probe_clip(two)
