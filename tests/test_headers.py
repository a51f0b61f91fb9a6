"""Headers read without a decoder say what libsndfile says, or nothing."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from slm._headers import HEADER_BYTES, info_of_header
from slm.audio import plain_info

PLAIN = [(format, subtype) for format in ("WAV", "FLAC") for subtype in ("PCM_16", "PCM_24")]
PLAIN += [("WAV", "PCM_U8"), ("WAV", "PCM_32"), ("FLAC", "PCM_S8")]


def header_of(path):
    return info_of_header(path.read_bytes()[:HEADER_BYTES], path.stat().st_size)


@pytest.mark.parametrize(("format", "subtype"), PLAIN)
@pytest.mark.parametrize(("rate_hz", "channels", "length"), [(8000, 1, 1), (44_100, 2, 1234), (192_000, 8, 77)])
def test_plain_headers_agree_with_libsndfile(tmp_path, format, subtype, rate_hz, channels, length):
    path = tmp_path / "a"
    soundfile.write(path, np.zeros((length, channels)), rate_hz, format=format, subtype=subtype)
    with soundfile.SoundFile(path) as file:
        expected = (file.frames, file.samplerate, file.channels)
    found = header_of(path)
    if (length * channels * {"PCM_U8": 1, "PCM_24": 3}.get(subtype, 2)) % 2 and format == "WAV":
        assert found is None  # an odd number of bytes is filled up
    else:
        assert (found.num_frames, found.sample_rate_hz, found.channels) == expected


def test_all_but_the_plainest_is_left_to_the_decoders(tmp_path):
    path = tmp_path / "a"
    soundfile.write(path, np.zeros(100), 8000, format="WAV", subtype="PCM_16")
    whole = path.read_bytes()
    assert info_of_header(whole[:HEADER_BYTES], len(whole)).num_frames == 100
    plain = [plain_info(name, whole[:HEADER_BYTES], len(whole)) for name in ("a.wav", "a.m4a")]
    assert [info is not None for info in plain] == [True, False]  # which is told by its name
    wrong = [
        (whole, len(whole) - 1),  # truncated
        (whole, len(whole) + 2),  # something behind it
        (whole[:40] + b"\xff\xff\xff\xff" + whole[44:], len(whole)),  # written to a pipe
        (whole[:20] + b"\x55" + whole[21:], len(whole)),  # another codec
        (whole[:22] + b"\x00" + whole[23:], len(whole)),  # no channels
        (whole[:24] + b"\x00\x00" + whole[26:], len(whole)),  # no rate
        (whole[:12] + b"LIST" + whole[16:], len(whole)),  # another chunk first
        (whole[:30], len(whole)),
        (b"RIFX" + whole[4:], len(whole)),
    ]
    assert [info_of_header(head[:HEADER_BYTES], num_bytes) for head, num_bytes in wrong] == [None] * len(wrong)
    soundfile.write(path, np.zeros(100), 8000, format="FLAC")
    flac = path.read_bytes()
    streamed = flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]  # of unknown length
    assert [info_of_header(head, 0) for head in (streamed, flac[:4] + b"\x04" + flac[5:], flac[:20])] == [None] * 3
