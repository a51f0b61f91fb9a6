"""Saved datasets of Hugging Face behind a URL: listed without their audio, of which each clip is a part of a file."""

from __future__ import annotations

import json
from contextlib import suppress

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from slm.audio import read_audio
from slm.corpus import remote
from slm.corpus.config import CorpusConfig
from slm.corpus.containers import open_member
from slm.corpus.pipeline import tokenize_corpus
from slm.corpus.reading import read_clip
from slm.corpus.sources import list_clips, open_source
from slm.data.store import CodeStore
from slm.errors import AudioError, UsageError
from tests.corpus.audio import write_clip
from tests.corpus.test_datasets import FILES, complaint, dataset_of
from tests.fakes import ArithmeticTokenizer

LARGE = pa.struct({"path": pa.string(), "bytes": pa.large_binary()})


@pytest.fixture
def paths(tmp_path):
    return [write_clip(tmp_path / "clips" / f"c{i}.wav", 0.3 + 0.1 * i, seed=i) for i in range(5)]


@pytest.fixture
def saved(tmp_path, paths):
    """Two splits, one of them in two files; among its columns those that are read and those that are not."""
    from datasets import DatasetDict

    columns = {
        "id": [f"id-{i}" for i in range(5)],
        "text": ["one", "", None, "four 你好", "five"],
        "tags": [["a", "b"], [], None, ["c"], ["d"]],
        "embedding": [[0.5] * 100] * 5,
        "other_bytes": [b"x" * 1000] * 5,
        "is_read": [True, False, None, True, True],
    }
    dataset = dataset_of(paths, **columns)
    splits = DatasetDict(train=dataset.select([4, 0, 1]), test=dataset.select([2, 3]))
    splits.save_to_disk(str(tmp_path / "saved"), num_shards={"train": 2, "test": 1})
    return tmp_path / "saved"


def arrow_file(folder, table, rows=2, options=None):
    folder.mkdir()
    path = str(folder / "x.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "x.arrow"}]}))
    return folder


@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_a_saved_dataset_is_the_same_from_afar(saved, protocol):
    url = f"file://{saved}"
    if protocol == "memory":
        url = "memory://saved-dataset"
        fsspec.filesystem("memory").put(f"{saved}/", "/saved-dataset/", recursive=True)
    here, there = list_clips(saved), list_clips(url)
    assert [(clip.id, clip.metadata) for clip in there] == [(clip.id, clip.metadata) for clip in here]
    assert len(here) == 5
    assert set(here[0].metadata) == {"n", "text", "tags", "is_read", "split"}
    for far, near in zip(there, here, strict=True):
        assert far.path == f"{url}/{near.path.removeprefix(f'{saved}/')}"
        assert np.array_equal(read_clip(far, 8000), read_clip(near, 8000))
    assert [clip.id for clip in open_source(f"{url}/", split="test").clips()] == ["id-2", "id-3"]
    assert [clip.id for clip in list_clips(f"{url}/train")] == ["id-4", "id-0", "id-1"]
    assert "has no split 'dev': it has train, test" in complaint(url, split="dev")
    assert "clips is no whole dataset (FileNotFoundError(" in complaint(f"file://{saved.parent}/clips", "dataset")


def test_the_codes_are_those_of_the_dataset_on_disk(tmp_path, saved):
    def codes(audio):
        out = tmp_path / f"out-{len(audio)}"
        config = CorpusConfig(audio=audio, tokenizer="arithmetic", out=str(out), num_workers=0)
        tokenize_corpus(config, ArithmeticTokenizer())
        store = CodeStore(out)
        texts = store.column("text")
        return [(id, codes.codes.tolist(), text) for id, codes, text in zip(store.ids, store, texts, strict=True)]

    assert codes(f"file://{saved}") == codes(str(saved))
    assert len(codes(str(saved))) == 5


@pytest.mark.parametrize("kind", [FILES, LARGE])
def test_rows_without_bytes_are_files_or_left_out(tmp_path, paths, kind):
    cells = [
        {"bytes": paths[0].read_bytes(), "path": "a name: of ours.wav"},
        None,
        {"bytes": None, "path": None},
        {"bytes": b"", "path": "empty.wav"},
        {"bytes": None, "path": "near.wav"},
        {"bytes": paths[1].read_bytes(), "path": None},
        {"bytes": None, "path": "../clips/c2.wav"},
        {"bytes": None, "path": str(paths[3])},
    ]
    table = pa.table({"audio": pa.array(cells, kind)})
    folder = arrow_file(tmp_path / "saved", pa.concat_tables([table, table.slice(3, 0), table.slice(5, 1)]), rows=3)
    write_clip(folder / "near.wav", 0.2, seed=7)
    clips = list_clips(f"file://{folder}")
    for i, path in {0: paths[0], 4: folder / "near.wav", 5: paths[1], 8: paths[1]}.items():
        assert np.array_equal(read_clip(clips[i], 8000), read_audio(path, 8000))
    for i in (1, 2, 3):
        with pytest.raises(AudioError, match="empty"):
            read_clip(clips[i], 8000)
    assert [clip.member for clip in clips[6:8]] == [
        f"refused:a path outside the dataset: {name}" for name in ("../clips/c2.wav", paths[3])
    ]


def test_to_list_it_no_audio_is_fetched_and_to_read_a_clip_nothing_else(tmp_path, monkeypatch):
    noise = [np.random.default_rng(seed).bytes(1_000_000) for seed in range(6)]
    cells = [{"bytes": data, "path": f"{i}.wav"} for i, data in enumerate(noise)]
    table = pa.table(
        {"n": range(6), "audio": pa.array(cells, FILES), "more": pa.array(cells, FILES), "text": ["x"] * 6}
    )
    folder = arrow_file(tmp_path / "saved", table, rows=3)
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 1 << 12)
    fetched = []
    real = remote.read_bytes

    def counted(path, start=None, stop=None):
        fetched.append(stop - start)
        return real(path, start, stop)

    monkeypatch.setattr(remote, "read_bytes", counted)
    clips = list(open_source(f"file://{folder}", audio_column="audio").clips())
    assert [clip.metadata for clip in clips] == [{"n": i, "text": "x"} for i in range(6)]
    assert 0 < sum(fetched) < 60_000
    fetched.clear()
    for clip, data in zip(clips, noise, strict=True):
        assert open_member(clip.path, clip.member).open().read() == data
    assert sum(fetched) == 6_000_000


def test_what_cannot_be_read_is_told(tmp_path, paths):
    cells = pa.array([{"bytes": path.read_bytes(), "path": path.name} for path in paths], FILES)
    table = pa.table({"audio": cells, "text": ["x"] * 5})
    said = "x.arrow: {}; save the dataset anew"
    compressed = arrow_file(tmp_path / "zstd", table, options=pa.ipc.IpcWriteOptions(compression="zstd"))
    compressed_said = complaint(f"file://{compressed}")
    assert said.format("it is compressed, so that no audio in it can be read alone") in compressed_said
    words = table.set_column(1, "text", table["text"].dictionary_encode())
    assert said.format("a dictionary in it is not read from afar") in complaint(
        f"file://{arrow_file(tmp_path / 'd', words)}"
    )
    whole = arrow_file(tmp_path / "whole", table)
    data = (whole / "x.arrow").read_bytes()
    expected = list_clips(f"file://{whole}")
    (whole / "x.arrow").write_bytes(data[:-8])  # the mark of the end may be missing
    assert list_clips(f"file://{whole}") == expected
    for size in (0, 3, 100, 1000, len(data) // 2, len(data) - 100):
        (whole / "x.arrow").write_bytes(data[:size])
        assert "x.arrow: it " in complaint(f"file://{whole}")
    for garbage in (b"x" * 1000, data[:4] + b"\xff" * 100, data[:8] + bytes(5000)):
        (whole / "x.arrow").write_bytes(garbage)
        assert "cannot read file://" in complaint(f"file://{whole}")


def test_a_damaged_file_is_an_answer_in_words_or_another_list(tmp_path, paths):
    """Anything but an exception of another kind, or the end of the process."""
    cells = pa.array([{"bytes": path.read_bytes(), "path": path.name} for path in paths], FILES)
    folder = arrow_file(tmp_path / "x", pa.table({"audio": cells, "text": ["x", "yy", "z", None, ""]}), rows=5)
    data = (folder / "x.arrow").read_bytes()
    told = 0
    for start in range(0, 1600, 13):
        (folder / "x.arrow").write_bytes(data[:start] + b"\xa5\x5a\xff" + data[start + 3 :])
        with suppress(UsageError):
            list(open_source(f"file://{folder}").clips())
            continue
        told += 1
    assert told > 25
