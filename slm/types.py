"""The records that travel between the rooms of `slm`. This module imports nothing of ours.

Shapes: B batch, T frames, K codebooks, S steps, Q streams (1 for flat, K for delay), L row length.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np


@dataclass(frozen=True)
class AudioClip:
    """Mono audio at one sample rate.

    `samples` is float32 `[N]`, nominally within -1..1; `metadata` is whatever came with it (text, speaker, ...).
    """

    id: str
    samples: np.ndarray
    sample_rate_hz: int
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate_hz


@dataclass(frozen=True)
class TokenizerSpec:
    """The physics of a tokenizer: all that may be assumed about codes without the tokenizer at hand.

    `settings` reloads it (`load_tokenizer(spec)`); `fingerprint` identifies weights and settings together: all that
    decides the codes. `decoder_fingerprint` identifies a decoder that has no part in them, such as a vocoder: with
    another, or none, corpora and models of these codes stay what they are.
    `semantic_codebooks` lists the codebooks distilled from or clustered on a self-supervised model.
    `taxonomy` are its facts in the terms of arXiv 2506.10274, for people and reports only.
    """

    name: str
    fingerprint: str
    sample_rate_hz: int
    hop_samples: int
    codebook_sizes: tuple[int, ...]
    frame_offset_samples: int = 0
    frame_multiple: int = 1
    semantic_codebooks: tuple[int, ...] = ()
    has_decoder: bool = True
    decoder_fingerprint: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    taxonomy: Mapping[str, str] = field(default_factory=dict)

    DECLARED: ClassVar[str] = "declared:"
    """How the fingerprint begins of a tokenizer that a published model names, and whose weights nobody has hashed."""

    def __post_init__(self) -> None:
        """ValueError that names all that cannot be: much later it would be a wrong number, or a file half written."""
        books = self.codebook_sizes
        faults = [
            f"{name} is {value!r}, not a whole number from 1 on"
            for name in ("sample_rate_hz", "hop_samples", "frame_multiple")
            if type(value := getattr(self, name)) is not int or value < 1
        ]
        if type(self.frame_offset_samples) is not int:
            faults.append(f"frame_offset_samples is {self.frame_offset_samples!r}, not a whole number")
        if not isinstance(books, tuple) or not books or not all(type(size) is int and size > 1 for size in books):
            faults.append(f"codebook_sizes is {books!r}, not a tuple of whole numbers from 2 on")
        elif not set(self.semantic_codebooks) <= set(range(len(books))):
            faults.append(f"semantic_codebooks is {self.semantic_codebooks!r}, and there are {len(books)} codebooks")
        try:
            json.dumps([dict(self.settings), dict(self.taxonomy)])
        except (TypeError, ValueError) as error:
            faults.append(f"settings and taxonomy are kept as JSON: {error}")
        if faults:
            raise ValueError(f"the spec of tokenizer {self.name!r}: {'; '.join(faults)}")

    @property
    def is_declared(self) -> bool:
        return self.fingerprint.startswith(self.DECLARED)

    @property
    def num_codebooks(self) -> int:
        return len(self.codebook_sizes)

    @property
    def frame_rate_hz(self) -> float:
        return self.sample_rate_hz / self.hop_samples

    @property
    def bitrate_bps(self) -> float:
        """Nominal bits per second: frame rate x sum of log2(codebook size)."""
        return self.frame_rate_hz * float(np.log2(self.codebook_sizes).sum())

    @property
    def code_dtype(self) -> type[np.unsignedinteger]:
        """The storage type of codes: uint16, or uint32 where a codebook exceeds 65,536."""
        return np.uint16 if max(self.codebook_sizes) <= 65_536 else np.uint32

    def num_frames(self, num_samples: int) -> int:
        """Frames T for a clip of `num_samples`: floor((N + frame_offset_samples) / hop_samples), at least 0.

        Where frames come in groups of m = `frame_multiple`: m x floor((N + frame_offset_samples) / (m x hop_samples)).
        The offset is 0 for a codec that drops the tail, hop - 1 for one that pads it, hop for one that always pads,
        and hop - receptive field for a stack of unpadded convolutions (nested floors collapse into one). Nothing has
        no frames, whatever the offset.
        """
        group = self.frame_multiple
        whole = (num_samples + self.frame_offset_samples) // (self.hop_samples * group)
        return max(0, whole) * group if num_samples > 0 else 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TokenizerSpec:
        known = dict(values)
        known["codebook_sizes"] = tuple(known["codebook_sizes"])
        known["semantic_codebooks"] = tuple(known.get("semantic_codebooks", ()))
        return cls(**known)

    def describe(self) -> str:
        """One line for error messages and cards."""
        sizes = "x".join(str(s) for s in self.codebook_sizes)
        if self.num_codebooks > 4 and len(set(self.codebook_sizes)) == 1:
            sizes = f"{self.codebook_sizes[0]} x {self.num_codebooks}"
        return f"{self.name} [{self.fingerprint[:12]}] {sizes} at {self.frame_rate_hz:g} Hz"


@dataclass(frozen=True)
class Codes:
    """What a tokenizer made of one clip: unsigned integers `[T, K]`, frame-major."""

    id: str
    codes: np.ndarray
    num_samples: int
    spec: TokenizerSpec

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.spec.sample_rate_hz


@dataclass(frozen=True)
class StreamVocabulary:
    """The ids of one stream of a language model: codes first, then three special ids.

    `eos_id` ends a document and is predicted; `bos_id` starts it and `empty_id` fills a step at which the stream
    holds no code (a delay, the tail): both are only ever read. `empty_id` also pads rows.
    """

    num_codes: int

    @property
    def eos_id(self) -> int:
        return self.num_codes

    @property
    def bos_id(self) -> int:
        return self.num_codes + 1

    @property
    def empty_id(self) -> int:
        return self.num_codes + 2

    @property
    def size(self) -> int:
        return self.num_codes + 3


@dataclass(frozen=True)
class Steps:
    """A document as the model reads it: int64 `steps [S, Q]`; `valid [S, Q]` marks what is predicted (codes, EOS)."""

    steps: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Packed rows, numpy or torch: `ids [B, L, Q]`, `loss_mask [B, L, Q]` (ids that are predicted),
    `positions [B, L]` (restart at 0 in each document), `document_ids [B, L]` (-1 on padding)."""

    ids: Any
    loss_mask: Any
    positions: Any
    document_ids: Any


@dataclass(frozen=True)
class CodeLogProbs:
    """What a model thinks of one clip, in nats: of each code given all that its pattern lets it see, and of each end.

    `log_probs` is float64 `[T, K]`, aligned with the codes scored (T counts units where the model deduplicates; with
    unit BPE it is `[R, 1]`, one value for each unit); `eos_log_probs` is float64 `[Q]`, one end for each stream, or
    `[0]` from a model that was trained without ends.
    """

    id: str
    log_probs: np.ndarray
    eos_log_probs: np.ndarray
    duration_s: float


class Scorer(Protocol):
    """Anything that gives codes a likelihood: a spoken language model, a baseline."""

    def score_codes(self, codes: Sequence[Codes]) -> list[CodeLogProbs]: ...


@dataclass(frozen=True)
class MinimalPair:
    """Two items of which the first should be the likelier. Items are clip ids; `group` is averaged within first."""

    positive: str
    negative: str
    group: str
    labels: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """One number with everything needed to compare it: what was scored, how, in which unit, how sure."""

    item: str
    metric: str
    value: float
    unit: str
    convention: str
    count: int = 0
    interval: tuple[float, float] | None = None


def stable_hash(value: Any) -> str:
    """sha256 of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
