"""Datasets of Hugging Face: saved by `datasets`, and repositories of the hub, for which local ones stand in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from slm.audio import read_audio
from slm.corpus import containers, remote
from slm.corpus.reading import probe_clip, read_clip
from slm.corpus.sources import SourceClip, hub, list_clips, open_source
from slm.data.store import CodeStore
from slm.errors import AudioError, UsageError
from slm.types import AudioClip
from tests.corpus.audio import write_clip
from tests.corpus.hub import serving
from tests.corpus.test_webdataset import write_tar
from tests.fakes import ArithmeticTokenizer, random_codes, write_corpus

FILES = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.fixture(autouse=True)
def own_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def paths(tmp_path):
    return [write_clip(tmp_path / "clips" / f"c{i}.wav", 0.3 + 0.1 * i, seed=i) for i in range(5)]


def dataset_of(paths, embedded=True, **columns):
    """As `datasets` keeps it, with no torchcodec."""
    from datasets import Audio, Dataset

    cells = [{"bytes": p.read_bytes(), "path": p.name} if embedded else {"bytes": None, "path": str(p)} for p in paths]
    table = pa.table({"audio": pa.array(cells, FILES), "n": range(len(paths)), **columns})
    return Dataset(table).cast_column("audio", Audio())


def agree(clips, paths):
    """Whether the clips are the files, sample for sample."""
    for clip, path in zip(clips, paths, strict=True):
        assert probe_clip(clip).num_frames == len(expected := read_audio(path, 8000))
        assert np.array_equal(read_clip(clip, 8000), expected)


def complaint(location, kind="auto", **settings):
    with pytest.raises(UsageError) as caught:
        list(open_source(location, kind, **settings).clips())
    return str(caught.value)


def test_a_saved_dataset(tmp_path, paths):
    plain = {"text": [f"text {i}" for i in range(5)], "tags": [["a", "b"]] * 5, "embedding": [[0.5]] * 5}
    dataset_of(paths, **plain).save_to_disk(str(tmp_path / "saved"), num_shards=2)
    clips = list_clips(tmp_path / "saved")
    assert [clip.id for clip in clips] == ["0", "1", "2", "3", "4"]
    assert clips[3].metadata == {"n": 3, "text": "text 3", "tags": ["a", "b"]}
    agree(clips, paths)


def test_splits_ids_and_columns_of_a_saved_dataset(tmp_path, paths):
    from datasets import DatasetDict

    dataset = dataset_of(paths, id=[f"id-{i}" for i in range(5)])
    splits = DatasetDict(train=dataset.select([4, 0, 1]), test=dataset.select([2]))
    splits.save_to_disk(str(tmp_path / "saved"))
    clips = list_clips(tmp_path / "saved")
    assert [(clip.id, clip.metadata) for clip in clips] == [
        ("id-4", {"n": 4, "split": "train"}),
        ("id-0", {"n": 0, "split": "train"}),
        ("id-1", {"n": 1, "split": "train"}),
        ("id-2", {"n": 2, "split": "test"}),
    ]
    agree(clips, [paths[i] for i in (4, 0, 1, 2)])
    assert list(open_source(tmp_path / "saved", split="test").clips()) == clips[3:]
    by_number = open_source(tmp_path / "saved", split="train", id_column="n", audio_column="audio")
    assert [clip.id for clip in by_number.clips()] == ["4", "0", "1"]
    assert "has no split 'dev': it has train, test" in complaint(tmp_path / "saved", split="dev")
    assert "has no column 'name': it has" in complaint(tmp_path / "saved", id_column="name")
    assert "has no splits: leave out --source_settings.split" in complaint(tmp_path / "saved" / "test", split="dev")


def arrow_file(folder, table):
    """A saved dataset as of another version."""
    folder.mkdir()
    with pa.OSFile(str(folder / "x.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "x.arrow"}]}))
    return folder


def test_rows_without_bytes_are_files_or_left_out(tmp_path, paths):
    cells = [
        {"bytes": paths[0].read_bytes(), "path": None},
        {"bytes": None, "path": str(paths[1])},
        {"bytes": None, "path": "../clips/c2.wav"},
        {"bytes": None, "path": None},
        None,
    ]
    folder = arrow_file(tmp_path / "saved", pa.table({"audio": pa.array(cells, FILES)}))
    clips = list_clips(folder)
    agree(clips[:3], paths[:3])
    for clip in clips[3:]:
        with pytest.raises(AudioError, match="empty: no audio in this row"):
            read_clip(clip, 8000)


def test_tables_without_audio_files_are_told_with_the_remedy(tmp_path, paths):
    tokenizer = ArithmeticTokenizer()
    write_corpus(tmp_path / "corpus", random_codes(tokenizer, [3]))
    assert "has no column of audio files; it has id, codes, num_samples, duration_s." in complaint(tmp_path / "corpus")
    decoded = pa.table({"audio": [{"array": [0.1, 0.2], "sampling_rate": 8000}], "text": ["x"]})
    said = complaint(arrow_file(tmp_path / "decoded", decoded))
    assert "Decoded samples are not read: save the dataset with cast_column(..., Audio())" in said
    assert "`text` holds no audio files" in complaint(tmp_path / "decoded", audio_column="text")
    two = pa.table({"near": pa.array([None], FILES), "far": pa.array([None], FILES)})
    folder = arrow_file(tmp_path / "two", two)
    assert "has audio in near and far: say which with --source_settings.audio_column" in complaint(folder)
    assert [clip.metadata for clip in open_source(folder, audio_column="far").clips()] == [{}]
    assert "has no column 'mid': it has near, far" in complaint(folder, audio_column="mid")
    text = pa.array([b"\xe9"]).view(pa.string())
    broken = arrow_file(tmp_path / "broken", pa.table({"audio": pa.array([None], FILES), "text": text}))
    assert "x.arrow: 'utf-8' codec can't decode" in complaint(broken)
    for name, column in {"audio": pa.array([None], FILES), "path": pa.array(["a.wav"])}.items():
        pq.write_table(pa.table({name: column, "text": text}), tmp_path / "x.parquet")
        assert "x.parquet: 'utf-8' codec can't decode" in complaint(tmp_path / "x.parquet")
    (folder / "x.arrow").write_bytes(b"x" * 100)
    assert "x.arrow: " in complaint(folder)
    (folder / "state.json").write_text("{}")
    assert "is no whole dataset (KeyError('_data_files')): save it anew" in complaint(folder)


@pytest.fixture
def repository(tmp_path, paths):
    """Two splits, the first in two files with row groups of two rows, under the names that the hub uses."""
    data = tmp_path / "repository" / "data"
    data.mkdir(parents=True)
    dataset = dataset_of(paths, text=[f"text {i}" for i in range(5)])
    for name, rows in {
        "train-00000-of-00002": [0, 1, 2],
        "train-00001-of-00002": [3],
        "test-00000-of-00001": [4],
    }.items():
        table = dataset.select(rows).with_format("arrow")[:]
        pq.write_table(table, data / f"{name}.parquet", row_group_size=2)
    return tmp_path / "repository"


def test_a_copy_of_a_repository(repository, paths, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", "/proc/none")  # of a user whose home cannot be written to
    clips = list_clips(repository)
    assert [(clip.id, clip.metadata) for clip in clips[2:]] == [
        ("train/2", {"n": 2, "text": "text 2", "split": "train"}),
        ("train/3", {"n": 3, "text": "text 3", "split": "train"}),
        ("test/0", {"n": 4, "text": "text 4", "split": "test"}),
    ]
    assert [clip.member.split(":")[:3] for clip in clips[:3]] == [
        ["parquet", "0", "0"], ["parquet", "0", "1"], ["parquet", "1", "0"],
    ]  # fmt: skip
    agree(clips, paths)
    assert list(open_source(repository, split="test").clips()) == clips[4:]
    assert "has no split 'dev': it has train, test" in complaint(repository, split="dev")


def test_one_parquet_file_is_no_manifest(repository, paths):
    path = repository / "data" / "train-00001-of-00002.parquet"
    clips = list_clips(path)
    assert [(clip.id, clip.metadata) for clip in clips] == [("0", {"n": 3, "text": "text 3"})]
    agree(clips, paths[3:4])
    pq.write_table(pa.table({"path": ["clips/c0.wav"]}), repository.parent / "m.parquet")
    agree(list_clips(repository.parent / "m.parquet"), paths[:1])


def test_configurations_and_paths_of_a_repository(tmp_path, repository, paths):
    """What the card says of configurations counts; rows may be paths only."""
    (repository / "far").mkdir()
    inside = [write_clip(repository / "wav" / path.name, 0.3) for path in paths[:2]]
    cells = [
        {"bytes": None, "path": name} for name in (str(inside[0]), "../wav/c1.wav", "../../clips/c2.wav", str(paths[3]))
    ]
    cells += [{"bytes": None, "path": "https://example.org/x.wav"}]
    pq.write_table(pa.table({"audio": pa.array(cells, FILES)}), repository / "far" / "all.parquet")
    configs = ["- config_name: near\n  data_files: data/train-*", "- config_name: far\n  data_files: far/*"]
    (repository / "README.md").write_text("---\nconfigs:\n" + "\n".join(configs) + "\n---\n")
    said = complaint(repository)
    assert "Config name is missing" in said
    assert "'near', 'far'" in said
    assert [clip.id for clip in open_source(repository, config="near").clips()] == [f"train/{i}" for i in range(4)]
    far = list(open_source(repository, config="far").clips())
    assert [(os.path.normpath(clip.path), clip.member) for clip in far[:2]] == [(str(path), "") for path in inside]
    assert [clip.member for clip in far[2:]] == [
        f"refused:a path outside the dataset: {cell['path']}" for cell in cells[2:]
    ]
    assert "other" in complaint(repository, config="other")


def test_a_repository_of_tars(tmp_path, paths):
    data = {f"c{i}.wav": path.read_bytes() for i, path in enumerate(paths)}
    write_tar(tmp_path / "repository" / "train" / "0.tar", dict(list(data.items())[:3]))
    write_tar(tmp_path / "repository" / "train" / "1.tar", dict(list(data.items())[3:]))
    clips = list(open_source(tmp_path / "repository", "hub").clips())
    assert [clip.id for clip in clips] == [f"train/{i // 3}/c{i}" for i in range(5)]
    assert all(clip.metadata == {"split": "train"} for clip in clips)
    agree(clips, paths)


def test_tars_of_the_hub_are_called_by_their_paths_without_the_commit(monkeypatch):
    url = "hf://datasets/someone/speech@0f0f/data/en/0.tar"
    monkeypatch.setattr(hub, "_data_files", lambda *_: {"train": [url]})
    monkeypatch.setattr(hub, "clips_of_tar", lambda path, name, prefix, skipped: [SourceClip(f"{prefix}a", path)])
    for location in ("someone/speech", "hf://datasets/someone/speech"):
        assert [clip.id for clip in open_source(location, "hub").clips()] == ["data/en/0/a"]


def test_other_files_of_a_repository_are_told_with_the_remedy(tmp_path, paths):
    said = complaint(tmp_path / "clips", "hub")
    assert f"holds c0.wav, no Parquet or tar: raw audio is read by --source folder --audio {tmp_path}/clips, or" in said
    (tmp_path / "zipped").mkdir()
    with ZipFile(tmp_path / "zipped" / "audio.zip", "w") as packed:
        packed.write(paths[0], "c0.wav")
    assert "holds audio.zip, no Parquet or tar: get a copy (hf download), unpack it" in complaint(
        tmp_path / "zipped", "hub"
    )
    (tmp_path / "empty").mkdir()
    assert f"cannot read the folder {tmp_path / 'empty'}: " in complaint(tmp_path / "empty", "hub")


def test_a_name_of_the_hub_is_told_from_a_path_that_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert "no such folder or manifest: data/speech" in complaint("data/speech")
    assert "no such folder or manifest: speech" in complaint("speech")
    asked = []

    def offline(name, config, revision, cache_dir):
        asked.append((name, config, revision))
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub\n(offline)")

    monkeypatch.setattr("datasets.load_dataset_builder", offline)
    said = complaint("someone/speech", config="en")
    assert said == (
        "cannot find a folder or a dataset of the hub someone/speech: Couldn't reach 'someone/speech' on the Hub "
        "(offline)"
    )
    complaint("hf://datasets/someone/speech@v1.0")
    complaint("someone/speech", revision="v2.0")
    assert asked == [("someone/speech", "en", None), ("someone/speech", None, "v1.0"), ("someone/speech", None, "v2.0")]


def test_of_a_remote_repository_only_what_is_needed_is_fetched(tmp_path, monkeypatch):
    """Three row groups of 2 MB: to list them, their metadata is read; to read a clip, its row group, and once."""
    noise = [np.random.default_rng(seed).bytes(1_000_000) for seed in range(6)]
    cells = [{"bytes": data, "path": f"{i}.wav"} for i, data in enumerate(noise)]
    table = pa.table({"audio": pa.array(cells, FILES), "text": ["x"] * 6})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2, compression="NONE")
    url = f"file://{tmp_path}/x.parquet"
    monkeypatch.setattr(hub, "_data_files", lambda *_: {"train": [url]})
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 1 << 12)
    fetched = []
    real = remote.read_bytes

    def counted(path, start=None, stop=None):
        fetched.append(stop - start)
        return real(path, start, stop)

    monkeypatch.setattr(remote, "read_bytes", counted)
    clips = list(open_source("someone/speech", "hub").clips())
    assert [clip.path for clip in clips] == [url] * 6
    assert 0 < sum(fetched) < 100_000
    fetched.clear()
    for clip, data in zip(clips[2:4], noise[2:4], strict=True):
        assert containers.open_member(clip.path, clip.member).open().read() == data
    assert 2_000_000 <= sum(fetched) < 2_100_000


COMMAND = """
import sys
from slm.corpus.config import CorpusConfig
from slm.corpus.pipeline import tokenize_corpus
from tests.fakes import ArithmeticTokenizer

settings = {"split": "train"} if sys.argv[1] == "someone/speech" else {}
config = CorpusConfig(audio=sys.argv[1], out=sys.argv[2], tokenizer="x", source_settings=settings, num_workers=0)
tokenize_corpus(config, ArithmeticTokenizer())
"""


def test_a_dataset_of_the_hub_is_streamed(tmp_path, paths):
    """In a process of its own, for which this machine is the hub. Of the split that is not asked for nothing is sent,
    of the other each row group once."""
    (tmp_path / "repository" / "data").mkdir(parents=True)
    long = tmp_path / "long.wav"
    soundfile.write(long, np.random.default_rng(0).uniform(-0.5, 0.5, 2_000_000), 8000)  # 4 MB
    for split, rows in {"train": [*paths, long], "test": [long] * 2}.items():
        table = dataset_of(rows, id=[f"{path.stem}-{i}" for i, path in enumerate(rows)]).with_format("arrow")[:]
        pq.write_table(table, tmp_path / "repository" / "data" / f"{split}.parquet", row_group_size=2)
    with serving(tmp_path / "repository") as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
        environment = {**os.environ, **own, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", COMMAND, "someone/speech", str(tmp_path / "far")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        size = (tmp_path / "repository" / "data" / "train.parquet").stat().st_size
        assert size < hub.sent.pop("data/train.parquet") < 1.5 * size  # and the metadata
        assert not hub.sent
    far = CodeStore(tmp_path / "far")
    assert far.ids == ["c0-0", "c1-1", "c2-2", "c3-3", "c4-4", "long-5"]
    for codes, path in zip(far, [*paths, long], strict=True):
        (expected,) = ArithmeticTokenizer().encode([AudioClip("x", read_audio(path, 8000), 8000)])
        assert np.array_equal(codes.codes, expected.codes)
