"""Audio files in and out: the only place that decodes, mixes down or resamples.

libsndfile (soundfile) reads most formats, FFmpeg (PyAV, extra `formats`) a few more, soxr resamples. What cannot be
used raises AudioError with a reason that names the fault, fit for `rejects.jsonl`.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slm.errors import AudioError, UsageError
from slm.files import atomic_file
from slm.types import AudioClip

if TYPE_CHECKING:
    import soundfile

SNDFILE_SUFFIXES = {".wav", ".wave", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".au", ".sph"}
FFMPEG_SUFFIXES = {".m4a", ".aac", ".g722", ".webm"}
AUDIO_SUFFIXES = SNDFILE_SUFFIXES | FFMPEG_SUFFIXES

# Lengths in headers and manifests are rounded, and lossy codecs pad: a difference below this is no fault.
LENGTH_TOLERANCE_S = 0.1
_BLOCK_FRAMES = 1 << 20


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a file says; `num_frames` counts samples per channel."""

    num_frames: int
    sample_rate_hz: int
    channels: int

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.sample_rate_hz


def find_audio(folder: Path | str) -> list[Path]:
    """All audio files below `folder`, sorted by path; by suffix in any case, hidden files and folders left out.

    Links are followed (a folder once). Raises UsageError for a folder that is not there or cannot be listed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}")
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=_cannot_list, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            found += [Path(parent, n) for n in names if not n.startswith(".") and _suffix(n) in AUDIO_SUFFIXES]
        seen.add(real)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _cannot_list(error: OSError) -> None:
    raise UsageError(f"cannot list the folder {error.filename}: {error.strerror}")


def _suffix(path: Path | str) -> str:
    return Path(path).suffix.lower()


def probe(path: Path | str) -> AudioInfo:
    """Length, rate and channels from the header, without decoding (where the header says; else by decoding).

    Raises AudioError for a file that is missing, unreadable, empty, or no audio.
    """
    _check_file(path)
    if _suffix(path) in FFMPEG_SUFFIXES:
        from slm._ffmpeg import probe_ffmpeg

        info = AudioInfo(*probe_ffmpeg(path))
    else:
        with _open_sndfile(path) as file:
            info = AudioInfo(file.frames, file.samplerate, file.channels)
    if info.num_frames == 0:
        raise AudioError("empty: no samples")
    return info


def read_audio(path: Path | str, sample_rate_hz: int, start_s: float = 0.0, end_s: float | None = None) -> np.ndarray:
    """Mono float32 samples `[N]` of a file, or of its segment `start_s`..`end_s`, at `sample_rate_hz`.

    Channels are averaged; soxr's HQ quality resamples. Raises AudioError for a file that is missing, unreadable,
    empty, no audio, corrupt, truncated (fewer samples than the header promises), silent (all samples 0), holds NaN
    or infinity, or ends before the segment does.
    """
    _check_file(path)
    blocks = _ffmpeg_blocks if _suffix(path) in FFMPEG_SUFFIXES else _sndfile_blocks
    mono = [(rate_hz, _mix_down(block)) for rate_hz, block in blocks(path, start_s, end_s)]
    if not mono:
        raise AudioError("empty: no samples")
    samples = np.concatenate([block for _, block in mono])
    _check_samples(samples)
    return resample(samples, mono[0][0], sample_rate_hz)


def _mix_down(block: np.ndarray) -> np.ndarray:
    return block.mean(axis=1, dtype=np.float32) if block.shape[1] > 1 else block[:, 0]


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Float32 samples `[N]` at another rate, by soxr's HQ quality."""
    import soxr

    if from_hz == to_hz:
        return np.ascontiguousarray(samples, np.float32)
    return soxr.resample(np.ascontiguousarray(samples, np.float32), from_hz, to_hz, quality="HQ")


def write_wav(path: Path | str, clip: AudioClip) -> None:
    """Write a clip as 16-bit PCM, whole or not at all; samples beyond -1..1 are clipped."""
    import soundfile

    if not np.isfinite(clip.samples).all():
        raise AudioError(f"{clip.id}: NaN or infinite samples cannot be written")
    pcm = np.clip(np.rint(np.asarray(clip.samples, np.float64) * 32768), -32768, 32767).astype(np.int16)
    with atomic_file(path) as temporary:
        soundfile.write(str(temporary), pcm, clip.sample_rate_hz, subtype="PCM_16", format="WAV")


def _check_file(path: Path | str) -> None:
    path = Path(path)
    if path.is_dir():
        raise AudioError("a folder, not a file")
    if not path.exists():
        raise AudioError("missing file")
    if not os.access(path, os.R_OK):
        raise AudioError("no permission to read")
    if path.stat().st_size == 0:
        raise AudioError("empty: 0 bytes")


def _check_samples(samples: np.ndarray) -> None:
    if not np.isfinite(samples).all():
        raise AudioError("NaN or infinite samples")
    if not samples.any():
        raise AudioError("silent: all samples are 0")


def _segment(start_s: float, end_s: float | None, info: AudioInfo) -> tuple[int, int]:
    """First and last (excluded) frame of a segment within a file, or AudioError."""
    end_s = info.duration_s if end_s is None else end_s
    if not 0 <= start_s < end_s:
        raise AudioError(f"empty segment: {start_s:g} to {end_s:g} s")
    if end_s > info.duration_s + LENGTH_TOLERANCE_S or start_s >= info.duration_s:
        raise AudioError(f"segment outside the file: {start_s:g} to {end_s:g} s of {info.duration_s:.3f} s")
    return round(start_s * info.sample_rate_hz), min(round(end_s * info.sample_rate_hz), info.num_frames)


def _check_length(got: int, promised: int, rate_hz: int) -> None:
    if got < promised - LENGTH_TOLERANCE_S * rate_hz:
        raise AudioError(f"truncated or corrupt: {got / rate_hz:.3f} of {promised / rate_hz:.3f} s can be decoded")


# libsndfile ------------------------------------------------------------------------------------------------------


def _open_sndfile(path: Path | str) -> soundfile.SoundFile:
    import soundfile

    try:
        return soundfile.SoundFile(os.fsencode(path))
    except soundfile.LibsndfileError as error:
        if error.code == 1:  # SF_ERR_UNRECOGNISED_FORMAT
            raise AudioError("not audio: format not recognised") from None
        raise AudioError(f"corrupt or not audio: {_explain(error)}") from None


def _explain(error: soundfile.LibsndfileError) -> str:
    return error.error_string.strip().removeprefix("Error : ").rstrip(".") or f"libsndfile error {error.code}"


def _sndfile_blocks(path: Path | str, start_s: float, end_s: float | None) -> Iterator[tuple[int, np.ndarray]]:
    """(rate, float32 `[n, channels]`) block by block, so that only the mono sum of a long file is held."""
    import soundfile

    with _open_sndfile(path) as file:
        info = AudioInfo(file.frames, file.samplerate, file.channels)
        if info.num_frames == 0:
            return
        if file.format == "MP3" and not _tells_length(path):
            yield from _mp3_blocks(path, start_s, end_s)
            return
        if end_s is None or end_s > info.duration_s:
            _check_not_cut(file, path)
        start, end = _segment(start_s, end_s, info)
        got = 0
        try:
            if start:
                file.seek(start)
            while got < end - start:
                wanted = min(_BLOCK_FRAMES, end - start - got)
                block = file.read(wanted, dtype="float32", always_2d=True)
                got += len(block)
                yield info.sample_rate_hz, block
                if len(block) < wanted:  # the end, or a hole (a lost Ogg page)
                    break
        except soundfile.LibsndfileError as error:
            raise AudioError(f"truncated or corrupt: cannot be decoded to its end ({_explain(error)})") from None
        _check_length(got, end - start, info.sample_rate_hz)


def _check_not_cut(file: soundfile.SoundFile, path: Path | str) -> None:
    """libsndfile mends the length of a cut WAV, AIFF or AU in silence, but says so in its log."""
    log = file.extra_info
    for said, there in re.findall(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", log, re.M):
        if int(there) < int(said) and not _is_placeholder(int(said)):
            raise AudioError(f"truncated: {int(there):,} of {int(said):,} bytes of samples")
    if file.format == "OGG" and not _last_ogg_page_is_whole(path):
        raise AudioError("truncated: the last Ogg page is incomplete")


def _is_placeholder(size: int) -> bool:
    """What programs that write to a pipe put where the size belongs."""
    return 0x7FFF0000 <= size <= 0x7FFFFFFF or size >= 0xFFFF0000


def _last_ogg_page_is_whole(path: Path | str) -> bool:
    with open(path, "rb") as raw:
        raw.seek(max(0, os.path.getsize(path) - 65_536))  # a page has at most 65,307 bytes
        tail = raw.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    # 27 bytes of header, of which the last is the number of segments, then their sizes, then the segments.
    return len(page) >= 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _tells_length(path: Path | str) -> bool:
    """Whether an MP3 begins with a Xing, Info or VBRI frame: without, its length is a guess from its first bitrate,
    far too short where the bitrate varies."""
    with open(path, "rb") as raw:
        head = raw.read(10)
        # An ID3v2 tag comes first: its size has 7 bits a byte.
        skip = 10 + sum(byte << 7 * (3 - i) for i, byte in enumerate(head[6:])) if head[:3] == b"ID3" else 0
        raw.seek(skip)
        first_frame = raw.read(512)
    return any(tag in first_frame for tag in (b"Xing", b"Info", b"VBRI"))


def _mp3_blocks(path: Path | str, start_s: float, end_s: float | None) -> Iterator[tuple[int, np.ndarray]]:
    """Decode from a pipe: there libsndfile cannot estimate and reads to the true end."""
    import soundfile

    source, sink = os.pipe()
    feeder = threading.Thread(target=_feed, args=(path, sink), daemon=True)
    feeder.start()
    parts: list[tuple[int, np.ndarray]] = []
    try:
        with soundfile.SoundFile(source) as file:
            while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                parts.append((file.samplerate, block))
    except soundfile.LibsndfileError:  # mpg123 gets over faults inside a file, not over half a frame at its end
        raise AudioError("truncated or corrupt: the last MP3 frame is incomplete") from None
    finally:
        feeder.join()
    yield from _cut(parts, start_s, end_s)


def _feed(path: Path | str, sink: int) -> None:
    with suppress(BrokenPipeError), open(path, "rb") as raw, open(sink, "wb") as pipe:
        shutil.copyfileobj(raw, pipe)


def _cut(
    parts: Sequence[tuple[int, np.ndarray]], start_s: float, end_s: float | None
) -> Iterator[tuple[int, np.ndarray]]:
    """A segment of a wholly decoded file."""
    if parts:
        rate_hz, whole = parts[0][0], np.concatenate([block for _, block in parts])
        start, end = _segment(start_s, end_s, AudioInfo(len(whole), rate_hz, whole.shape[1]))
        yield rate_hz, whole[start:end]


# FFmpeg ----------------------------------------------------------------------------------------------------------


def _ffmpeg_blocks(path: Path | str, start_s: float, end_s: float | None) -> Iterator[tuple[int, np.ndarray]]:
    from slm._ffmpeg import decode_ffmpeg, probe_ffmpeg

    info = AudioInfo(*probe_ffmpeg(path))
    parts = list(decode_ffmpeg(path))
    if parts:
        # HE-AAC decodes at twice the rate of its header: lengths are compared in seconds.
        rate_hz = parts[0][0]
        _check_length(sum(len(block) for _, block in parts), round(info.duration_s * rate_hz), rate_hz)
    yield from _cut(parts, start_s, end_s)
