"""Codec2: its fields against libcodec2's own bytes, and decoding that repeats itself."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from slm.errors import UsageError
from slm.tokenizers import codec2, load_tokenizer
from slm.tokenizers.codec2 import MODES, Mode
from slm.tokenizers.laws import streaming_law, tokenizer_law
from slm.types import AudioClip
from tests.tokenizers.speech import real_clips

pycodec2 = pytest.importorskip("pycodec2", reason="pycodec2 is not installed (extra `codec2`)")
NAMES = sorted(MODES)


def slow_unpack(mode: Mode, frame: bytes) -> dict[str, int]:
    """Bit by bit from the layout: each field by name, voicing bits joined, Gray code undone by its definition."""
    bits = "".join(f"{byte:08b}" for byte in frame)
    fields, voiced, start = {}, "", 0
    for name, size in mode.fields:
        part, start = bits[start : start + size], start + size
        if name == "voiced":
            voiced += part
        elif name != "spare":
            value = int(part, 2)
            plain = [n for n in range(1 << size) if (n ^ (n >> 1) if mode.gray else n) == value]
            fields[name] = plain[0]
    return ({"voiced": int(voiced, 2)} if voiced else {}) | fields


def harmonic(f0_hz: float, level: float, duration_s: float = 1.0) -> AudioClip:
    t = np.arange(int(8000 * duration_s)) / 8000
    partials = [np.sin(2 * np.pi * f0_hz * h * t) / h for h in range(1, int(3600 / f0_hz))]
    samples = level * np.sum(partials, axis=0)
    return AudioClip("harmonic", samples.astype(np.float32), 8000)


@pytest.mark.parametrize("name", NAMES)
def test_fields_equal_a_slow_reading_and_pack_to_the_same_bytes(name: str) -> None:
    tokenizer = load_tokenizer(name)
    for clip in real_clips(8000):
        packed = tokenizer.encode_bytes(clip.samples)
        codes = tokenizer.encode([clip])[0].codes
        size = tokenizer.layout.frame_bytes
        for t in range(0, len(codes), 7):
            slow = slow_unpack(tokenizer.layout, packed[t * size : (t + 1) * size])
            assert codes[t].tolist() == [slow[book] for book, _ in tokenizer.layout.codebooks]
        assert tokenizer.layout.pack(codes) == packed


@pytest.mark.parametrize("name", NAMES)
def test_layouts_fill_the_frames_of_libcodec2(name: str) -> None:
    codec, mode = pycodec2.Codec2(MODES[name].bitrate), MODES[name]
    assert codec.bits_per_frame() == sum(bits for _, bits in mode.fields)
    assert codec.bytes_per_frame() == mode.frame_bytes
    assert codec.samples_per_frame() == mode.hop_samples


@pytest.mark.parametrize("name", NAMES)
def test_packing_any_codes_is_undone_by_unpacking(name: str) -> None:
    mode = MODES[name]
    codes = np.random.default_rng(0).integers(0, mode.codebook_sizes, (200, len(mode.codebook_sizes)))
    assert np.array_equal(mode.unpack(mode.pack(codes)), codes)


def test_codes_of_700c_are_four_codebooks_at_25_hz() -> None:
    spec = load_tokenizer("codec2-700c").spec
    assert spec.codebook_sizes == (512, 512, 16, 64)
    assert (spec.frame_rate_hz, spec.bitrate_bps) == (25, 700)


def test_gray_decoding_equals_the_plain_numbers_of_libcodec2() -> None:
    """Mode 1300 can be told to write plain binary numbers: they are the codes."""
    mode = MODES["codec2-1300"]
    plain = Mode(mode.bitrate, mode.hop_samples, mode.fields, gray=False)
    clip = real_clips(8000)[0]
    codec = pycodec2.Codec2(1300)
    codec.set_natural_or_gray(0)
    pcm = np.rint(clip.samples * 32768).clip(-32768, 32767).astype(np.int16)
    frames = b"".join(codec.encode(pcm[i : i + 320]) for i in range(0, len(pcm) // 320 * 320, 320))
    codes = load_tokenizer("codec2-1300").encode([clip])[0].codes
    assert np.array_equal(plain.unpack(frames), codes)


@pytest.mark.parametrize("name", ["codec2-700c", "codec2-1300", "codec2-1600", "codec2-3200"])
def test_the_pitch_and_energy_codebooks_follow_pitch_and_level(name: str) -> None:
    tokenizer = load_tokenizer(name)
    books = [book.rstrip("1") for book, _ in tokenizer.layout.codebooks]

    def settled(clip: AudioClip, book: str) -> float:
        return float(np.median(tokenizer.encode([clip])[0].codes[10:, books.index(book)]))

    pitches = [settled(harmonic(f0, 0.2), "pitch") for f0 in (80, 110, 150, 200, 280)]
    assert pitches == sorted(set(pitches))
    energies = [settled(harmonic(120, level), "energy") for level in (0.01, 0.04, 0.16)]
    assert energies == sorted(set(energies))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_codes_always_decode_to_the_same_samples(name: str) -> None:
    tokenizer = load_tokenizer(name)
    codes = tokenizer.encode([real_clips(8000)[0]])[0]
    first, second = tokenizer.decode(codes).samples, tokenizer.decode(codes).samples
    assert np.array_equal(first, second)
    assert np.abs(first).max() > 0.05


def test_decoded_speech_has_the_loudness_contour_of_the_original() -> None:
    clip = real_clips(8000)[0]
    tokenizer = load_tokenizer("codec2-3200")
    decoded = tokenizer.decode(tokenizer.encode([clip])[0])

    def contour_db(samples: np.ndarray) -> np.ndarray:
        blocks = samples[: len(samples) // 800 * 800].reshape(-1, 800)
        return 10 * np.log10(np.square(blocks).mean(axis=1) + 1e-6)

    assert np.corrcoef(contour_db(clip.samples), contour_db(decoded.samples))[0, 1] > 0.9


@pytest.mark.parametrize(
    "name", ["codec2-700c", "codec2-2400", pytest.param("codec2-1200", marks=pytest.mark.thorough)]
)
def test_codec2_keeps_the_law(name: str) -> None:
    tokenizer_law(load_tokenizer(name), real_clips(8000, 3))


@pytest.mark.parametrize("frames", [7, 8])
def test_a_long_clip_in_parts_is_the_clip_at_once(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder remembers: its state goes over the seams, and what is no whole frame is dropped at the end alone."""
    tokenizer = load_tokenizer("codec2-1200")
    signal = real_clips(8000, 1)[0].samples[: frames * tokenizer.spec.hop_samples + 3]
    whole = tokenizer.encode_bytes(signal)
    monkeypatch.setattr(codec2, "_PART_FRAMES", 2)
    assert tokenizer.encode_bytes(signal) == whole
    assert len(set(zip(*[iter(whole)] * (len(whole) // frames), strict=True))) == frames


def test_full_scale_does_not_wrap_around() -> None:
    loud = AudioClip("loud", np.full(8000, 1.0, np.float32), 8000)
    louder = AudioClip("louder", np.full(8000, 3.0, np.float32), 8000)
    a, b = load_tokenizer("codec2-3200").encode([loud, louder])
    assert np.array_equal(a.codes, b.codes)


def test_without_pycodec2_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycodec2", None)
    with pytest.raises(UsageError, match="pip install pycodec2"):
        load_tokenizer("codec2-700c")


@pytest.mark.parametrize("name", ["codec2-700c", "codec2-2400"])
def test_a_stream_of_codes_decodes_to_the_samples_of_the_whole(name: str) -> None:
    tokenizer = load_tokenizer(name)
    (codes,) = tokenizer.encode(real_clips(8000, 1))
    whole = tokenizer.decode(codes).samples
    stream, made, start = tokenizer.stream_decoder(), [], 0
    for size in (0, 1, 3, len(codes.codes)):
        made.append(stream.feed(codes.codes[start : start + size]))
        assert len(made[-1]) == len(codes.codes[start : start + size]) * tokenizer.spec.hop_samples
        start += size
    made.append(stream.finish())
    joined = np.concatenate(made)
    assert np.abs(joined).max() > 0.01
    assert np.array_equal(joined, whole[: len(joined)])
    with pytest.raises(ValueError, match="is finished"):
        stream.feed(codes.codes[:1])
    with pytest.raises(ValueError, match="outside its codebook"):
        tokenizer.stream_decoder().feed(codes.codes[:1].astype(np.int64) + 1000)


def test_a_stream_of_audio_gives_the_codes_of_the_whole() -> None:
    tokenizer, (clip,) = load_tokenizer("codec2-700c"), real_clips(8000, 1)
    stream = tokenizer.stream_encoder()
    made = [stream.feed(chunk) for chunk in np.split(clip.samples, [0, 1, 320, 700])] + [stream.finish()]
    assert np.array_equal(np.concatenate(made), tokenizer.encode([clip])[0].codes)
    with pytest.raises(ValueError, match="is finished"):
        stream.feed(clip.samples)


@pytest.mark.thorough
def test_it_keeps_the_law_of_streams() -> None:
    streaming_law(load_tokenizer("codec2-700c"), real_clips(8000, 1), wait_frames=0)
