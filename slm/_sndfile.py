"""Decoding by libsndfile (soundfile): most formats."""

from __future__ import annotations

import io
import mmap
import os
import re
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from slm._ffmpeg import ffmpeg_blocks
from slm._segment import AudioInfo, Blocks, check_length, cut, mix_down, with_surroundings
from slm._stream import AudioInput, AudioStream, open_input
from slm.errors import AudioError, UnreadableError

if TYPE_CHECKING:
    import soundfile

_BLOCK_FRAMES = 1 << 20
_OPUS_WARM_UP_FRAMES = 5 * 48_000  # libsndfile seeks as RFC 7845 says, by 80 ms, after which errors of 0.005 are left
_UNKNOWN_LENGTH = 2**63 - 1  # what libsndfile says of a FLAC that was written to a pipe
_SYSTEM_ERROR = 2  # SF_ERR_SYSTEM
_UNRECOGNISED = (1, 7)  # SF_ERR_UNRECOGNISED_FORMAT, and what is said of an MP3 without one whole frame
_MP3_HEAD_BYTES = 1 << 14
# Xing, Info and VBRI, which tell the length, lie in the first frame behind its header and, often, an empty side info.
_MP3_LENGTH_TAG = re.compile(rb"\xff[\xe2-\xff].{2,36}?(Xing|Info|VBRI)", re.S)


def probe_sndfile(source: AudioInput) -> AudioInfo:
    """From the header, or by decoding where it does not tell the length. AudioError as `slm.audio.probe`."""
    with _open(source) as file:
        num_frames, decoder = file.frames, _decoder_to_the_end(file, source)
        if decoder is not None:
            num_frames = sum(len(block) for _, block in decoder(source, None))
        return AudioInfo(num_frames, file.samplerate, file.channels)


def can_seek_sndfile(source: AudioInput) -> bool:
    """Whether a segment can be read without decoding what is before it."""
    with _open(source) as file:
        return file.seekable() and _decoder_to_the_end(file, source) is None


def sndfile_blocks(
    source: AudioInput, start_s: float, end_s: float | None, to_hz: int, channel: int | None = None
) -> Blocks:
    """The segment `start_s`..`end_s`, with its surroundings where it is to be resampled (`to_hz`); raises AudioError
    where it cannot be decoded whole."""
    with _open(source) as file:
        if decoder := _decoder_to_the_end(file, source):
            yield from cut(decoder(source, channel), start_s, end_s, to_hz)
        elif file.frames and not file.seekable():  # GSM, G.72x
            yield from cut(_segment_blocks(file, source, 0.0, None, 0, channel), start_s, end_s, to_hz)
        elif file.frames:
            yield from _segment_blocks(file, source, start_s, end_s, to_hz, channel)


@contextmanager
def _open(source: AudioInput) -> Iterator[soundfile.SoundFile]:
    import soundfile

    with _what_soundfile_opens(source) as opened:
        try:
            file = soundfile.SoundFile(opened)
        except soundfile.LibsndfileError as error:
            if error.code in _UNRECOGNISED:
                raise AudioError("not audio: format not recognised") from None
            raise _fault("corrupt or not audio: {}", error) from None
        with file:
            yield file


@contextmanager
def _what_soundfile_opens(source: AudioInput) -> Iterator[bytes | BinaryIO]:
    if isinstance(source, AudioStream):
        with source.open() as stream:
            yield stream
    else:
        yield os.fsencode(source)


def _fault(reason: str, error: soundfile.LibsndfileError) -> AudioError:
    said = error.error_string.strip().removeprefix("Error : ").rstrip(".") or f"libsndfile error {error.code}"
    return UnreadableError(f"unreadable: {said}") if error.code == _SYSTEM_ERROR else AudioError(reason.format(said))


def _segment_blocks(
    file: soundfile.SoundFile, source: AudioInput, start_s: float, end_s: float | None, to_hz: int, channel: int | None
) -> Blocks:
    import soundfile

    info = AudioInfo(file.frames, file.samplerate, file.channels)
    if end_s is None or end_s > info.duration_s:
        _check_not_cut(file, source)
    start, end = info.segment(start_s, end_s)
    if info.sample_rate_hz != to_hz:
        from_s, until_s = with_surroundings(start_s, end_s)
        start = round(from_s * info.sample_rate_hz)
        end = info.num_frames if until_s is None else min(round(until_s * info.sample_rate_hz), info.num_frames)
    got = -min(start, _OPUS_WARM_UP_FRAMES) if file.subtype == "OPUS" else 0
    try:
        if start:
            file.seek(start + got)
        while got < end - start:
            wanted = min(_BLOCK_FRAMES, end - start - got)
            block = file.read(wanted, dtype="float32", always_2d=True)
            if len(part := block[max(0, -got) :]):
                yield info.sample_rate_hz, mix_down(part, channel)
            got += len(block)
            if len(block) < wanted:  # the end, or a hole (a lost Ogg page)
                break
    except soundfile.LibsndfileError as error:
        raise _fault("truncated or corrupt: cannot be decoded to its end ({})", error) from None
    check_length(got, end - start, info.sample_rate_hz)


def _check_not_cut(file: soundfile.SoundFile, source: AudioInput) -> None:
    """libsndfile mends the length of a cut file in silence; of most formats it says so in its log."""
    log = file.extra_info
    sizes = re.findall(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", log, re.M)
    for said, there in sizes:
        if int(there) < int(said) and not _is_placeholder(int(said)):
            raise AudioError(f"truncated: {int(there):,} of {int(said):,} bytes")
    if "Seems to be a truncated file" in log:  # VOC
        raise AudioError("truncated: shorter than its header says")
    if file.format == "NIST":
        with open_input(source) as raw:
            said = re.search(rb"^sample_count -i (\d+)", raw.read(1024), re.M)
        check_length(file.frames, int(said[1]) if said else 0, file.samplerate)
    if file.format == "OGG":
        _check_ogg_pages(source)


def _is_placeholder(size: int) -> bool:
    """What programs that write to a pipe put where the size belongs."""
    return 0x7FFF0000 <= size <= 0x7FFFFFFF or size >= 0xFFFF0000


def _check_ogg_pages(source: AudioInput) -> None:
    """Every page must be whole and sound, since libsndfile goes on behind others; no stream begin behind another, where
    it would not be read; and the last page of each say that it is (RFC 3533, 6), since a file that was cut between two
    pages looks whole otherwise."""
    with _all_bytes(source) as pages:
        at, begun = 0, False
        ended: dict[bytes, bool] = {}  # by the serial number of a stream
        while (found := pages.find(b"OggS", at)) != -1:
            # 27 bytes of header, of which the last is the number of segments, then their sizes, then the segments.
            header = pages[found : found + 27]
            num_segments = header[26] if len(header) == 27 else 0
            sizes = pages[found + 27 : found + 27 + num_segments]
            end = found + 27 + num_segments + sum(sizes)
            if end > len(pages):
                raise AudioError("truncated: the last Ogg page is incomplete")
            if found > at or int.from_bytes(header[22:26], "little") != _ogg_checksum(pages[found:end]):
                raise AudioError(f"corrupt: the Ogg page at byte {at:,} is damaged")
            first_of_stream = bool(header[5] & 2)
            if first_of_stream and begun:  # RFC 3533: the first pages of streams that belong together come first
                raise AudioError("chained Ogg: several recordings in one file; split them")
            at, begun = end, begun or not first_of_stream
            ended[header[14:18]] = bool(header[5] & 4)
        if any(pages[at:]):
            raise AudioError(f"corrupt: the Ogg page at byte {at:,} is damaged")
        if not all(ended.values()):
            raise AudioError("truncated: its Ogg stream has no end")


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> int:
    """RFC 3533, 6: the polynomial of zlib's CRC-32 from the other end of each byte, begun with 0 and not inverted; its
    own place counts as 0."""
    whole = page[:22] + bytes(4) + page[26:]
    checksum = zlib.crc32(whole.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{checksum:032b}"[::-1], 2)


@contextmanager
def _all_bytes(source: AudioInput) -> Iterator[bytes | mmap.mmap]:
    with open_input(source) as raw:
        if isinstance(source, AudioStream):
            yield raw.read()
            return
        with mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield mapped


def _decoder_to_the_end(file: soundfile.SoundFile, source: AudioInput) -> Callable[..., Blocks] | None:
    """What reads a file to its true end where libsndfile would not, for want of a length that can be believed."""
    if file.frames == _UNKNOWN_LENGTH:
        return ffmpeg_blocks
    if file.format != "MP3":
        return None
    with open_input(source) as raw:
        first = _behind_id3(raw, 0)
        raw.seek(first)
        found = _MP3_LENGTH_TAG.search(head := raw.read(_MP3_HEAD_BYTES))
        if not found:  # then libsndfile guesses from the first bitrate
            return _mp3_blocks
        seam = first + found.start() + _mp3_bytes(found[1], head[found.end() :])
        raw.seek(_behind_id3(raw, seam))
        next_frame = raw.read(2)
    joined = next_frame[:1] == b"\xff" and next_frame[1:] >= b"\xe2"
    return partial(_joined_mp3_blocks, seam=seam) if joined else None


def _behind_id3(raw: BinaryIO, at: int) -> int:
    """Where an ID3v2 tag ends that may be there; its size has 7 bits a byte."""
    raw.seek(at)
    head = raw.read(10)
    return at + 10 + sum(byte << 7 * (3 - i) for i, byte in enumerate(head[6:])) if head[:3] == b"ID3" else at


def _mp3_bytes(tag: bytes, fields: bytes) -> int:
    """Bytes of the recording from its first frame on, as the tag tells; without, none are behind."""
    if tag == b"VBRI":  # version, delay, quality, then bytes
        return int.from_bytes(fields[6:10])
    flags = int.from_bytes(fields[:4])  # 1: frames come next; 2: then bytes
    at = 8 if flags & 1 else 4
    return int.from_bytes(fields[at : at + 4]) if flags & 2 else 1 << 40


def _mp3_blocks(source: AudioInput, channel: int | None) -> Blocks:
    """Decode from a pipe: there libsndfile cannot estimate and reads to the true end."""
    import soundfile

    outlet, sink = os.pipe()
    feeder = threading.Thread(target=_feed, args=(source, sink), daemon=True)
    feeder.start()
    got = 0
    try:
        with soundfile.SoundFile(outlet) as file:
            while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                got += len(block)
                yield file.samplerate, mix_down(block, channel)
    except soundfile.LibsndfileError as error:
        if got or error.code not in _UNRECOGNISED:
            # mpg123 gets over faults inside a file, not over half a frame at its end.
            raise AudioError("truncated or corrupt: the last MP3 frame is incomplete") from None
    finally:
        feeder.join()
    if not got:  # what stands before its first frame is too much for a pipe
        yield from ffmpeg_blocks(source, channel)


def _joined_mp3_blocks(source: AudioInput, channel: int | None, seam: int) -> Blocks:
    """Each part by its own header: to libsndfile the first is all."""
    with open_input(source) as raw:
        parts = raw.read(seam), raw.read()
    rate_hz = 0
    for part in parts:
        stream = AudioStream("part.mp3", partial(io.BytesIO, part))
        for part_hz, block in sndfile_blocks(stream, 0.0, None, 0, channel):
            if rate_hz not in (0, part_hz):
                raise AudioError(f"the sample rate changes inside the file: {rate_hz} to {part_hz} Hz")
            rate_hz = part_hz
            yield rate_hz, block


def _feed(source: AudioInput, sink: int) -> None:
    with suppress(OSError), open(sink, "wb") as pipe, open_input(source) as raw:
        shutil.copyfileobj(raw, pipe)
