"""What every tokenizer keeps."""

from __future__ import annotations

import inspect
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from slm.errors import UsageError
from slm.tokenizers.base import Tokenizer
from slm.types import AudioClip, Codes, TokenizerSpec

FEWEST_CODES = 4


def hold(kept: object, broken: str) -> None:
    """An `assert` that `python -O` keeps."""
    if not kept:
        raise AssertionError(broken)


def hold_equal(codes: np.ndarray, others: np.ndarray, broken: str) -> None:
    hold(codes.shape == others.shape, f"{broken}: {codes.shape}, not {others.shape}")
    count = int((codes != others).sum())
    hold(not count, f"{broken}: {count} of {codes.size} differ")


@dataclass
class Trial:
    """A tokenizer and the clips it is tried on: a few distinct ones at its rate, of different lengths, each of ten
    frames or more. `device` is where it is loaded again."""

    tokenizer: Tokenizer
    clips: Sequence[AudioClip]
    device: str = "cpu"

    @cached_property
    def codes(self) -> list[Codes]:
        made = _encode_checked(self.tokenizer, self.clips)
        # A codec of untrained weights may give one code for everything, and then every law holds of itself.
        different = len(np.unique(np.concatenate([each.codes for each in made]), axis=0))
        hold(different >= FEWEST_CODES, f"the clips give too few codes: {different} different frames")
        return made

    @cached_property
    def edges(self) -> list[AudioClip]:
        """Starts of a clip: one sample, and 1, 2 and 5 frames with a sample less or more."""
        clip, hop = max(self.clips, key=lambda clip: len(clip.samples)), self.tokenizer.spec.hop_samples
        lengths = {1} | {frames * hop + extra for frames in (1, 2, 5) for extra in (-1, 0, 1)} - {0}
        return [AudioClip(f"edge-{n}", clip.samples[:n], clip.sample_rate_hz) for n in sorted(lengths)]

    @cached_property
    def edge_codes(self) -> list[Codes]:
        return _encode_checked(self.tokenizer, self.edges)

    @property
    def equal_lengths(self) -> list[AudioClip]:
        """The clips cut to one length: what a tokenizer may stack, whose rows must not touch each other."""
        shortest = min(len(clip.samples) for clip in self.clips)
        return [AudioClip(f"equal-{clip.id}", clip.samples[:shortest], clip.sample_rate_hz) for clip in self.clips]


def tokenizer_law(tokenizer: Tokenizer, clips: Sequence[AudioClip], device: str = "cpu") -> None:
    """All of `CONTRACT`: spec complete; codes in range; frames match seconds; batched = single; decoded length; bad
    input refused; `settings` load it again, and `num_codebooks` keeps the first ones.

    `clips` are a few distinct ones at the tokenizer's rate, of different lengths, each of ten frames or more.
    """
    trial = Trial(tokenizer, clips, device)
    for law in CONTRACT.values():
        law(trial)


def _spec_is_complete(trial: Trial) -> str:
    spec = trial.tokenizer.spec
    hold(TokenizerSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec, "its spec is another after JSON")
    proper = re.fullmatch("[0-9a-f]{64}", spec.fingerprint)
    hold(proper, "no fingerprint as `fingerprint(settings, weights)` gives")
    return "the same after JSON"


def _encode_checked(tokenizer: Tokenizer, clips: Sequence[AudioClip]) -> list[Codes]:
    """Encode, and hold every result to the spec: identity, shape, storage type, range."""
    spec, heard = tokenizer.spec, [clip.samples.copy() for clip in clips]
    made = tokenizer.encode(clips)
    for clip, samples, each in zip(clips, heard, made, strict=True):
        hold(np.array_equal(clip.samples, samples), f"{clip.id}: encoding wrote into its samples")
        hold(each.id == clip.id, f"{clip.id}: its codes are called {each.id}")
        hold(each.num_samples == len(clip.samples), f"{clip.id}: {each.num_samples} samples are not its length")
        hold(each.spec == spec, f"{clip.id}: its codes are of another spec")
        expected = (spec.num_frames(each.num_samples), spec.num_codebooks)
        hold(each.codes.shape == expected, f"{clip.id}: codes of shape {each.codes.shape}; the spec says {expected}")
        hold(each.codes.dtype == spec.code_dtype, f"{clip.id}: codes are stored as {each.codes.dtype}")
        hold((each.codes < np.array(spec.codebook_sizes)).all(), f"{clip.id}: a code outside its codebook")
    return made


def _frames_match_seconds(trial: Trial) -> str:
    codes = [*trial.codes, *trial.edge_codes]
    for each in codes:
        expected = each.duration_s * each.spec.frame_rate_hz
        near = abs(len(each.codes) - expected) < 1 + each.spec.frame_multiple
        hold(near, f"{each.id}: {len(each.codes)} frames where its seconds hold {expected:.1f}")
    frames = [len(each.codes) for each in sorted(codes, key=lambda c: c.num_samples)]
    hold(frames == sorted(frames), "a longer clip gives fewer frames")
    longest_s = max(each.duration_s for each in codes)
    return f"as the spec says, codes in range: {len(codes)} clips, of 1 sample to {longest_s:.1f} s"


def _batched_equals_single(trial: Trial) -> str:
    tokenizer, clips = trial.tokenizer, [*trial.clips, *trial.edges, *trial.equal_lengths]
    before = trial.codes
    shuffled = random.Random(0).sample(clips, len(clips))
    together = {c.id: c.codes for c in tokenizer.encode(clips)}
    otherwise = {c.id: c.codes for c in tokenizer.encode(shuffled)}
    for clip in clips:
        alone = tokenizer.encode([clip])[0].codes
        hold_equal(together[clip.id], alone, f"{clip.id}: a batch gives other codes than the clip alone")
        hold_equal(otherwise[clip.id], alone, f"{clip.id}: its neighbours in a batch change its codes")
    for earlier in before:
        hold_equal(earlier.codes, together[earlier.id], f"{earlier.id}: coded again, it has other codes")
    return f"{len(clips)} clips together, shuffled, alone and again: {sum(map(np.size, together.values())):,} codes"


def _decodes_to_length(trial: Trial) -> str:
    tokenizer, spec = trial.tokenizer, trial.tokenizer.spec
    codes = [*trial.codes, *trial.edge_codes]
    if not spec.has_decoder:
        with refused(UsageError, "decoder", "decoding, without a decoder,"):
            tokenizer.decode(codes[0])
        return "has no decoder, and says so"
    for each in codes:
        before = each.codes.copy()
        clip = tokenizer.decode(each)
        hold(np.array_equal(each.codes, before), f"{each.id}: decoding wrote into its codes")
        hold(clip.id == each.id, f"{each.id}: decoded, it is called {clip.id}")
        hold(clip.sample_rate_hz == spec.sample_rate_hz, f"{each.id}: decoded at {clip.sample_rate_hz} Hz")
        hold(clip.samples.shape == (each.num_samples,), f"{each.id}: decoded to {clip.samples.shape} samples")
        hold(clip.samples.dtype == np.float32, f"{each.id}: decoded to {clip.samples.dtype}")
        hold(np.isfinite(clip.samples).all(), f"{each.id}: decoded to NaN or infinity")
    again = tokenizer.decode(each)
    hold(np.array_equal(again.samples, clip.samples), f"{each.id}: decoded again, it is other audio")
    return f"{len(codes)} clips, each as long as it was"


@contextmanager
def refused(error: type[Exception], reason: str, what: str) -> Iterator[None]:
    try:
        yield
    except error as raised:
        hold(reason in str(raised), f"{what} is refused for another reason: {raised}")
    else:
        raise AssertionError(f"{what} is not refused")


def _refuses_bad_input(trial: Trial) -> str:
    encode, clip = trial.tokenizer.encode, trial.clips[0]
    rate, bad = clip.sample_rate_hz, clip.samples.copy()
    with refused(ValueError, "Hz", "another sample rate"):
        encode([AudioClip("rate", clip.samples, rate + 1)])
    with refused(ValueError, "no samples", "a clip of no samples"):
        encode([clip, AudioClip("empty", clip.samples[:0], rate)])
    for value in (np.nan, np.inf):
        bad[len(bad) // 2] = value
        with refused(ValueError, "NaN", f"a sample of {value}"):
            encode([clip, AudioClip("bad", bad, rate)])
    for samples in (clip.samples.astype(np.float64), np.stack([clip.samples] * 2)):
        with refused(ValueError, "float32", f"{samples.dtype} {samples.shape}"):
            encode([AudioClip("form", samples, rate)])
    return "another rate, no samples, NaN, infinity, float64, stereo are refused"


def _reloads_from_its_settings(trial: Trial) -> str:
    """`spec.settings` build the same tokenizer again; fewer codebooks are the first columns, and another spec."""
    tokenizer, clips, codes = trial.tokenizer, trial.clips[:1], trial.codes[:1]
    cls, spec = type(tokenizer), tokenizer.spec
    parameters = inspect.signature(cls).parameters
    hold("device" in parameters, "the constructor takes no `device`, be it to ignore it")
    settings = dict(spec.settings) | ({"name": spec.name} if "name" in parameters else {})
    mode = settings.pop("mode", "exact")

    def load(**changes: Any) -> Tokenizer:
        loaded = cls(**{**settings, "device": trial.device, **changes})
        loaded.use_mode(mode)
        return loaded

    again = load().spec
    differing = [name for name in spec.to_dict() if getattr(again, name) != getattr(spec, name)]
    hold(not differing, f"its settings, {dict(spec.settings)}, build one of another {', '.join(differing)}")
    if "num_codebooks" not in parameters or spec.num_codebooks == 1:
        return "load it again"
    hold(tokenizer.codebook_counts[-1] == spec.num_codebooks, "`codebook_counts` does not end with its own")
    fewer_counts = tokenizer.codebook_counts[:-1]
    tried = fewer_counts[:: max(1, len(fewer_counts) // 3)]  # of 32, as many loads would take minutes
    for n in tried:
        fewer = load(num_codebooks=n)
        kept = fewer.spec.codebook_sizes == spec.codebook_sizes[:n]
        hold(kept, f"num_codebooks={n} gives other codebooks")
        hold(fewer.spec.fingerprint != spec.fingerprint, f"num_codebooks={n} has the fingerprint of all")
        for one, all_of_them in zip(fewer.encode(clips), codes, strict=True):
            hold_equal(one.codes, all_of_them.codes[:, :n], f"num_codebooks={n} gives other codes")
    return f"load it again; num_codebooks {', '.join(map(str, tried))} keeps the first ones of {spec.num_codebooks}"


CONTRACT: Mapping[str, Callable[[Trial], str]] = {
    "spec": _spec_is_complete,
    "frames": _frames_match_seconds,
    "batched = single": _batched_equals_single,
    "decoding": _decodes_to_length,
    "bad input": _refuses_bad_input,
    "settings": _reloads_from_its_settings,
}
"""What every tokenizer keeps, by name; each tells what it has seen."""


def fingerprint_law(make: Callable[[Mapping[str, np.ndarray]], Tokenizer], weights: Mapping[str, np.ndarray]) -> None:
    """The tokenizer that `make` makes of weights (name -> array) has the fingerprint of their values: equal ones in
    another order have the same, and one value more or less in any of them gives another."""
    first = make(weights).spec.fingerprint
    again = {name: array.copy() for name, array in reversed(list(weights.items()))}
    hold(make(again).spec.fingerprint == first, "the same weights give another fingerprint")
    for name, array in weights.items():
        other = array.copy()
        other.flat[other.size // 2] += 1
        changed = make({**weights, name: other}).spec.fingerprint
        hold(changed != first, f"another {name} gives the same fingerprint")
