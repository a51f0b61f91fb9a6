"""LibriSpeech, Libri-Light and LibriHeavy, as their releases lie on disk."""

from __future__ import annotations

import gzip
import json
import os

import pytest

from slm.corpus.sources import list_clips, open_source
from slm.errors import UsageError
from tests.corpus.audio import write_clip

SPEAKERS = """\
; Some pipe(|) separated metadata about all LibriSpeech speakers
;ID  |SEX| SUBSET           |MINUTES| NAME
84   | F | dev-clean        | 8.02  | Christie Nowak
174  | M | dev-clean        | 8.04  | Peter Eastman
"""


@pytest.fixture
def librispeech(tmp_path):
    root = tmp_path / "LibriSpeech"
    for name in ("84/121123/84-121123-0000", "84/121123/84-121123-0001", "174/50561/174-50561-0000"):
        write_clip(root / "dev-clean" / f"{name}.flac.wav", 0.1).rename(root / "dev-clean" / f"{name}.flac")
    (root / "dev-clean/84/121123/84-121123.trans.txt").write_text("84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT\n")
    (root / "dev-clean/174/50561/174-50561.trans.txt").write_text("174-50561-0000 FORGOTTEN TOO\n")
    (root / "SPEAKERS.TXT").write_text(SPEAKERS)
    (root / "README.TXT").write_text("1. Introduction\n")
    return root


def test_librispeech(librispeech):
    source = open_source(librispeech)
    clips = list(source.clips())
    assert [clip.id for clip in clips] == ["174-50561-0000", "84-121123-0000", "84-121123-0001"]
    assert clips[1].path == str(librispeech / "dev-clean/84/121123/84-121123-0000.flac")
    about = {"speaker": "84", "chapter": "121123", "subset": "dev-clean", "gender": "F"}
    assert [clip.metadata for clip in clips] == [
        {"text": "FORGOTTEN TOO", "speaker": "174", "chapter": "50561", "subset": "dev-clean", "gender": "M"},
        {"text": "GO DO YOU HEAR", **about},
        {"text": "BUT", **about},
    ]
    assert not source.skipped


def test_a_part_of_librispeech_is_known_as_such(librispeech, monkeypatch):
    whole = {clip.id: clip.metadata for clip in list_clips(librispeech)}
    for part in ("dev-clean", "dev-clean/84", "dev-clean/84/121123"):
        clips = list_clips(librispeech / part)
        assert clips
        assert all(clip.metadata == whole[clip.id] for clip in clips)
    monkeypatch.chdir(librispeech / "dev-clean" / "84" / "121123")
    assert {clip.id: clip.metadata for clip in list_clips(".")} == {id: whole[id] for id in whole if id[:2] == "84"}


def test_a_folder_whose_name_is_not_utf8_is_a_subset_that_can_be_stored(librispeech):
    os.rename(librispeech / "dev-clean", bytes(librispeech) + b"/caf\xe9")
    assert {clip.metadata["subset"] for clip in list_clips(librispeech)} == {"caf\\xe9"}


def test_without_speakers_or_transcripts_the_rest_is_kept(librispeech):
    (librispeech / "SPEAKERS.TXT").unlink()
    (librispeech / "dev-clean/84/121123/84-121123.trans.txt").unlink()
    write_clip(librispeech / "dev-clean/84/121123/noise.wav", 0.1)
    clips = list_clips(librispeech, "librispeech")
    assert clips[1].metadata == {"text": None, "speaker": "84", "chapter": "121123", "subset": "dev-clean"}
    assert (clips[3].id, clips[3].metadata) == ("dev-clean/84/121123/noise", {})


def test_a_transcript_that_breaks_off_is_refused(librispeech):
    (librispeech / "dev-clean/174/50561/174-50561.trans.txt").write_text("174-50561-0000")
    with pytest.raises(UsageError, match=r"174-50561\.trans\.txt: a line has no text behind the utterance"):
        list_clips(librispeech)


def describe(path, **values):
    path.write_text(json.dumps({"speaker": path.parts[-3], "voice_activity": [[0.1, 0.3]], **values}))


@pytest.fixture
def librilight(tmp_path):
    root = tmp_path / "librilight"
    book = root / "small" / "100" / "sea_fairies_0812_librivox_64kb_mp3"
    for name, seconds in {"01_baum_sea_fairies_64kb": 0.5, "02_baum_sea_fairies_64kb": 0.3}.items():
        write_clip(book / f"{name}.wav", seconds).rename(book / f"{name}.flac")
    meta = {"id": "1", "title": "Sea Fairies", "genre": ["Children"], "meta_genre": "Literature"}
    describe(book / "01_baum_sea_fairies_64kb.json", book_meta=meta, snr=9.5)
    return root


def test_librilight(librilight):
    first, last = list_clips(librilight)
    assert first.id == "small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum_sea_fairies_64kb"
    of_path = {"subset": "small", "speaker": "100", "book": "sea_fairies_0812_librivox_64kb_mp3"}
    assert first.metadata == {
        **of_path, "chapter": "01_baum_sea_fairies_64kb", "title": "Sea Fairies", "genre": "Literature", "snr": 9.5,
    }  # fmt: skip
    assert last.metadata == {
        **of_path, "chapter": "02_baum_sea_fairies_64kb", "title": None, "genre": None, "snr": None,
    }  # fmt: skip


def test_a_description_that_is_broken_is_refused(librilight):
    path = next(librilight.rglob("*.json"))
    for text in ("{", "[]", "\xff", '{"speaker": "\\ud800"}', '{"voice_activity": [], "book_meta": [1]}'):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(UsageError, match=r"01_baum_sea_fairies_64kb\.json .*get it anew, or remove it"):
            list_clips(librilight, "librilight")


def cut_of(chapter, number, start, text):
    """As in the README of https://github.com/k2-fsa/libriheavy."""
    recording = f"small/100/sea_fairies_0812_librivox_64kb_mp3/{chapter}"
    supervision = {
        "id": f"{recording}_{number}", "recording_id": recording, "start": 0, "duration": 0.2, "channel": 0,
        "language": "English", "speaker": "100",
        "custom": {"texts": [text, text.upper()], "pre_texts": ["..us", "..US"], "begin_byte": 4993, "end_byte": 5120},
    }  # fmt: skip
    file = {"type": "file", "channels": [0], "source": f"download/librilight/{recording}.flac"}
    return {
        "id": f"{recording}_{number}", "start": start, "duration": 0.2, "channel": 0, "supervisions": [supervision],
        "recording": {"id": recording, "sources": [file], "sampling_rate": 8000, "num_samples": 4000, "duration": 0.5},
        "custom": {"text_path": "download/librilight_text/Sea Fairies/text.txt"}, "type": "MonoCut",
    }  # fmt: skip


@pytest.fixture
def libriheavy(tmp_path, librilight):
    folder = tmp_path / "libriheavy"
    folder.mkdir()
    for subset, cuts in {
        "small": [cut_of("01_baum_sea_fairies_64kb", 0, 0.1, "Hello, you."), cut_of("02_baum", 0, 0.0, "Yes?")],
        "dev": [cut_of("01_baum_sea_fairies_64kb", 7, 0.25, "Bye.")],
    }.items():
        lines = "".join(json.dumps(cut) + "\n" for cut in cuts)
        (folder / f"libriheavy_cuts_{subset}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


def test_libriheavy_finds_libri_light(libriheavy, librilight, monkeypatch):
    """Its cuts say download/librilight, wherever Libri-Light is."""
    source = open_source(libriheavy / "libriheavy_cuts_small.jsonl.gz", root=str(librilight))
    first, last = source.clips()
    book = "sea_fairies_0812_librivox_64kb_mp3"
    path = librilight / "small" / "100" / book / "01_baum_sea_fairies_64kb.flac"
    assert (first.id, first.path) == (f"small/100/{book}/01_baum_sea_fairies_64kb_0", str(path))
    assert (first.start_s, first.end_s, first.member) == (0.1, 0.3, "")
    assert first.metadata == {
        "text": "Hello, you.", "speaker": "100", "language": "English", "begin_byte": 4993, "end_byte": 5120,
        "text_path": "download/librilight_text/Sea Fairies/text.txt", "subset": "small", "book": book,
        "chapter": "01_baum_sea_fairies_64kb",
    }  # fmt: skip
    assert last.path == str(path.with_name("02_baum.flac"))  # which is not there: left out when it is planned

    both = [clip.metadata["subset"] for clip in open_source(libriheavy, root=str(librilight)).clips()]
    assert both == ["dev", "small", "small"]
    (librilight.parent / "download").mkdir()
    librilight.rename(librilight.parent / "download" / "librilight")
    monkeypatch.chdir(librilight.parent)
    first, _, _ = open_source(libriheavy).clips()
    assert first.path == str(librilight.parent / "download" / "librilight" / path.relative_to(librilight))


def test_cuts_in_the_tree_leave_a_choice(libriheavy, librilight):
    for path in libriheavy.iterdir():
        path.rename(librilight / path.name)
    with pytest.raises(UsageError, match="could be read as libriheavy or librilight: say which with --source"):
        open_source(librilight)
    assert [len(list_clips(librilight, kind)) for kind in ("libriheavy", "librilight")] == [3, 2]
