"""The contract of a tokenizer: clips in, `Codes [T, K]` out, and back where there is a decoder.

A family is one file beside this one. It registers a class, states its physics in a `TokenizerSpec`, and implements
`_encode` (and `_decode`). Everything that all of them share (checks, ranges, lengths) is here.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import numpy as np

from slm.errors import UsageError
from slm.registry import Registry
from slm.types import AudioClip, Codes, TokenizerSpec, stable_hash

_LOUDEST = 2.0**32
"""No sample of any audio is as large, raw 32-bit integers included; in fp32 the squares of much larger ones are
infinite, and codes made of nothing."""

EXACT = "exact"
"""The mode that every tokenizer has: the codes of its authors' code, clip by clip."""


class StreamEncoder(Protocol):
    """One clip as it comes: `feed` its samples in chunks of any size, then `finish`. Each gives the codes `[t, K]`, of
    the spec's `code_dtype`, that are then known, possibly none; together they are those of the clip. One encoder is for
    one clip: after `finish`, `feed` raises ValueError."""

    def feed(self, samples: np.ndarray) -> np.ndarray: ...

    def finish(self) -> np.ndarray: ...


class StreamDecoder(Protocol):
    """The way back: `feed` codes `[t, K]`, then `finish`; each gives float32 samples, together a hop for each frame
    (`decode` cuts them to the length of the clip). One decoder is for one clip, too."""

    def feed(self, codes: np.ndarray) -> np.ndarray: ...

    def finish(self) -> np.ndarray: ...


class Tokenizer(ABC):
    """An audio tokenizer. Batched = single is a law: `encode(clips)` equals encoding each clip alone.

    A subclass sets `spec` in its constructor, after which it never changes (but for `use_mode`, while loading).
    """

    spec: TokenizerSpec
    mode: str = EXACT
    about: ClassVar[Mapping[str, str]] = {}
    """Registered name -> its line in `python -m slm.tokenizers`: codebooks, rates, what it needs. Loads nothing."""
    facts: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Registered name -> what the list shows and filters by, of a tokenizer that the database has no record of (one of
    another package): fields of `TokenizerRecord`, `codebooks` written as there (`1024 x 8`)."""

    longest_clip_s: float | None = None
    """What is coded in one piece, in memory that grows with the square of its length, must not be longer."""

    @classmethod
    def known_modes(cls) -> Mapping[str, str]:
        """The modes of the family -> what is known of their codes, without loading anything."""
        return {EXACT: "the reference's codes, clip by clip"}

    @property
    def modes(self) -> Mapping[str, str]:
        """Those that this tokenizer has: a checkpoint may be of a form that has fewer than its family."""
        return self.known_modes()

    def use_mode(self, mode: str) -> None:
        """Encode in `mode` from now on; `load_tokenizer(..., mode=)` calls it before it hands the tokenizer out.

        Any mode but `exact` is part of the spec: of its settings, its fingerprint and its taxonomy. UsageError where
        the tokenizer has no such mode.
        """
        if not isinstance(mode, str) or mode not in self.modes:
            raise UsageError(
                f"tokenizer {self.spec.name!r} has no mode {mode!r}, only {', '.join(self.modes)}: leave out `mode`, "
                f"or give it one of these"
            )
        if mode == self.mode:
            return
        if self.mode != EXACT:
            raise UsageError(f"tokenizer {self.spec.name!r} is in mode {self.mode!r} already: load it anew")
        self.mode, spec = mode, self.spec
        self.spec = replace(
            spec,
            fingerprint=stable_hash({"exact": spec.fingerprint, "mode": mode}),
            settings={**spec.settings, "mode": mode},
            taxonomy={**spec.taxonomy, "mode": f"{mode}: {self.modes[mode]}"},
        )

    @property
    def runs_ahead(self) -> bool:
        """Whether `start` comes back before the codes are there."""
        return False

    @property
    def codebook_counts(self) -> Sequence[int]:
        """What `num_codebooks` may be while loading, up to the codebooks that this one has."""
        return range(1, self.spec.num_codebooks + 1)

    @abstractmethod
    def _encode(self, signals: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Float32 signals `[N_i]`, each of at least one frame -> integer codes `[T_i, K]`. The signals are the
        caller's: not to be written into."""

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes `[T, K]` -> float32 samples at the spec's rate. The codes are the caller's: not to be written into."""
        raise NotImplementedError(f"{type(self).__name__} has no `_decode`; without one its spec is has_decoder=False")

    def encode(self, clips: Sequence[AudioClip]) -> list[Codes]:
        """Tokenize clips, which are at `spec.sample_rate_hz` (`slm.audio` resamples); order is kept.

        A clip too short for one frame gives codes `[0, K]`. Raises ValueError for another sample rate, for no samples
        or some that are not finite or as large as no audio, for a clip of more than `longest_clip_s`, and for a
        tokenizer that breaks its own spec.
        """
        long_enough = self._checked(clips)
        return self._all_codes(clips, self._encode([clip.samples for clip in long_enough]) if long_enough else [])

    def start(self, clips: Sequence[AudioClip]) -> Callable[[], list[Codes]]:
        """Begin to tokenize clips, and return what waits for their codes: together as `encode`. Where `runs_ahead`, a
        device is at work in between, and the next clips can be made ready; elsewhere all is done at once."""
        made = self.encode(clips)
        return lambda: made

    def decode(self, codes: Codes) -> AudioClip:
        """Audio for codes `[T, K]`, cut to `codes.num_samples`. UsageError where the tokenizer has no decoder, or made
        none of these codes; ValueError for what is not of its spec: another shape, a code outside its codebook."""
        samples = self.decode_unfilled(codes)
        if len(samples) < codes.num_samples:
            samples = np.pad(samples, (0, codes.num_samples - len(samples)))
        return AudioClip(codes.id, samples, self.spec.sample_rate_hz)

    def decode_unfilled(self, codes: Codes) -> np.ndarray:
        """The float32 samples of `decode`, of which there are fewer than `codes.num_samples` where the decoder makes
        fewer. The same errors."""
        if not self.spec.has_decoder:
            raise UsageError(f"tokenizer {self.spec.name!r} has no decoder: its codes cannot be turned into audio")
        if not isinstance(codes, Codes):
            raise ValueError(f"decode takes the Codes of one clip, as `encode` gives them, not {_told(codes)}")
        check_same_spec(self.spec, codes.spec)
        check_codes(codes, self.spec)  # before a network looks them up: on a GPU, a wrong one ends the process
        if codes.num_samples < 0:
            raise ValueError(f"{codes.id}: {codes.num_samples} samples are no length")
        if not len(codes.codes):
            return np.zeros(0, np.float32)
        samples = self._decode(codes.codes)
        if not _is_array_of(samples, np.floating) or samples.ndim != 1:
            raise ValueError(f"{self.spec.name} decoded {codes.id} to {_told(samples)}, not to an array of floats [N]")
        frames, hop = len(codes.codes), self.spec.hop_samples
        if abs(len(samples) - frames * hop) >= hop:
            raise ValueError(
                f"{self.spec.name} decoded {codes.id} to {len(samples)} samples; its spec says {frames} frames of "
                f"{hop}, give or take less than a frame"
            )
        return samples[: codes.num_samples].astype(np.float32, copy=False)

    def stream_encoder(self) -> StreamEncoder:
        """Codes while the audio comes in: equal to `encode`, but for rounding. UsageError where that cannot be."""
        raise UsageError(
            f"tokenizer {self.spec.name!r} cannot be streamed: its codes depend on audio that comes later, or it keeps "
            f"no state between calls; encode whole clips, or use a causal one such as mimi or encodec at 24 kHz"
        )

    def stream_decoder(self) -> StreamDecoder:
        """Audio while the codes come in: equal to `decode`, but for rounding. UsageError where that cannot be."""
        raise UsageError(
            f"tokenizer {self.spec.name!r} cannot be streamed: its audio depends on codes that come later, or it keeps "
            f"no state between calls; decode whole clips, or use a causal one such as mimi or encodec at 24 kHz"
        )

    def predict_durations(self, units: np.ndarray) -> np.ndarray | None:
        """Deduplicated units `[R, 1]` -> int64 frames that each lasts `[R]`, at least 1; None where the tokenizer, or
        its vocoder, predicts none."""
        return None

    def _checked(self, clips: Sequence[AudioClip]) -> list[AudioClip]:
        """Those that are long enough for a frame, all being fit to be coded."""
        if isinstance(clips, AudioClip):
            raise ValueError("encode takes a list of clips: [clip] for one")
        for clip in clips:
            self.check_clip(clip)
        return [clip for clip in clips if self.spec.num_frames(len(clip.samples)) > 0]

    def _all_codes(self, clips: Sequence[AudioClip], made: Sequence[np.ndarray]) -> list[Codes]:
        """`made` is of the clips that are long enough for a frame."""
        coded = [self.spec.num_frames(len(clip.samples)) > 0 for clip in clips]
        if not isinstance(made, Sequence) or len(made) != sum(coded):
            told = f"{len(made)} results" if isinstance(made, Sequence) else _told(made)
            raise ValueError(
                f"{self.spec.name} gave {told} for {sum(coded)} signals: `_encode` returns a list, one each"
            )
        left, empty = iter(made), np.zeros((0, self.spec.num_codebooks), self.spec.code_dtype)
        return [self._codes(clip, next(left) if long else empty) for clip, long in zip(clips, coded, strict=True)]

    def check_clip(self, clip: AudioClip) -> None:
        """ValueError for a clip that is not fit to be coded; see `encode`."""
        rate_hz = self.spec.sample_rate_hz
        if not isinstance(clip, AudioClip):
            remedy = f"AudioClip(id, slm.audio.read_audio(path, {rate_hz}), {rate_hz})"
            raise ValueError(f"a clip must be an AudioClip, not {_told(clip)}: {remedy}")
        samples = clip.samples
        remedy = f": slm.audio.read_audio(path, {rate_hz}) gives what it takes"
        if clip.sample_rate_hz != rate_hz:
            raise ValueError(f"{clip.id}: {clip.sample_rate_hz} Hz, but {self.spec.name} takes {rate_hz}{remedy}")
        if not isinstance(samples, np.ndarray):
            raise ValueError(f"{clip.id}: samples must be a float32 array [N], not {type(samples).__name__}{remedy}")
        if samples.ndim != 1 or samples.dtype != np.float32:
            raise ValueError(f"{clip.id}: samples must be mono float32, not {samples.dtype} {samples.shape}{remedy}")
        if not len(clip.samples):
            raise ValueError(f"{clip.id}: empty: no samples")
        if self.longest_clip_s is not None and clip.duration_s > self.longest_clip_s:
            raise ValueError(
                f"{clip.id}: {clip.duration_s:.1f} s, but {self.spec.name} codes a clip in one piece, of "
                f"{self.longest_clip_s:.0f} s at most: cut it (tokenize_corpus.py --segmentation.kind windows or vad)"
            )
        if fault := audio_fault(clip.samples):
            raise ValueError(f"{clip.id}: {fault}")

    def _codes(self, clip: AudioClip, codes: np.ndarray) -> Codes:
        spec = self.spec
        expected = (spec.num_frames(len(clip.samples)), spec.num_codebooks)
        if not _is_array_of(codes, np.integer):
            raise ValueError(f"{spec.name} gave {_told(codes)} for {clip.id}, not an array of integers {expected}")
        if codes.shape != expected:
            raise ValueError(f"{spec.name} gave codes of shape {codes.shape} for {clip.id}; its spec says {expected}")
        if _leave_their_codebooks(codes, spec):
            raise ValueError(f"{spec.name} gave a code outside its codebook for {clip.id}")
        return Codes(clip.id, np.ascontiguousarray(codes, dtype=spec.code_dtype), len(clip.samples), spec)


TOKENIZERS: Registry[Tokenizer] = Registry(
    "tokenizer", package="slm.tokenizers", group="slm.tokenizers", base=Tokenizer
)


def check_no_option(settings: Mapping[str, Any]) -> None:
    """UsageError for settings of a tokenizer, of the command line, that have an option of their own."""
    for name, option in {"device": "device", "name": "tokenizer", "source": "tokenizer"}.items():
        if name in settings:
            raise UsageError(f"--tokenizer_settings.{name} is no setting of a tokenizer: give --{option}")


def check_codes(codes: Codes, spec: TokenizerSpec) -> None:
    """ValueError for codes that are none of the spec's: another shape or type, a code outside its codebook."""
    values = codes.codes
    if not _is_array_of(values, np.integer) or values.ndim != 2:
        told = _told(values)
        raise ValueError(f"{codes.id}: codes must be an array of integers [T, {spec.num_codebooks}], not {told}")
    if values.shape[1] != spec.num_codebooks:
        raise ValueError(f"{codes.id}: codes of {values.shape[1]} codebooks, but {spec.describe()}")
    if _leave_their_codebooks(values, spec):
        raise ValueError(f"{codes.id}: a code outside its codebook of {spec.describe()}")


def _is_array_of(values: Any, kind: Any) -> bool:
    return isinstance(values, np.ndarray) and np.issubdtype(values.dtype, kind)


def _told(values: Any) -> str:
    return f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__


def _leave_their_codebooks(codes: np.ndarray, spec: TokenizerSpec) -> bool:
    """Whether any of the codes `[T, K]` is none of its codebook."""
    return len(codes) > 0 and bool((codes < 0).any() or (codes.max(axis=0) >= spec.codebook_sizes).any())


def check_same_spec(expected: TokenizerSpec, given: TokenizerSpec) -> None:
    """Two specs that differ never meet silently."""
    if expected.fingerprint != given.fingerprint:
        raise UsageError(f"two different tokenizers: expected {expected.describe()}, given {given.describe()}")


def audio_fault(samples: np.ndarray) -> str | None:
    """What is wrong with the values of samples `[N]`, N > 0; None where they are audio."""
    # Both are NaN where any sample is; of hours, this needs no memory.
    peak = np.abs([samples.min(), samples.max()]).max()
    if not np.isfinite(peak):
        return "samples hold NaN or infinity"
    return f"a sample of {peak:.1e}: audio lies within -1..1" if peak > _LOUDEST else None


def check_chunk(samples: np.ndarray) -> None:
    """ValueError for what no stream takes: anything but mono float32 samples `[n]`, finite and no larger than any
    audio."""
    if not _is_array_of(samples, np.float32) or samples.ndim != 1:
        raise ValueError(f"samples must be mono float32, not {_told(samples)}")
    if len(samples) and (fault := audio_fault(samples)):
        raise ValueError(f"samples must be finite mono float32: {fault}")


def fingerprint(settings: Mapping[str, Any], weights: Iterable[tuple[str, Any]] = ()) -> str:
    """sha256 over the settings that change codes and every weight (name, dtype, shape, bytes; order-independent).

    `weights` are (name, torch tensor or numpy array), such as `model.state_dict().items()`.
    """
    digest = hashlib.sha256(stable_hash(dict(settings)).encode())
    for name, tensor in sorted(weights, key=lambda item: item[0]):
        array = _values(tensor)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _values(weight: Any) -> np.ndarray:
    """A tensor in float32, whatever it is stored in, unless that would round its values; an array as it is."""
    if not hasattr(weight, "detach"):
        return np.ascontiguousarray(weight)
    tensor = weight.detach().cpu()
    rounded = tensor.float()
    lossless = tensor.itemsize < 4 or bool((rounded.to(tensor.dtype) == tensor).all())
    return np.ascontiguousarray((rounded if lossless else tensor).numpy())


def weight_digests(weights: Iterable[Any]) -> list[str]:
    """sha256 of each torch tensor, sorted: values identify a model, since transformers renames modules between
    releases."""
    digests = []
    for tensor in weights:
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":  # which numpy does not have; in float32 it is the same values
            tensor = tensor.float()
        array = np.ascontiguousarray(tensor.numpy())
        digests.append(hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest())
    return sorted(digests)
