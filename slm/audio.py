"""Audio files in and out: with its helpers `_sndfile`, `_ffmpeg`, `_segment` and `_stream` the only place that decodes,
mixes down or resamples; `_folders` finds files.

libsndfile (soundfile) reads most formats, FFmpeg (PyAV, extra `formats`) a few more, soxr resamples. What cannot be
used raises AudioError with a reason that names the fault, fit for `rejects.jsonl`.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from slm._ffmpeg import ffmpeg_blocks, probe_ffmpeg
from slm._folders import AUDIO_SUFFIXES, FFMPEG_SUFFIXES, find_audio, walk_folder
from slm._headers import HEADER_BYTES, info_of_header
from slm._segment import AudioInfo, Blocks, check_times, cut, with_surroundings
from slm._sndfile import can_seek_sndfile, probe_sndfile, sndfile_blocks
from slm._stream import AudioInput, AudioStream, DecodedAudio, suffix_of, watched
from slm.errors import AudioError, SilentError, UnreadableError
from slm.files import atomic_file
from slm.types import AudioClip

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioInfo",
    "AudioInput",
    "AudioStream",
    "Blocks",
    "DecodedAudio",
    "can_seek",
    "decode",
    "find_audio",
    "joined",
    "probe",
    "read_audio",
    "read_blocks",
    "walk_folder",
    "write_wav",
]

_RATES_HZ = (1_000, 10_000_000)


def probe(source: AudioInput) -> AudioInfo:
    """Length, rate and channels from the header, without decoding (where the header says; else by decoding).

    Raises AudioError for a file that is missing, unreadable, empty, or no audio.
    """
    with _readable(source) as (file, head):
        info = probe_ffmpeg(file) if _is_for_ffmpeg(file, head) else probe_sndfile(file)
    if info.num_frames == 0:
        raise AudioError("empty: no samples")
    _check_rate(info.sample_rate_hz)
    return info


def plain_info(path: str, head: bytes, num_bytes: int) -> AudioInfo | None:
    """What `probe` says of a file of the plainest form by its first bytes, without opening it: there may be a million.
    None where `probe` must look."""
    info = None if suffix_of(path) in FFMPEG_SUFFIXES else info_of_header(head, num_bytes)
    return info if info and info.num_frames and _RATES_HZ[0] <= info.sample_rate_hz <= _RATES_HZ[1] else None


def read_audio(
    source: AudioInput | DecodedAudio,
    sample_rate_hz: int,
    start_s: float = 0.0,
    end_s: float | None = None,
    channel: int | None = None,
) -> np.ndarray:
    """Mono float32 samples `[N]` of a file, or of its segment `start_s`..`end_s`, at `sample_rate_hz`.

    Channels are averaged, or one is taken (from 0); soxr's HQ quality resamples, block by block: what is held is the
    result. A segment is what the same part of the whole file is: segments that touch make one signal, at any rate.
    Raises AudioError for a file that is missing, unreadable, empty, no audio, corrupt, truncated (fewer samples than
    the header promises), silent (all samples 0), holds NaN or infinity, lacks the channel, or ends before the segment
    does.
    """
    try:
        return joined(read_blocks(source, sample_rate_hz, start_s, end_s, channel))
    except AudioError as error:
        if isinstance(source, str | Path | AudioStream):
            # A traceback shows it; the message stays a reason that files share.
            error.add_note(f"in {source.name if isinstance(source, AudioStream) else source}")
        raise


def joined(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Blocks `[n]` of one type (float32 where there are none) behind each other; beside the result one at a time is
    held."""
    held, dtype = bytearray(), np.dtype(np.float32)
    for block in blocks:
        held += block.data
        dtype = block.dtype
    return np.frombuffer(held, dtype)


def read_blocks(
    source: AudioInput | DecodedAudio,
    sample_rate_hz: int,
    start_s: float = 0.0,
    end_s: float | None = None,
    channel: int | None = None,
) -> Iterator[np.ndarray]:
    """What `read_audio` gives, in blocks of at most a million samples of the file, so that hours fit in memory."""
    check_times(start_s, end_s)
    empty = True
    with _decoded(source, start_s, end_s, sample_rate_hz, channel) as blocks:
        for block in _resampled(_checked(blocks, start_s, end_s, sample_rate_hz), sample_rate_hz, start_s, end_s):
            empty = False
            yield block
    if empty:
        raise AudioError("empty: no samples")


@contextmanager
def _decoded(
    source: AudioInput | DecodedAudio, start_s: float, end_s: float | None, to_hz: int, channel: int | None
) -> Iterator[Blocks]:
    """The segment, with its surroundings where it is to be resampled."""
    if isinstance(source, DecodedAudio):
        yield cut(source.blocks(), start_s, end_s, to_hz)
        return
    with _readable(source) as (file, head):
        if _is_for_ffmpeg(file, head):
            yield cut(ffmpeg_blocks(file, channel), start_s, end_s, to_hz)
        else:
            yield sndfile_blocks(file, start_s, end_s, to_hz, channel)


def decode(source: AudioInput, channel: int | None = None) -> Blocks:
    """(rate, mono float32 samples) of the whole, block by block, as it is; AudioError where it cannot be decoded."""
    with _decoded(source, 0.0, None, 0, channel) as blocks:
        yield from blocks


def can_seek(source: AudioInput) -> bool:
    """Whether a segment can be read without decoding all that is before it. AudioError as `probe`."""
    with _readable(source) as (file, head):
        return not _is_for_ffmpeg(file, head) and can_seek_sndfile(file)


def _is_for_ffmpeg(source: AudioInput, head: bytes) -> bool:
    return suffix_of(source) in FFMPEG_SUFFIXES or head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3"  # MP4, Matroska


@contextmanager
def _readable(source: AudioInput) -> Iterator[tuple[AudioInput, bytes]]:
    """The source and its first bytes; faults of reading, before and while decoding, as UnreadableError."""
    if isinstance(source, AudioStream):
        with watched(source) as stream:
            with stream.open() as file:
                head = file.read(HEADER_BYTES)
            yield stream, _not_empty(head)
    else:
        with _readable_file(source) as head:
            yield source, head


def _not_empty(head: bytes) -> bytes:
    if not head:
        raise AudioError("empty: 0 bytes")
    return head


@contextmanager
def _readable_file(path: Path | str) -> Iterator[bytes]:
    try:
        head = _head_of_file(path)
        try:
            yield head
        except AudioError as error:
            # To a decoder, a disk that fails looks like a file that is broken.
            if str(error).startswith(("truncated", "corrupt")):
                _read_through(path)
            raise
    except (FileNotFoundError, NotADirectoryError):
        raise UnreadableError("missing file") from None
    except PermissionError:
        raise UnreadableError("no permission to read") from None
    except OSError as error:
        raise UnreadableError(f"unreadable: {error.strerror or error}") from None


def _head_of_file(path: Path | str) -> bytes:
    try:
        found = os.stat(path)
    except ValueError as error:  # a zero byte in a manifest's path
        raise AudioError(f"no file name: {error}") from None
    if stat.S_ISDIR(found.st_mode):
        raise UnreadableError(_why_no_file(path))
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableError("a device or pipe, not a file")
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _not_empty(os.read(handle, HEADER_BYTES))
    finally:
        os.close(handle)


def _why_no_file(folder: Path | str) -> str:
    try:
        os.scandir(folder).close()
    except PermissionError:
        return "no permission to read: a folder"
    except OSError as error:
        return f"unreadable: a folder ({error.strerror or error})"
    return "a folder, not a file"


def _read_through(path: Path | str) -> None:
    with open(path, "rb") as raw:
        while raw.read(1 << 20):
            pass


def _checked(blocks: Blocks, start_s: float, end_s: float | None, to_hz: int) -> Blocks:
    """The same blocks; AudioError for NaN or infinity, for a rate that cannot be, and at the end where all samples of
    the segment were 0."""
    any_sound, position = False, None
    for rate_hz, block in blocks:
        _check_rate(rate_hz)
        if not np.isfinite(block).all():
            raise AudioError("NaN or infinite samples")
        if position is None:
            from_s = start_s if rate_hz == to_hz else with_surroundings(start_s, end_s)[0]
            position = round(from_s * rate_hz)
        any_sound = any_sound or bool(_inner(block, position, start_s, end_s, rate_hz).any())
        position += len(block)
        yield rate_hz, block
    if position is not None and not any_sound:
        raise SilentError("silent: all samples are 0")


def _check_rate(rate_hz: int) -> None:
    """A header that lies here would make a second last for hours, and its samples fill the memory."""
    if not _RATES_HZ[0] <= rate_hz <= _RATES_HZ[1]:
        raise AudioError(f"not audio: a sample rate of {rate_hz:,} Hz")


def _inner(block: np.ndarray, position: int, start_s: float, end_s: float | None, rate_hz: int) -> np.ndarray:
    """What lies in the segment of a block that begins at sample `position` of the file."""
    end = None if end_s is None else max(0, round(end_s * rate_hz) - position)
    return block[max(0, round(start_s * rate_hz) - position) : end]


def _resampled(blocks: Blocks, to_hz: int, start_s: float, end_s: float | None) -> Iterator[np.ndarray]:
    """Bit for bit what soxr makes of the whole at once; of a segment with its surroundings, the segment."""
    import soxr

    stream: soxr.ResampleStream | None = None
    position = round(with_surroundings(start_s, end_s)[0] * to_hz)

    def made(stream: soxr.ResampleStream, block: np.ndarray, last: bool = False) -> Iterator[np.ndarray]:
        nonlocal position
        out = stream.resample_chunk(np.ascontiguousarray(block), last=last)
        if len(part := _inner(out, position, start_s, end_s, to_hz)):
            yield part
        position += len(out)

    for rate_hz, block in blocks:
        if rate_hz == to_hz:
            yield np.ascontiguousarray(block)
            continue
        stream = stream or soxr.ResampleStream(rate_hz, to_hz, 1, dtype="float32", quality="HQ")
        yield from made(stream, block)
    if stream is not None:
        yield from made(stream, np.zeros(0, np.float32), last=True)


def write_wav(path: Path | str, clip: AudioClip) -> None:
    """Write a clip as 16-bit PCM, whole or not at all; samples beyond -1..1 are clipped."""
    import soundfile

    if not np.isfinite(clip.samples).all():
        raise AudioError(f"{clip.id}: NaN or infinite samples cannot be written")
    pcm = np.clip(np.rint(np.asarray(clip.samples, np.float64) * 32768), -32768, 32767).astype(np.int16)
    made = io.BytesIO()  # of a full disk libsndfile says no more than `System error`
    soundfile.write(made, pcm, clip.sample_rate_hz, subtype="PCM_16", format="WAV")
    with atomic_file(path) as temporary:
        temporary.write_bytes(made.getbuffer())
