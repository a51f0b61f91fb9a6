"""Kaldi data directories: https://kaldi-asr.org/doc/data_prep.html, and where ESPnet differs."""

from __future__ import annotations

import fsspec
import numpy as np
import pytest
import soundfile

from slm.corpus import remote
from slm.corpus.reading import read_clip
from slm.corpus.sources import SOURCES, list_clips, open_source
from slm.corpus.sources.kaldi import KaldiSource
from slm.errors import UsageError
from tests.corpus.audio import write_clip


def data_dir(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text("".join(line + "\n" for line in lines))
    return folder


def complaint(folder, **settings):
    with pytest.raises(UsageError) as caught:
        list(open_source(folder, **settings).clips())
    return str(caught.value)


def test_recordings_with_what_is_known_of_them(tmp_path):
    folder = data_dir(
        tmp_path / "train",
        wav_scp=["s1-a audio/a.wav", "s1-b audio/b.wav", "s2-c /far/away.wav"],
        text=["s1-a HELLO  THERE", "s1-b", "s2-c 你好"],
        utt2spk=["s1-a s1", "s1-b s1", "s2-c s2"],
        spk2gender=["s1 f", "s2 m"],
        utt2lang=["s2-c zh"],
    )
    write_clip(folder / "audio" / "a.wav", 0.5)
    clips = list_clips(folder)
    assert [clip.id for clip in clips] == ["s1-a", "s1-b", "s2-c"]
    assert [clip.path for clip in clips] == [str(folder / "audio/a.wav"), str(folder / "audio/b.wav"), "/far/away.wav"]
    assert clips[0].metadata == {"text": "HELLO  THERE", "speaker": "s1", "language": None, "gender": "f"}
    assert clips[1].metadata == {"text": "", "speaker": "s1", "language": None, "gender": "f"}
    assert clips[2].metadata == {"text": "你好", "speaker": "s2", "language": "zh", "gender": "m"}
    assert list_clips(folder / "wav.scp") == clips


def test_segments_are_parts_of_recordings(tmp_path):
    folder = data_dir(
        tmp_path,
        wav_scp=["call1 a.wav"],
        segments=["call1-0 call1 0.5 1.25", "call1-1 call1 1.25 -1"],
        text=["call1-0 one", "call1-1 two"],
    )
    write_clip(folder / "a.wav", 2.0)
    samples, _ = soundfile.read(folder / "a.wav", dtype="float32")
    first, last = list_clips(folder)
    assert (first.id, first.start_s, first.end_s, first.metadata) == ("call1-0", 0.5, 1.25, {"text": "one"})
    assert np.array_equal(read_clip(first, 8000), samples[4000:10_000])
    assert (last.end_s, last.metadata) == (None, {"text": "two"})
    assert np.array_equal(read_clip(last, 8000), samples[10_000:])


@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_a_folder_on_a_server_is_known_by_its_wav_scp(tmp_path, protocol):
    here = data_dir(
        tmp_path / "kaldi-from-afar",
        wav_scp=["call1 audio/a.wav"],
        segments=["call1-0 call1 0.5 1.25", "call1-1 call1 1.25 -1"],
        text=["call1-0 one", "call1-1 two"],
    )
    write_clip(here / "audio" / "a.wav", 2.0)
    there = f"file://{here}"
    if protocol == "memory":
        there = "memory://kaldi-from-afar"
        fsspec.filesystem("memory").put(f"{here}/", "/kaldi-from-afar/", recursive=True)
    expected = list_clips(here)
    for url in (there, f"{there}/", f"{there}/wav.scp"):
        found = list_clips(url)
        assert [(clip.id, clip.path) for clip in found] == [(f"call1-{i}", f"{there}/audio/a.wav") for i in range(2)]
        assert [clip.metadata for clip in found] == [{"text": "one"}, {"text": "two"}]
        for far, near in zip(found, expected, strict=True):
            assert np.array_equal(read_clip(far, 8000), read_clip(near, 8000))
    assert isinstance(open_source(f"{there}/audio"), SOURCES.get("folder"))


def test_a_server_that_answers_to_anything_behind_a_query_is_not_asked(monkeypatch):
    monkeypatch.setattr(remote, "is_file", lambda _: True)
    assert KaldiSource.recognizes("https://example.org/train")
    assert not KaldiSource.recognizes("https://example.org/get?name=m.csv")


@pytest.mark.parametrize(
    ("command", "path", "member"),
    [
        ("flac -c -d -s a.flac |", "a.flac", ""),
        ("/opt/bin/flac -dcs a.flac|", "a.flac", ""),
        ("flac --stdout --decode --silent 'an odd name.flac' |", "an odd name.flac", ""),
        ("sph2pipe -f wav -p -c 2 a.sph |", "a.sph", "channel:1"),
        ("/kaldi/tools/sph2pipe_v2.5/sph2pipe -f wav a.sph |", "a.sph", ""),
        ("cat a.wav |", "a.wav", ""),
    ],
)
def test_a_pipe_that_only_reads_a_file_is_taken_for_it(tmp_path, command, path, member):
    (clip,) = list_clips(data_dir(tmp_path, wav_scp=[f"u1 {command}"]))
    assert (clip.path, clip.member) == (path, member)  # nowhere here: below the working directory, as in Kaldi


@pytest.mark.parametrize(
    "command",
    [
        "sox a.wav -r 16000 -t wav - |",
        "flac -c -d -s a.flac | sox -t wav - -t wav - |",
        "flac -c a.flac |",
        "flac -c -d -s --skip=100 a.flac |",
        "cat a.wav b.wav |",
        "cat $(touch hacked) |",
        "cat a.wav > b.wav |",
        "cat 'a.wav |",
        "sph2pipe -f raw a.sph |",
        "sph2pipe -t 1:2 a.sph |",
        "|",
    ],
)
def test_other_commands_are_never_run(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    said = complaint(data_dir(tmp_path, wav_scp=["u0 a.wav", f"u1 {command}"]))
    assert "wav.scp, line 2: the command `" in said
    assert "is not run; export the audio to files first" in said
    assert [path.name for path in tmp_path.iterdir()] == ["wav.scp"]


def test_one_channel_is_read(tmp_path):
    left, right = np.linspace(-0.5, 0.5, 4000), np.linspace(0.5, -0.2, 4000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 8000, subtype="FLOAT")
    (clip,) = list_clips(data_dir(tmp_path, wav_scp=["u1 sph2pipe -f wav -c 2 a.wav |"]))
    assert np.array_equal(read_clip(clip, 8000), right.astype(np.float32))


def test_espnet_names_files_from_the_folder_of_its_recipe(tmp_path, monkeypatch):
    """egs2/x/asr1/dump/raw/train/wav.scp: dump/raw/org/train/data/format.1/u1.flac"""
    recipe = tmp_path / "egs2" / "asr1"
    folder = data_dir(
        recipe / "dump" / "raw" / "train",
        wav_scp=["u1 dump/raw/org/train/data/format.1/u1.wav"],
        text=["u1 HI"],
        utt2spk=["u1 s"],
        utt2num_samples=["u1 4000"],
        feats_type=["raw"],
    )
    path = write_clip(recipe / "dump/raw/org/train/data/format.1/u1.wav", 0.5)
    source = open_source(folder)
    (clip,) = source.clips()
    assert clip.path == str(path)
    assert source.base == str(recipe)
    monkeypatch.chdir(recipe)
    assert [clip.path for clip in open_source("dump/raw/train").clips()] == [str(path)]
    (clip,) = open_source(folder, root="/other").clips()
    assert clip.path == "/other/dump/raw/org/train/data/format.1/u1.wav"


def test_what_cannot_be_listed_is_told_with_the_remedy(tmp_path):
    assert "line 1: 'a.ark:15' lies in a Kaldi archive; export the audio to files" in complaint(
        data_dir(tmp_path / "1", wav_scp=["u1 a.ark:15"])
    )
    assert "line 2: no file; export" in complaint(data_dir(tmp_path / "2", wav_scp=["u1 a.wav", "u2"]))
    assert "line 2: blank; remove it" in complaint(data_dir(tmp_path / "3", wav_scp=["u1 a.wav", "", "u2 b.wav"]))
    assert "segments, line 1: 'r1 0.0' is not a recording, its start and its end in seconds" in complaint(
        data_dir(tmp_path / "4", wav_scp=["r1 a.wav"], segments=["u1 r1 0.0"])
    )
    assert "segments, line 1: the recording 'r2' is not in wav.scp" in complaint(
        data_dir(tmp_path / "5", wav_scp=["r1 a.wav"], segments=["u1 r2 0 1"])
    )


def test_files_that_are_not_sorted_alike_are_refused_not_mixed_up(tmp_path):
    text = ["a x", "b y"]
    said = complaint(data_dir(tmp_path / "1", wav_scp=["b b.wav", "a a.wav"], text=text))
    assert "not in sorted order without repeats ('a' after 'b'): run utils/fix_data_dir.sh" in said
    assert "('a' after 'b')" in complaint(data_dir(tmp_path / "2", wav_scp=["a a.wav", "b b.wav"], text=text[::-1]))
    assert "('a' after 'a')" in complaint(data_dir(tmp_path / "3", wav_scp=["a a.wav", "a b.wav"], text=text))
    # The order of bytes (LC_ALL=C), which differs from that of UTF-16 and of words.
    keys = ["B", "a", "a-1", "a1", "é", "\uffee", "😀"]
    folder = data_dir(
        tmp_path / "4", wav_scp=[f"{key} {key}.wav" for key in keys], text=[f"{key} of {key}" for key in keys[1::2]]
    )
    found = {clip.id: clip.metadata["text"] for clip in list_clips(folder)}
    assert found == {key: f"of {key}" if i % 2 else None for i, key in enumerate(keys)}
