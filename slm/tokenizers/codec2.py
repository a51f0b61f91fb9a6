"""Codec2, David Rowe's open speech codec: real speech at 0.7 to 3.2 kbit/s, with no weights to download.

Each frame's bits are fields (pitch, energy, line spectral pairs, ...), most significant bit first and Gray coded
(700C: plain). A codebook is a field, so unpacking loses nothing: packing gives libcodec2's own bytes back. Two things
are folded: the voicing bits of a frame form one codebook (the first), and spare bits, always 0, are dropped.
Field layouts follow libcodec2 1.2, `codec2_encode_<mode>` in `src/codec2.c`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar

import numpy as np

from slm.errors import UsageError
from slm.tokenizers.base import (
    TOKENIZERS,
    StreamDecoder,
    StreamEncoder,
    Tokenizer,
    check_chunk,
    check_codes,
    fingerprint,
)
from slm.tokenizers.database import taxonomy_of
from slm.types import Codes, TokenizerSpec

_PART_FRAMES = 3000  # a minute or two: more is never held as PCM beside the clip

# Bits in the order of the frame; VOICED bits join the voicing codebook, SPARE bits carry nothing.
VOICED, SPARE = "voiced", "spare"
Field = tuple[str, int]
_LSP_SCALARS: list[Field] = [(f"lsp{i}", bits) for i, bits in enumerate((4, 4, 4, 4, 4, 4, 4, 3, 3, 2), start=1)]


def _voiced(count: int) -> list[Field]:
    return [(VOICED, 1)] * count


@dataclass(frozen=True)
class Mode:
    """One mode of libcodec2: `hop_samples` at 8 kHz, and the fields of a frame in the order of its bits."""

    bitrate: int
    hop_samples: int
    fields: tuple[Field, ...]
    gray: bool = True

    @property
    def frame_bytes(self) -> int:
        return (sum(bits for _, bits in self.fields) + 7) // 8

    @property
    def codebooks(self) -> list[tuple[str, np.ndarray]]:
        """(name, bit positions in the frame) of each codebook, most significant first; voicing leads."""
        positions: dict[str, list[int]] = {VOICED: []}
        start = 0
        for name, bits in self.fields:
            positions.setdefault(name, []).extend(range(start, start + bits))
            start += bits
        positions.pop(SPARE, None)
        return [(name, np.array(bits)) for name, bits in positions.items() if bits]

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return tuple(1 << len(bits) for _, bits in self.codebooks)

    def is_gray(self, name: str) -> bool:
        # The voicing bits are separate flags: their joint code is their plain binary number.
        return self.gray and name != VOICED

    def unpack(self, packed: bytes) -> np.ndarray:
        """Whole frames as libcodec2 writes them -> int64 codes `[T, K]`."""
        frames = np.frombuffer(packed, np.uint8).reshape(-1, self.frame_bytes)
        bits = np.unpackbits(frames, axis=1)
        codes = np.empty((len(frames), len(self.codebooks)), np.int64)
        for k, (name, positions) in enumerate(self.codebooks):
            column = bits[:, positions]
            if self.is_gray(name):
                column = np.bitwise_xor.accumulate(column, axis=1)
            codes[:, k] = column @ (1 << np.arange(len(positions))[::-1])
        return codes

    def pack(self, codes: np.ndarray) -> bytes:
        """The inverse of `unpack`; spare and filling bits are 0, as libcodec2 writes them."""
        codes = np.asarray(codes, np.int64)
        bits = np.zeros((len(codes), 8 * self.frame_bytes), np.uint8)
        for k, (name, positions) in enumerate(self.codebooks):
            column = codes[:, k] ^ (codes[:, k] >> 1) if self.is_gray(name) else codes[:, k]
            bits[:, positions] = (column[:, None] >> np.arange(len(positions))[::-1]) & 1
        return np.packbits(bits, axis=1).tobytes()


_PITCH_ENERGY_TWICE = (*_voiced(2), ("pitch_energy1", 8), *_voiced(2), ("pitch_energy2", 8))
_PITCH_AND_ENERGY_TWICE = (
    *(*_voiced(2), ("pitch1", 7), ("energy1", 5)),
    *(*_voiced(2), ("pitch2", 7), ("energy2", 5)),
)
_LSP_VQ = (("lsp_vq1", 9), ("lsp_vq2", 9), ("lsp_vq3", 9))
_LSP_DELTAS = tuple((f"lsp_delta{i}", 5) for i in range(1, 11))

MODES: dict[str, Mode] = {
    "codec2-700c": Mode(700, 320, (("vq1", 9), ("vq2", 9), ("energy", 4), ("pitch", 6)), gray=False),
    "codec2-1200": Mode(1200, 320, (*_PITCH_ENERGY_TWICE, *_LSP_VQ, (SPARE, 1))),
    "codec2-1300": Mode(1300, 320, (*_voiced(4), ("pitch", 7), ("energy", 5), *_LSP_SCALARS)),
    "codec2-1400": Mode(1400, 320, (*_PITCH_ENERGY_TWICE, *_LSP_SCALARS)),
    "codec2-1600": Mode(1600, 320, (*_PITCH_AND_ENERGY_TWICE, *_LSP_SCALARS)),
    "codec2-2400": Mode(2400, 160, (*_voiced(2), ("pitch_energy", 8), *_LSP_SCALARS, (SPARE, 2))),
    "codec2-3200": Mode(3200, 160, (*_voiced(2), ("pitch", 7), ("energy", 5), *_LSP_DELTAS)),
}

# libcodec2 draws the phases of unvoiced frames from a generator that lives as long as the process, so a decoder in
# this process would give other samples each time. A fresh process starts it anew: same codes, same waveform.
_DECODE_IN_FRESH_PROCESS = """
import sys, pycodec2
codec = pycodec2.Codec2(int(sys.argv[1]))
while frame := sys.stdin.buffer.read(codec.bytes_per_frame()):
    sys.stdout.buffer.write(codec.decode(frame).tobytes())
    sys.stdout.buffer.flush()
"""
_FRAMES_IN_FLIGHT = 50  # whose samples fit in a pipe that nobody reads yet


def _about(mode: Mode) -> str:
    sizes = "x".join(map(str, mode.codebook_sizes))
    return f"{sizes} at {8000 / mode.hop_samples:g} Hz from 8 kHz; decodes; needs pycodec2 (extra `codec2`)"


@TOKENIZERS.register(*MODES)
class Codec2Tokenizer(Tokenizer):
    """Codec2 at one of its bitrates: an acoustic tokenizer that needs no weights and can be played back.

    8 kHz in and out; the tail of a clip shorter than one frame is dropped. Every clip is coded from a fresh state.
    Decoding costs one short process (0.1 s) and always gives the same samples for the same codes. `device` is
    accepted and ignored: the codec is C code on the CPU. Raises UsageError when pycodec2 is not installed.
    """

    about: ClassVar[Mapping[str, str]] = {name: _about(mode) for name, mode in MODES.items()}

    def __init__(self, name: str = "codec2-700c", device: str = "cpu"):
        self._require_pycodec2(name)
        layout = self.layout = MODES[name]
        release = version("pycodec2")
        tables = [[codebook, positions.tolist()] for codebook, positions in layout.codebooks]
        self.spec = TokenizerSpec(
            name=name,
            fingerprint=fingerprint({"mode": self.layout.bitrate, "pycodec2": release, "codebooks": tables}),
            sample_rate_hz=8000,
            hop_samples=self.layout.hop_samples,
            codebook_sizes=self.layout.codebook_sizes,
            taxonomy={**taxonomy_of(name), "codebooks": " ".join(codebook for codebook, _ in layout.codebooks)},
        )

    @staticmethod
    def _require_pycodec2(name: str) -> None:
        try:
            import pycodec2  # noqa: F401
        except ImportError as error:
            raise UsageError(f"tokenizer {name!r} needs pycodec2 ({error}): pip install pycodec2") from None

    def encode_bytes(self, samples: np.ndarray) -> bytes:
        """Float32 samples `[N]` at 8 kHz -> the T whole frames as libcodec2 writes them."""
        import pycodec2

        codec, hop = pycodec2.Codec2(self.layout.bitrate), self.layout.hop_samples
        step, end = _PART_FRAMES * hop, len(samples) // hop * hop
        parts = (_pcm(samples[start : min(start + step, end)]) for start in range(0, end, step))
        return b"".join(codec.encode(frame) for part in parts for frame in part.reshape(-1, hop))

    def _encode(self, signals: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self.layout.unpack(self.encode_bytes(signal)) for signal in signals]

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        done = subprocess.run(_decoder(self.layout), input=self.layout.pack(codes), capture_output=True)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise RuntimeError(f"the codec2 decoder process failed ({done.returncode}): {reason[0]}")
        return _samples(done.stdout)

    def stream_encoder(self) -> StreamEncoder:
        return FrameByFrame(self.layout, self.spec.code_dtype)

    def stream_decoder(self) -> StreamDecoder:
        return DecoderProcess(self)


class FrameByFrame:
    """Codec2 as a stream: a frame is coded as soon as it is whole. What is left at the end is dropped, as always."""

    def __init__(self, layout: Mode, code_dtype: type[np.unsignedinteger]):
        import pycodec2

        self._layout, self._dtype = layout, code_dtype
        self._codec = pycodec2.Codec2(layout.bitrate)
        self._waiting: np.ndarray | None = np.zeros(0, np.int16)

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Mono float32 samples `[n]` at 8 kHz -> the next codes `[t, K]`."""
        check_chunk(samples)
        if self._waiting is None:
            raise ValueError("the stream is finished: open another one for the next clip")
        hop, pcm = self._layout.hop_samples, np.concatenate([self._waiting, _pcm(samples)])
        frames, self._waiting = np.split(pcm, [len(pcm) // hop * hop])
        packed = b"".join(self._codec.encode(frame) for frame in frames.reshape(-1, hop))
        return self._layout.unpack(packed).astype(self._dtype)

    def finish(self) -> np.ndarray:
        self._waiting = None
        return self._layout.unpack(b"").astype(self._dtype)


class DecoderProcess:
    """The way back as a stream: a process of its own, as `decode` starts, which lives until `finish`."""

    def __init__(self, tokenizer: Codec2Tokenizer):
        self._tokenizer = tokenizer
        self._process = subprocess.Popen(
            _decoder(tokenizer.layout), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def feed(self, codes: np.ndarray) -> np.ndarray:
        """Codes `[t, K]` -> their samples `[t x hop]`. ValueError for codes that are not of the codec."""
        layout, codes = self._tokenizer.layout, np.asarray(codes)
        check_codes(Codes("stream", codes, 0, self._tokenizer.spec), self._tokenizer.spec)
        there, back = self._process.stdin, self._process.stdout
        if there is None or back is None or there.closed:
            raise ValueError("the stream is finished: open another one for the next clip")
        made = bytearray()
        for start in range(0, len(codes), _FRAMES_IN_FLIGHT):
            there.write(layout.pack(part := codes[start : start + _FRAMES_IN_FLIGHT]))
            there.flush()
            wanted = len(part) * layout.hop_samples * 2
            if len(samples := back.read(wanted)) < wanted:
                raise RuntimeError(f"the codec2 decoder process ended ({self._process.wait()})")
            made += samples
        return _samples(made)

    def finish(self) -> np.ndarray:
        self.__del__()
        return np.zeros(0, np.float32)

    def __del__(self) -> None:
        if (process := getattr(self, "_process", None)) is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            process.wait()


def _decoder(layout: Mode) -> list[str]:
    return [sys.executable, "-c", _DECODE_IN_FRESH_PROCESS, str(layout.bitrate)]


def _samples(pcm: bytes | bytearray) -> np.ndarray:
    samples = np.frombuffer(pcm, np.int16).astype(np.float32)
    samples /= 32768.0
    return samples


def _pcm(samples: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
