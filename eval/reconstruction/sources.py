"""What comes back of recordings: from a tokenizer, with what that costs, or from files."""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from eval.benchmarks.base import LeftOut
from eval.reconstruction.material import Piece
from eval.silence import read_made
from slm.audio import probe, read_audio
from slm.errors import AudioError
from slm.types import AudioClip, Codes

if TYPE_CHECKING:
    from slm.tokenizers.base import Tokenizer


@dataclass(frozen=True, eq=False)
class Returned:
    """Float32 samples `[M]` that came back of a piece, at the rate of whatever made them."""

    piece: Piece
    samples: np.ndarray
    sample_rate_hz: int
    trace: Mapping[str, Any] = field(default_factory=dict)
    """What facts need of it, JSON-able: see `Source.recall`."""


class Source(Protocol):
    """Of one setting: a tokenizer with so many codebooks, or one system's recordings."""

    @property
    def identity(self) -> Sequence[str]:
        """Everything that what it makes depends on, beside the recordings."""
        ...

    def make(self, pieces: Sequence[Piece]) -> tuple[list[Returned], list[LeftOut]]: ...

    def recall(self, trace: Mapping[str, Any]) -> None:
        """Count a piece that an earlier run made, by its trace."""
        ...

    def facts(self) -> dict[str, Any]:
        """What is known since it was last asked, in numbers."""
        ...


@dataclass
class RoundTrip:
    """Encode and decode. Clips are encoded together as the tokenizer likes it, and decoded one by one."""

    tokenizer: Tokenizer
    counts: list[np.ndarray] = field(default_factory=list)
    frames: int = 0
    audio_s: float = 0.0
    encode_s: float = 0.0
    decode_s: float = 0.0
    warm: bool = False

    def __post_init__(self) -> None:
        self._reset()

    @property
    def identity(self) -> list[str]:
        spec = self.tokenizer.spec
        return [spec.fingerprint, spec.decoder_fingerprint, str(spec.codebook_sizes)]

    def _reset(self) -> None:
        self.counts = [np.zeros(size, np.int64) for size in self.tokenizer.spec.codebook_sizes]
        self.frames, self.audio_s, self.encode_s, self.decode_s = 0, 0.0, 0.0, 0.0

    def make(self, pieces: Sequence[Piece]) -> tuple[list[Returned], list[LeftOut]]:
        clips, left_out, read = list[AudioClip](), list[LeftOut](), list[Piece]()
        rate_hz = self.tokenizer.spec.sample_rate_hz
        for piece in pieces:
            try:
                samples = read_audio(piece.path, rate_hz, piece.start_s, piece.end_s)
            except AudioError as error:
                left_out.append(LeftOut(piece.id, str(error)))
                continue
            clips.append(AudioClip(piece.id, samples, rate_hz))
            read.append(piece)
        if clips and not self.warm:  # what a first call costs beside is nobody's speed
            self.tokenizer.decode(self.tokenizer.encode(clips[:1])[0])
            self.warm = True
        started = time.perf_counter()
        codes = self.tokenizer.encode(clips)
        encode_s = (time.perf_counter() - started) / max(1e-9, sum(one.duration_s for one in codes))
        made = []
        for piece, one in zip(read, codes, strict=True):
            if len(one.codes):
                made.append(self._decode(piece, one, encode_s * one.duration_s))
            else:
                left_out.append(LeftOut(piece.id, "shorter than one frame"))
        return made, left_out

    def _decode(self, piece: Piece, codes: Codes, encode_s: float) -> Returned:
        """The samples that stand for frames, as many as the decoder makes: a tail that was dropped is no silence, it is
        missing."""
        started = time.perf_counter()
        samples = self.tokenizer.decode_unfilled(codes)
        decode_s = time.perf_counter() - started
        packed = base64.b64encode(zlib.compress(codes.codes.astype("<u4").T.tobytes())).decode()
        trace = {"codes": packed, "audio_s": codes.duration_s, "encode_s": encode_s, "decode_s": decode_s}
        self.recall(trace)
        used = samples[: len(codes.codes) * codes.spec.hop_samples]
        return Returned(piece, used, codes.spec.sample_rate_hz, trace)

    def recall(self, trace: Mapping[str, Any]) -> None:
        codes = np.frombuffer(zlib.decompress(base64.b64decode(trace["codes"])), "<u4").reshape(len(self.counts), -1)
        for counts, column in zip(self.counts, codes, strict=True):
            counts += np.bincount(column, minlength=len(counts))
        self.frames += codes.shape[1]
        self.audio_s += trace["audio_s"]
        self.encode_s += trace["encode_s"]
        self.decode_s += trace["decode_s"]

    def facts(self) -> dict[str, Any]:
        spec = self.tokenizer.spec
        entropies = [entropy_bits(c) for c in self.counts]
        made = {
            "bitrate_bps": spec.bitrate_bps,
            "entropy_bitrate_bps": spec.frame_rate_hz * sum(entropies),
            "frame_rate_hz": spec.frame_rate_hz,
            "tokens_per_s": spec.frame_rate_hz * spec.num_codebooks,
            "codebook_use": float(np.mean([(c > 0).mean() for c in self.counts])),
            "encode_rtf": self.encode_s / self.audio_s if self.audio_s else float("nan"),
            "decode_rtf": self.decode_s / self.audio_s if self.audio_s else float("nan"),
            "codes": {
                "frames": self.frames,
                "sizes": list(spec.codebook_sizes),
                "used": [int((c > 0).sum()) for c in self.counts],
                "entropy_bits": entropies,
                "perplexity": [2.0**h for h in entropies],
            },
        }
        self._reset()
        return made


class Recorded:
    """Recordings that a system made, each beside its ground truth."""

    identity = ("recordings",)

    def make(self, pieces: Sequence[Piece]) -> tuple[list[Returned], list[LeftOut]]:
        made, left_out = list[Returned](), list[LeftOut]()
        for piece in pieces:
            assert piece.made is not None
            try:
                rate_hz = probe(piece.made).sample_rate_hz
                samples = read_made(piece.made, rate_hz, piece.start_s, piece.end_s)
            except AudioError as error:
                left_out.append(LeftOut(piece.id, str(error)))
                continue
            made.append(Returned(piece, samples, rate_hz))
        return made, left_out

    def recall(self, trace: Mapping[str, Any]) -> None:
        pass

    def facts(self) -> dict[str, Any]:
        return {}


def entropy_bits(counts: np.ndarray) -> float:
    """Of the distribution that the counts show; below the true one where they are few."""
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log2(shares)).sum()) + 0.0
