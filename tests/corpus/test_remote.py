"""Paths by URL: in memory, on a server of this machine, and what becomes of faults."""

from __future__ import annotations

import gzip
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest

from slm.audio import read_audio
from slm.corpus import remote
from slm.corpus.changes import hash_source
from slm.corpus.config import CorpusConfig
from slm.corpus.pipeline import tokenize_corpus
from slm.corpus.reading import probe_clip, read_clip
from slm.corpus.remote import find_root, open_binary, open_text, read_bytes
from slm.corpus.sources import list_clips, open_source
from slm.data.store import CodeStore
from slm.errors import AudioError, UnreadableError, UsageError
from tests.corpus.audio import write_clip
from tests.corpus.test_lhotse import mono_cut, recording, write
from tests.corpus.test_webdataset import write_tar
from tests.fakes import ArithmeticTokenizer


@pytest.fixture
def folder(tmp_path):
    """Two clips, one in a folder, and a manifest of them."""
    write_clip(tmp_path / "audio" / "b.wav", 0.5, seed=1)
    write_clip(tmp_path / "audio" / "x" / "a.wav", 0.7, rate_hz=16_000, seed=2)
    (tmp_path / "audio" / "m.csv").write_text("path,text,start,end\nx/a.wav,one,0.2,0.5\nb.wav,two,,\n")
    (tmp_path / "audio" / ".hidden.wav").touch()
    return tmp_path / "audio"


@pytest.fixture
def to_memory():
    """Copies a folder to memory, and gives its URL there."""
    fs, made = fsspec.filesystem("memory"), []

    def copy(folder):
        made.append(f"memory://{folder.name}-{len(made)}")
        for path in (path for path in folder.rglob("*") if path.is_file()):
            fs.pipe_file(f"{made[-1]}/{path.relative_to(folder)}", path.read_bytes())
        return made[-1]

    yield copy
    for url in made:
        fs.rm(url, recursive=True)


@pytest.fixture
def memory(folder, to_memory):
    return to_memory(folder)


class _Handler(SimpleHTTPRequestHandler):
    """Of a folder; gives parts of files, as all servers of data do."""

    def log_message(self, *_):
        pass

    def send_head(self):
        wanted = self.headers.get("Range")
        if wanted is None or not Path(self.translate_path(self.path)).is_file():
            return super().send_head()
        data = Path(self.translate_path(self.path)).read_bytes()
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else None]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture
def http(folder):
    pytest.importorskip("aiohttp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["memory", "http", "file"])
def url(request, folder):
    return f"file://{folder}" if request.param == "file" else request.getfixturevalue(request.param)


def test_a_folder_is_the_same_from_afar(folder, url):
    here, there = list_clips(folder), list_clips(url)
    assert [clip.id for clip in there] == [clip.id for clip in here] == ["b", "x/a"]
    assert [clip.path for clip in there] == [f"{url}/b.wav", f"{url}/x/a.wav"]
    for far, near in zip(there, here, strict=True):
        assert probe_clip(far) == probe_clip(near)
        assert np.array_equal(read_clip(far, 8000), read_clip(near, 8000))
    source = open_source(url + "/")
    assert [clip.id for clip in source.clips()] == ["b", "x/a"]
    assert source.skipped == {".csv": 1}


def test_a_manifest_is_the_same_from_afar(folder, url):
    here, there = list_clips(folder / "m.csv"), list_clips(f"{url}/m.csv")
    assert [clip.path for clip in there] == [f"{url}/x/a.wav", f"{url}/b.wav"]
    for far, near in zip(there, here, strict=True):
        assert far.metadata == near.metadata
        assert np.array_equal(read_clip(far, 8000), read_clip(near, 8000))


@pytest.mark.parametrize("kind", ["librispeech", "librilight", "kaldi", "webdataset", "lhotse"])
def test_other_kinds_are_the_same_from_afar(tmp_path, to_memory, kind):
    root = tmp_path / kind
    book = root / "dev-clean" / "84" / "121"
    for seed in range(2):
        write_clip(book / f"84-121-000{seed}.wav", 0.3, seed=seed)
    (book / "84-121.trans.txt").write_text("84-121-0000 ONE\n84-121-0001 TWO\n")
    (root / "SPEAKERS.TXT").write_text("84 | F | dev-clean | 8.02 | X\n")
    (book / "84-121-0001.json").write_text('{"snr": 9.5}')
    (root / "wav.scp").write_text("a dev-clean/84/121/84-121-0000.wav\n")
    (root / "text").write_text("a ONE\n")
    write_tar(root / "x.tar", {"a.wav": (book / "84-121-0000.wav").read_bytes(), "a.txt": b"ONE"})
    cut = mono_cut("a", recording("r", "dev-clean/84/121/84-121-0000.wav", seconds=0.3), 0.1, 0.1)
    write(root / "cuts.jsonl.gz", cut)
    name = {"kaldi": "/wav.scp", "webdataset": "/x.tar", "lhotse": "/cuts.jsonl.gz"}.get(kind, "")
    here, there = (list_clips(f"{base}{name}", kind) for base in (root, to_memory(root)))
    assert [(clip.id, clip.metadata) for clip in there] == [(clip.id, clip.metadata) for clip in here]
    assert len(here) == (2 if kind.startswith("libri") else 1)
    for far, near in zip(there, here, strict=True):
        assert far.path.startswith("memory://")
        assert np.array_equal(read_clip(far, 8000), read_clip(near, 8000))


def test_a_local_manifest_may_name_urls(folder, memory):
    (folder / "far.csv").write_text(f"path,id\n{memory}/b.wav,far\nb.wav,near\n")
    far, near = list_clips(folder / "far.csv")
    assert np.array_equal(read_clip(far, 8000), read_clip(near, 8000))


def test_the_codes_are_those_of_the_local_folder(tmp_path, folder, memory):
    tokenizer = ArithmeticTokenizer()

    def codes(audio, out):
        config = CorpusConfig(audio=audio, tokenizer="arithmetic", out=str(tmp_path / out), num_workers=0)
        tokenize_corpus(config, tokenizer)
        store = CodeStore(tmp_path / out)
        return {id: codes.codes.tolist() for id, codes in zip(store.ids, store, strict=True)}

    assert codes(memory, "far") == codes(str(folder), "near")


def test_a_part_of_a_file_is_a_stream_of_its_own(memory, folder):
    data = (folder / "b.wav").read_bytes()
    for path in (str(folder / "b.wav"), f"{memory}/b.wav"):
        assert read_bytes(path) == data
        assert read_bytes(path, 10, 20) == data[10:20]
        with remote.open_part(path, 100, 50) as part:
            assert part.read(3) == data[100:103]
            assert part.seek(-2, 2) == 48
            assert part.read() == data[148:150]
            assert part.read() == b""
            part.seek(0)
            assert part.read() == data[100:150]
        with remote.open_part(path, len(data) - 5, 10) as part, pytest.raises(OSError, match="5 of 10 bytes at"):
            part.read()
    with open_binary(f"{memory}/b.wav") as file:
        assert file.read() == data


def test_text_is_unzipped_and_checked(tmp_path):
    text = "\ufeffone\r\ntwö\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(text.encode() * 100)[:-10])
    (tmp_path / "no.gz").write_bytes(text.encode())
    (tmp_path / "latin").write_bytes("twö".encode("latin-1"))
    for name in ("a.txt", "a.txt.gz"):
        with open_text(str(tmp_path / name)) as lines:
            assert list(lines) == ["one\r\n", "twö\n"]
    for name, said in {
        "cut.gz": "is not a whole gzip file",
        "no.gz": "is not a whole gzip file",
        "latin": "is not UTF-8 text",
        "absent": "No such file",
    }.items():
        with pytest.raises(UsageError, match=said), open_text(str(tmp_path / name)) as lines:
            list(lines)


def test_a_root_is_found_from_the_list_upwards(tmp_path, memory):
    write_clip(tmp_path / "x" / "a.wav", 0.1)
    (tmp_path / "y" / "z").mkdir(parents=True)
    assert find_root("x/a.wav", str(tmp_path / "y" / "z")) == str(tmp_path)
    assert find_root("a.wav", str(tmp_path / "x")) == str(tmp_path / "x")
    assert find_root("x/a.wav", f"{memory}/lists/train") == memory
    assert find_root("x/absent.wav", f"{memory}/lists/train") == find_root("absent.wav", str(tmp_path)) == ""


class Flaky(fsspec.AbstractFileSystem):
    """Fails as often as it is told to, then gives its file."""

    protocol = "flaky"
    cachable = False
    fails, error, data = 0, OSError("connection reset"), b""

    def cat_file(self, path, start=None, end=None, **_):
        if Flaky.fails:
            Flaky.fails -= 1
            raise Flaky.error
        return Flaky.data[start:end]

    def info(self, path, **_):
        return {"name": path, "size": len(Flaky.data), "type": "file"}


@pytest.fixture
def flaky(tmp_path, monkeypatch):
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    waited = []
    monkeypatch.setattr(remote.time, "sleep", waited.append)
    path = write_clip(tmp_path / "a.wav", 0.5)
    monkeypatch.setattr(Flaky, "data", path.read_bytes())
    clips = tmp_path / "m.csv"
    clips.write_text("path\nflaky://a.wav\n")
    return list_clips(clips)[0], read_audio(path, 8000), waited


def test_a_fault_of_the_network_gets_two_more_tries(flaky, monkeypatch):
    clip, samples, waited = flaky
    monkeypatch.setattr(Flaky, "fails", 2)
    assert np.array_equal(read_clip(clip, 8000), samples)
    assert waited == [1, 4]


@pytest.mark.parametrize(
    ("error", "reason", "tries"),
    [
        (OSError(5, "Input/output error"), "unreadable: Input/output error", 3),
        (RuntimeError("server\ndisconnected"), "unreadable: server disconnected", 3),
        (TimeoutError("timed out"), "unreadable: timed out", 3),
        (FileNotFoundError("a.wav"), "missing file", 1),
        (PermissionError("403"), "no permission to read", 1),
    ],
)
def test_faults_that_stay_are_named_and_may_pass(flaky, monkeypatch, error, reason, tries):
    clip, _, waited = flaky
    monkeypatch.setattr(Flaky, "fails", 100)
    monkeypatch.setattr(Flaky, "error", error)
    for read in (probe_clip, lambda clip: read_clip(clip, 8000)):
        with pytest.raises(UnreadableError) as caught:
            read(clip)
        assert str(caught.value) == reason
    assert len(waited) == 2 * (tries - 1)


def test_a_fault_in_the_middle_is_no_end_of_file(flaky, tmp_path, monkeypatch):
    """A decoder takes what it cannot read for the end: the clip would come out short, or as broken."""
    clip, _, _ = flaky
    monkeypatch.setattr(Flaky, "data", write_clip(tmp_path / "long.wav", 10.0).read_bytes())
    part = replace(clip, end_s=9.0)
    assert len(read_clip(part, 8000)) == 72_000
    real = Flaky.cat_file

    def breaks(self, path, start=None, end=None, **_):
        if start and start > 100_000:
            raise OSError("connection reset")
        return real(self, path, start, end)

    monkeypatch.setattr(Flaky, "cat_file", breaks)
    with pytest.raises(UnreadableError, match="unreadable: connection reset"):
        read_clip(part, 8000)


def test_wrong_urls_are_told_with_the_remedy(tmp_path):
    with pytest.raises(UsageError, match="cannot read nonsense://x"):
        open_source("nonsense://x")
    with pytest.raises(UsageError, match="no such folder or manifest: memory://nowhere"):
        open_source("memory://nowhere")
    with pytest.raises(UsageError, match="cannot list the folder memory://nowhere"):
        list_clips("memory://nowhere", "folder")
    with pytest.raises(UsageError, match=f"cannot read zip://x::{tmp_path}/gone.zip/"):
        open_source(f"zip://x::{tmp_path}/gone.zip")
    (tmp_path / "m.csv").write_text("path\nnonsense://x.wav\n")
    (clip,) = list_clips(tmp_path / "m.csv")
    with pytest.raises((AudioError, UsageError), match="nonsense"):
        probe_clip(clip)


def test_a_package_that_is_missing_is_named(monkeypatch):
    def lacks(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", lacks)
    for protocol, extra in {"s3": "s3", "https": "http"}.items():
        with pytest.raises(UsageError, match=rf"{protocol}:// needs a package .*: pip install 'fsspec\[{extra}\]'"):
            open_source(f"{protocol}://bucket/audio")


def test_what_a_remote_source_lists_is_watched(folder, memory):
    first = hash_source(open_source(memory))
    assert hash_source(open_source(memory)) == first
    fsspec.filesystem("memory").pipe_file(f"{memory}/c.wav", b"x")
    assert hash_source(open_source(memory)) != first
