"""Reading audio, held to closed forms (sines), to other decoders' files, and to files broken on purpose."""

from __future__ import annotations

import errno
import io
import os
import tracemalloc
from collections import Counter
from contextlib import nullcontext
from math import inf, nan

import numpy as np
import pytest
import soundfile
import soxr

from slm import _sndfile, audio
from slm._segment import cut as cut_stream
from slm.audio import AudioInfo, AudioStream, find_audio, probe, read_audio, walk_folder, write_wav
from slm.errors import AudioError, UnreadableError, UsageError
from slm.types import AudioClip

RATE = 48_000


def sine(duration_s, rate_hz=RATE, hz=440.0, level=0.3):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(duration_s * rate_hz)) / rate_hz)).astype(np.float32)


def write(path, samples, rate_hz=RATE, **kwargs):
    soundfile.write(str(path), samples, rate_hz, **kwargs)
    return path


def cut(path, share):
    """The same file without its end, as an interrupted copy leaves it."""
    data = path.read_bytes()
    short = path.with_name(f"cut-{path.name}")
    short.write_bytes(data[: int(len(data) * share)])
    return short


def reason(path, **kwargs):
    with pytest.raises(AudioError) as caught:
        read_audio(path, 16_000, **kwargs)
    assert caught.value.__notes__ == [f"in {path.name if isinstance(path, AudioStream) else path}"]
    return str(caught.value)


FORMATS = {
    "wav": {"subtype": "PCM_16"},
    "flac": {"subtype": "PCM_24"},
    "aiff": {"subtype": "PCM_16"},
    "au": {"subtype": "PCM_16"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3"},
    "sph": {"format": "NIST", "subtype": "PCM_16"},
    "caf": {"subtype": "PCM_16"},
    "w64": {"subtype": "PCM_16"},
    "rf64": {"subtype": "PCM_16"},
    "aifc": {"format": "AIFF", "subtype": "PCM_16"},
    "voc": {"subtype": "PCM_16"},
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_sine_that_went_in(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix.upper()}", np.stack([sine(1.0)] * 2, 1), **FORMATS[suffix])
    assert find_audio(tmp_path) == [path]
    assert probe(path) == AudioInfo(RATE, RATE, 2)
    got = read_audio(path, 16_000)
    assert got.dtype == np.float32
    assert got.shape == (16_000,)
    # Away from the edges, where filters ring and codecs start.
    assert np.abs(got - sine(1.0, 16_000))[2000:-2000].max() < (0.02 if suffix in ("ogg", "opus", "mp3") else 1e-3)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000, 44_100, 96_000])
def test_resampling_keeps_a_tone_and_drops_what_the_new_rate_cannot_hold(tmp_path, rate_hz):
    low = write(tmp_path / "low.wav", sine(0.5, rate_hz, 1000), rate_hz)
    assert np.abs(read_audio(low, 16_000) - sine(0.5, 16_000, 1000))[500:-500].max() < 1e-3
    if rate_hz > 24_000:
        high = write(tmp_path / "high.wav", sine(0.5, rate_hz, 11_000), rate_hz)
        assert np.abs(read_audio(high, 16_000))[500:-500].max() < 1e-3  # above 8 kHz: no alias


def test_channels_are_averaged(tmp_path):
    left, right = sine(0.2), sine(0.2, hz=1000)
    path = write(tmp_path / "a.wav", np.stack([left, right], 1), subtype="FLOAT")
    assert np.array_equal(read_audio(path, RATE), np.stack([left, right], 1).mean(1))


def test_a_segment_is_the_slice_of_the_whole(tmp_path):
    path = write(tmp_path / "a.wav", np.arange(8000) / 8000, 8000, subtype="FLOAT")
    assert np.array_equal(read_audio(path, 8000, 0.25, 0.5), read_audio(path, 8000)[2000:4000])
    assert np.array_equal(read_audio(path, 8000, 0.75), read_audio(path, 8000)[6000:])
    assert len(read_audio(path, 8000, 0.5, 1.09)) == 4000  # a rounded end
    assert reason(path, start_s=0.5, end_s=1.11) == "segment outside the file: 0.5 to 1.11 s of 1.000 s"
    assert reason(path, start_s=2.0) == "segment outside the file: 2 s to the end of 1.000 s"
    for times in [(0.5, 0.5), (0.5, 0.25), (-0.5, 0.5), (nan, 0.5), (0.5, nan), (inf, None), (0.0, inf)]:
        assert reason(path, start_s=times[0], end_s=times[1]).startswith("not a segment: "), times


@pytest.mark.parametrize("suffix", [suffix for suffix in FORMATS if suffix != "caf"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_is_found_out(tmp_path, suffix, share):
    rng = np.random.default_rng(0)
    whole = write(tmp_path / f"a.{suffix}", 0.1 * rng.standard_normal(3 * RATE), **FORMATS[suffix])
    assert len(read_audio(whole, 16_000)) == 48_000
    assert "truncated" in reason(cut(whole, share))


def test_a_truncated_wav_still_serves_a_segment_that_it_holds(tmp_path):
    short = cut(write(tmp_path / "a.wav", sine(1.0)), 0.5)
    assert len(read_audio(short, 16_000, 0.1, 0.2)) == 1600
    assert "truncated" in reason(short, start_s=0.1, end_s=0.9)


@pytest.mark.parametrize("placeholder", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_written_to_a_pipe_has_a_size_that_means_nothing(tmp_path, placeholder):
    path = write(tmp_path / "a.wav", sine(0.5))
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = placeholder.to_bytes(4, "little")
    path.write_bytes(data)
    assert len(read_audio(path, 16_000)) == 8000


def test_what_is_no_audio_has_its_own_reason(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("hello " * 100)
    write(tmp_path / "none.wav", np.zeros(0))
    write(tmp_path / "silent.flac", np.zeros(1000))
    write(tmp_path / "antiphase.wav", np.stack([sine(0.1), -sine(0.1)], 1), subtype="FLOAT")
    write(tmp_path / "nan.wav", np.array([0.1, np.nan, 0.2]), subtype="FLOAT")
    write(tmp_path / "inf.wav", np.array([0.1, np.inf, 0.2]), subtype="FLOAT")
    assert reason(tmp_path / "empty.wav") == "empty: 0 bytes"
    assert reason(tmp_path / "none.wav") == "empty: no samples"
    assert reason(tmp_path / "text.wav") == "not audio: format not recognised"
    assert reason(tmp_path / "silent.flac") == "silent: all samples are 0"
    assert reason(tmp_path / "antiphase.wav") == "silent: all samples are 0"
    assert reason(tmp_path / "nan.wav") == reason(tmp_path / "inf.wav") == "NaN or infinite samples"
    assert reason(tmp_path / "absent.wav") == "missing file"
    assert reason(tmp_path) == "a folder, not a file"
    for name in ("empty", "text", "none"):
        with pytest.raises(AudioError):
            probe(tmp_path / f"{name}.wav")


def test_no_permission(unprivileged):
    folder, drop_rights = unprivileged
    (folder / "closed").mkdir()
    for name in ("a.wav", "closed/b.wav", "c.wav"):
        write(folder / name, sine(0.1))
    (folder / "a.wav").chmod(0)
    (folder / "closed").chmod(0)
    assert len(read_audio(folder / "c.wav", 16_000)) == 1600
    drop_rights()
    for path in (folder / "a.wav", folder / "closed" / "b.wav"):
        assert reason(path) == "no permission to read"
        with pytest.raises(UnreadableError, match="no permission"):
            probe(path)
    with pytest.raises(UsageError, match="cannot list the folder"):
        find_audio(folder / "closed")


def test_a_folder_that_cannot_be_listed_is_told_of_and_does_not_end_the_scan(unprivileged):
    """By a list that was made when it could be."""
    folder, drop_rights = unprivileged
    for name in ("a.wav", "closed/b.wav", "closed/sub/x.wav", "d/e.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        write(folder / name, sine(0.1))
    (folder / "d" / "up").symlink_to(folder / "closed")  # the same folder, which counts once
    open_folders = [(parent, audio) for parent, audio, _ in walk_folder(folder)]
    assert [os.path.relpath(parent, folder) for parent, _ in open_folders] == [".", "closed", "closed/sub", "d"]
    (folder / "closed").chmod(0)
    drop_rights()
    found = [(parent, audio) for parent, audio, _ in walk_folder(folder)]
    assert found == [open_folders[0], (str(folder), ["closed/"]), open_folders[3]]
    assert reason(folder / "closed") == "no permission to read: a folder"
    with pytest.raises(UsageError, match=r"cannot list the folder .*/closed/: make it readable"):
        find_audio(folder)
    with pytest.raises(UsageError, match="cannot list the folder"):
        list(walk_folder(folder / "closed"))


def test_names_that_the_system_refuses(tmp_path):
    path = write(tmp_path / "a.wav", sine(0.1))
    assert reason(tmp_path / ("a" * 300 + ".wav")).startswith("unreadable: File name too long")
    assert reason(path / "b.wav") == "missing file"
    assert reason(tmp_path / "a\0.wav").startswith("no file name")
    os.mkfifo(tmp_path / "pipe.wav")
    assert reason(tmp_path / "pipe.wav") == "a device or pipe, not a file"


def test_a_failing_disk_is_no_truncated_file(tmp_path, monkeypatch):
    """Half of a FLAC can be read: decoders call it truncated, but the file has another half."""
    short = cut(write(tmp_path / "a.flac", sine(1.0)), 0.5)
    assert "truncated" in reason(short)

    class Failing(io.BytesIO):
        def read(self, size):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(audio, "open", lambda *_: Failing(), raising=False)
    with pytest.raises(UnreadableError, match="unreadable: Input/output error"):
        read_audio(short, 16_000)


def test_blocks_make_what_the_whole_makes(tmp_path, monkeypatch):
    """Decoding, mixing, cutting and resampling block by block, against soxr on the whole file."""
    stereo = 0.1 * np.random.default_rng(0).standard_normal((30_000, 2)).astype(np.float32)
    path = write(tmp_path / "a.wav", stereo, 44_100, subtype="FLOAT")
    monkeypatch.setattr(_sndfile, "_BLOCK_FRAMES", 777)
    whole = soxr.resample(stereo.mean(axis=1), 44_100, 16_000, quality="HQ")
    assert np.array_equal(read_audio(path, 16_000), whole)
    mono = stereo.mean(axis=1)
    blocks = ((44_100, mono[i : i + 777]) for i in range(0, 30_000, 777))
    assert np.array_equal(np.concatenate([b for _, b in cut_stream(blocks, 0.1, 0.4)]), mono[4410:17_640])


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_and_rate_is_what_one_pass_makes_of_it(tmp_path, monkeypatch, suffix):
    """Bit for bit: the file decoded, mixed and resampled whole."""
    rng = np.random.default_rng(1)
    rate_hz = 48_000 if suffix == "opus" else 44_100
    path = write(tmp_path / f"a.{suffix}", 0.1 * rng.standard_normal((40_003, 2)), rate_hz, **FORMATS[suffix])
    decoded, _ = soundfile.read(str(path), dtype="float32", always_2d=True)
    mono = decoded.mean(axis=1, dtype=np.float32)
    monkeypatch.setattr(_sndfile, "_BLOCK_FRAMES", 4801)
    for to_hz in (8_000, 16_000, 24_000, 44_100, 48_000):
        whole = mono if to_hz == rate_hz else soxr.resample(mono, rate_hz, to_hz, quality="HQ")
        got = read_audio(path, to_hz)
        assert got.dtype == np.float32
        assert np.array_equal(got, whole), to_hz


def test_a_long_file_is_held_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal((500_000, 2)), 44_100)
    monkeypatch.setattr(_sndfile, "_BLOCK_FRAMES", 4096)
    read_audio(path, 16_000)  # what is imported is no part of it
    tracemalloc.start()
    try:
        for to_hz in (16_000, 44_100):
            tracemalloc.reset_peak()
            samples = read_audio(path, to_hz)
            _, peak = tracemalloc.get_traced_memory()
            assert samples.nbytes < peak < 1.25 * samples.nbytes + 20 * 4096
            del samples
    finally:
        tracemalloc.stop()


def test_find_audio_skips_hidden_files_and_follows_links_once(tmp_path):
    for name in ("b/Ünïcode ♫.WAV", "b/a.flac", "a.mp3", ".hidden.wav", ".git/x.wav", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "c.wav").symlink_to(tmp_path / "gone.wav")  # stays in the list, to be named as missing
    names = [path.relative_to(tmp_path).as_posix() for path in find_audio(tmp_path)]
    assert names == ["a.mp3", "c.wav", "b/a.flac", "b/Ünïcode ♫.WAV"]
    with pytest.raises(UsageError, match="no such folder"):
        find_audio(tmp_path / "nowhere")


def test_a_scan_counts_what_it_leaves_out_by_suffix(tmp_path):
    for name in ("a.WAV", "a.txt", "b.TXT", "README", "sub/x.json", ".hidden.txt", "a.wav.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    skipped = sum((found for _, _, found in walk_folder(tmp_path)), Counter())
    assert skipped == {".txt": 2, "": 1, ".json": 1, ".part": 1}


def test_write_wav_tells_of_a_full_disk(tmp_path, monkeypatch):
    (tmp_path / "full").symlink_to("/dev/full")
    monkeypatch.setattr("slm.audio.atomic_file", lambda path: nullcontext(tmp_path / "full"))
    with pytest.raises(OSError, match="No space left on device"):
        write_wav(tmp_path / "a.wav", AudioClip("a", np.zeros(80_000, np.float32), 8000))


def test_write_wav_comes_back_to_half_a_step_and_clips(tmp_path):
    samples = np.concatenate([sine(0.1, 8000), [1.5, -1.5, 1.0, -1.0]]).astype(np.float32)
    write_wav(tmp_path / "new" / "a.wav", AudioClip("a", samples, 8000))
    back = read_audio(tmp_path / "new" / "a.wav", 8000)
    assert soundfile.info(str(tmp_path / "new" / "a.wav")).subtype == "PCM_16"
    assert np.abs(back[:-4] - samples[:-4]).max() <= 0.5 / 32768
    assert back[-4:].tolist() == [32767 / 32768, -1.0, 32767 / 32768, -1.0]
    with pytest.raises(AudioError):
        write_wav(tmp_path / "nan.wav", AudioClip("nan", np.array([np.nan], np.float32), 8000))
    assert not (tmp_path / "nan.wav").exists()
