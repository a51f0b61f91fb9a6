"""The same recordings in every kind of source give the same codes, clip for clip."""

from __future__ import annotations

import shlex
import tempfile

import pyarrow.parquet as pq
import pytest
import soundfile

from slm.corpus.config import CorpusConfig
from slm.corpus.pipeline import tokenize_corpus
from slm.corpus.sources import SOURCES, open_source
from slm.data.store import CodeStore
from slm.errors import UsageError
from tests.corpus.audio import write_clip
from tests.corpus.test_datasets import dataset_of
from tests.corpus.test_lhotse import mono_cut, recording, supervision, write
from tests.corpus.test_librispeech import describe
from tests.corpus.test_webdataset import write_tar
from tests.fakes import ArithmeticTokenizer

TEXTS = {"84-121-0000": "one", "84-121-0001": "two", "84-122-0000": "three"}


@pytest.fixture(autouse=True)
def own_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def folder(tmp_path):
    """Three recordings as 16-bit FLAC, in the tree of LibriSpeech but without its lists."""
    for seed, name in enumerate(TEXTS):
        speaker, chapter, _ = name.split("-")
        wav = write_clip(tmp_path / "audio" / "dev" / speaker / chapter / f"{name}.wav", 0.4 + 0.1 * seed, seed=seed)
        soundfile.write(wav.with_suffix(".flac"), soundfile.read(wav)[0], 8000)
        wav.unlink()
    return tmp_path / "audio"


def files(folder):
    return sorted(folder.rglob("*.flac"))


def of_manifest(folder):
    rows = [{"path": str(path), "id": path.stem, "text": TEXTS[path.stem]} for path in files(folder)]
    return write(folder.parent / "m.jsonl", *rows)


def of_kaldi(folder):
    (data := folder.parent / "data").mkdir()
    commands = {path.stem: f"flac -c -d -s {shlex.quote(str(path))} |" for path in files(folder)}
    (data / "wav.scp").write_text("".join(f"{id} {command}\n" for id, command in commands.items()))
    (data / "text").write_text("".join(f"{id} {text}\n" for id, text in TEXTS.items()))
    return data


def of_librispeech(folder):
    for path in files(folder):
        with open(path.parent / f"{path.stem[:6]}.trans.txt", "a") as lines:
            lines.write(f"{path.stem} {TEXTS[path.stem]}\n")
    return folder


def of_librilight(folder):
    for path in files(folder):
        describe(path.with_suffix(".json"))
    return folder


def cuts(folder):
    for path in files(folder):
        info = soundfile.info(path)
        of = recording(f"dev/84/book/{path.stem}", str(path.relative_to(folder)), seconds=info.duration)
        yield mono_cut(path.stem, of, 0, info.duration, 0, [supervision(path.stem, TEXTS[path.stem])])


def of_lhotse(folder):
    return write(folder / "cuts.jsonl.gz", *cuts(folder))


def of_libriheavy(folder):
    made = list(cuts(folder))
    for cut in made:
        source = cut["recording"]["sources"][0]
        source["source"] = "download/librilight/" + source["source"]
        cut["supervisions"][0]["custom"] = {"texts": [cut["supervisions"][0].pop("text"), "NOISE"]}
    return write(folder / "libriheavy_cuts_dev.jsonl.gz", *made)


def of_webdataset(folder):
    sample = {path.name: path.read_bytes() for path in files(folder)}
    texts = {f"{id}.txt": text.encode() for id, text in TEXTS.items()}
    return write_tar(folder.parent / "x.tar", dict(sorted((sample | texts).items())))


def of_dataset(folder):
    dataset = dataset_of(files(folder), id=list(TEXTS), text=list(TEXTS.values()))
    dataset.save_to_disk(str(folder.parent / "saved"))
    return folder.parent / "saved"


def of_hub(folder):
    (folder.parent / "repository").mkdir()
    table = dataset_of(files(folder), id=list(TEXTS), text=list(TEXTS.values())).with_format("arrow")[:]
    pq.write_table(table, folder.parent / "repository" / "train.parquet", row_group_size=2)
    return folder.parent / "repository"


def of_folder(folder):
    return f"file://{folder}"


def codes_of(audio, out, kind="auto"):
    config = CorpusConfig(audio=str(audio), tokenizer="arithmetic", out=str(out), source=kind, num_workers=0)
    tokenize_corpus(config, ArithmeticTokenizer())
    store = CodeStore(out)
    texts = store.column("text") if kind not in ("folder", "librilight") else [None] * len(store)
    ids = [id.rpartition("/")[2] for id in store.ids]
    return {id: (codes.codes.tolist(), text) for id, codes, text in zip(ids, store, texts, strict=True)}


@pytest.mark.parametrize("kind", SOURCES.names())
def test_every_kind_gives_the_codes_of_the_folder(tmp_path, folder, kind):
    expected = codes_of(folder, tmp_path / "expected", "folder")
    location = globals()[f"of_{kind}"](folder)
    assert isinstance(open_source(location), SOURCES.get(kind))
    found = codes_of(location, tmp_path / "out", kind)
    assert {id: codes for id, (codes, _) in found.items()} == {id: codes for id, (codes, _) in expected.items()}
    assert sum(len(codes) for codes, _ in found.values()) == 20 + 25 + 30
    if kind not in ("folder", "librilight"):
        assert {id: text for id, (_, text) in found.items()} == TEXTS


def test_what_could_be_two_kinds_is_asked_for(tmp_path, folder):
    of_kaldi(folder)
    (folder.parent / "data" / "wav.scp").rename(folder / "wav.scp")
    of_librispeech(folder)
    with pytest.raises(UsageError, match="could be read as kaldi or librispeech: say which with --source"):
        open_source(folder)
    with pytest.raises(UsageError, match="unknown source 'kladi'; did you mean 'kaldi'"):
        open_source(folder, "kladi")
    with pytest.raises(UsageError, match="source 'kaldi' has no setting 'path_column'"):
        open_source(folder, "kaldi", path_column="x")
    with pytest.raises(UsageError, match=r"source 'kaldi' has no setting 'location'; known: root$"):
        open_source(folder, "kaldi", location="x")


def test_what_is_no_source_is_answered_by_a_line_with_all_kinds(tmp_path):
    with pytest.raises(UsageError) as caught:
        open_source(tmp_path / "absent")
    said = str(caught.value)
    assert said.startswith(f"no such folder or manifest: {tmp_path / 'absent'}; give a folder of audio files, a mani")
    assert all(SOURCES.get(name).about in said for name in SOURCES.names())
    assert "\n" not in said
