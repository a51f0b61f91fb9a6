"""Segments from the midst of recordings that only decode from their start on: each is decoded once, for all of them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from slm.audio import can_seek, read_audio
from slm.corpus import reading
from slm.corpus.reading import read_clip
from slm.corpus.sources import SourceClip
from slm.errors import AudioError, UnreadableError
from tests.corpus.audio import write_clip
from tests.corpus.test_segmentation import FFMPEG, SOUNDFILE, UNSEEKABLE, noise, recording
from tests.encode import encode_with_ffmpeg


@pytest.fixture(autouse=True)
def decoded(tmp_path, monkeypatch):
    """The paths that were decoded from start to end; segments from half a second on count as in the midst."""
    paths, decode = [], reading.decode
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(reading, "_DECODED_ANEW_S", 0.5)
    monkeypatch.setattr(reading, "_ROW_SAMPLES", 10_000)
    monkeypatch.setattr(reading, "decode", lambda source, channel: paths.append(source) or decode(source, channel))
    reading._decoded_once.cache_clear()
    return paths


def mp3_without_length(path):
    data = recording(path, 48_000, 149_001).read_bytes()
    path.write_bytes(data[data.index(data[:2], data.index(b"Xing")) :])
    return path


@pytest.mark.parametrize("suffix", [*FFMPEG, *UNSEEKABLE, "headerless mp3"])
def test_segments_are_those_of_a_recording_that_is_decoded_once(tmp_path, decoded, suffix):
    path = tmp_path / f"a.{suffix.split()[-1]}"
    mp3_without_length(path) if suffix == "headerless mp3" else recording(path, 48_000, 149_001)
    assert not can_seek(path)
    times = [(2.0, 2.5), (0.5, 1.25), (2.5, None), (0.0, 0.5), (1.25, 2.0)]
    for start_s, end_s in times:
        for to_hz in (24_000, 48_000):
            made = read_clip(SourceClip("a", str(path), start_s, end_s), to_hz)
            assert np.array_equal(made, read_audio(path, to_hz, start_s, end_s))
    assert decoded == [str(path)]
    reading._decoded_once.cache_clear()  # as in another process
    read_clip(SourceClip("a", str(path), 1.0, 2.0), 24_000)
    assert decoded == [str(path)]


@pytest.mark.parametrize("suffix", SOUNDFILE)
def test_what_can_be_read_from_anywhere_is(tmp_path, decoded, suffix):
    path = recording(tmp_path / f"a.{suffix}", 48_000, 149_001)
    assert can_seek(path)
    assert len(read_clip(SourceClip("a", str(path), 1.0, 2.0), 16_000)) == 16_000
    assert decoded == []


def test_a_recording_that_was_written_anew_is_decoded_anew(tmp_path, decoded):
    clip = SourceClip("a", str(recording(tmp_path / "a.m4a", 48_000, 149_001)), 1.0, 2.0)
    first = read_clip(clip, 16_000)
    recording(tmp_path / "a.m4a", 48_000, 150_001)
    assert not np.array_equal(read_clip(clip, 16_000), first)
    assert len(decoded) == 2


def test_channels_are_kept_apart(tmp_path, decoded):
    path = tmp_path / "a.mka"
    encode_with_ffmpeg(path, noise(96_000), 48_000, "pcm_f32le", 48_000, "flt", layout="stereo")
    for channel in (0, 1):
        clip = SourceClip("a", str(path), 1.0, 1.5, member=f"channel:{channel}")
        assert np.array_equal(read_clip(clip, 48_000), read_audio(path, 48_000, 1.0, 1.5, channel))
    with pytest.raises(AudioError, match="no channel 2"):
        read_clip(SourceClip("a", str(path), 1.0, 1.5, member="channel:2"), 48_000)
    assert len(decoded) == 3


def test_faults_are_found_once_and_told_for_each_segment(tmp_path, decoded):
    path = recording(tmp_path / "a.webm", 48_000, 149_001)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])
    for start_s in (1.0, 2.0):
        with pytest.raises(AudioError, match="truncated or corrupt"):
            read_clip(SourceClip("a", str(path), start_s, start_s + 0.5), 16_000)
        reading._decoded_once.cache_clear()  # as in another process
    assert len(decoded) == 1
    with pytest.raises(UnreadableError, match="missing file"):
        read_clip(SourceClip("a", str(tmp_path / "absent.m4a"), 1.0, 2.0), 16_000)
    with pytest.raises(AudioError, match="segment outside the file"):
        read_clip(SourceClip("a", str(recording(tmp_path / "b.m4a", 48_000, 149_001)), 1.0, 9.0), 16_000)


def test_segments_at_the_beginning_are_decoded_from_there(tmp_path, decoded, monkeypatch):
    monkeypatch.setattr(reading, "_DECODED_ANEW_S", 60.0)
    path = recording(tmp_path / "a.m4a", 48_000, 149_001)
    assert len(read_clip(SourceClip("a", str(path), 1.0, 2.0), 16_000)) == 16_000
    assert len(read_clip(SourceClip("b", str(write_clip(tmp_path / "b.wav", 0.5))), 8000)) == 4000
    assert decoded == []


def test_a_missing_pyav_is_told_with_the_remedy(tmp_path, monkeypatch):
    path = tmp_path / "a.m4a"
    path.write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"^needs PyAV to be read: pip install 'slm-toolkit\[formats\]'$"):
        read_clip(SourceClip("a", str(path)), 16_000)
