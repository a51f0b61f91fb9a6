"""What all tokenizers share: the checks around encoding and decoding, fingerprints, exact batching."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from slm.errors import UsageError
from slm.tokenizers.base import TOKENIZERS, fingerprint
from slm.tokenizers.laws import fingerprint_law, tokenizer_law
from slm.types import AudioClip, Codes, TokenizerSpec
from tests.fakes import ArithmeticTokenizer, tone


def noise(num_samples: int, seed: int, sample_rate_hz: int = 8000) -> AudioClip:
    rng = np.random.default_rng(seed)
    # A slow drift on top, so that the mean of a frame moves.
    drift = np.cumsum(rng.standard_normal(num_samples)) / (10 * np.sqrt(num_samples))
    samples = (0.1 * rng.standard_normal(num_samples) + drift).clip(-1, 1)
    return AudioClip(f"noise-{seed}", samples.astype(np.float32), sample_rate_hz)


def test_the_arithmetic_tokenizer_keeps_the_law() -> None:
    clips = [noise(n, seed) for seed, n in enumerate((1600, 4000, 4001, 8159))]
    tokenizer_law(ArithmeticTokenizer(num_codebooks=3), clips)


class Leaky(ArithmeticTokenizer):
    """Breaks batched = single: a clip's codes depend on how many came with it."""

    def _encode(self, signals):
        return [(codes + len(signals)) % 16 for codes in super()._encode(signals)]


class Tailed(ArithmeticTokenizer):
    """Breaks its own frame rule: one frame too many."""

    def _encode(self, signals):
        return [np.pad(codes, ((0, 1), (0, 0))) for codes in super()._encode(signals)]


class Overflowing(ArithmeticTokenizer):
    """Gives a code outside its codebook."""

    def _encode(self, signals):
        return [codes + 16 for codes in super()._encode(signals)]


class Short(ArithmeticTokenizer):
    """Decodes one frame too few."""

    def _decode(self, codes):
        return super()._decode(codes)[: -self.spec.hop_samples]


class Long(ArithmeticTokenizer):
    """Decodes one frame too many."""

    def _decode(self, codes):
        return np.pad(super()._decode(codes), (self.spec.hop_samples, 0))


class Fractional(ArithmeticTokenizer):
    """Gives floats, which would be cut to codes."""

    def _encode(self, signals):
        return [codes + 0.9 for codes in super()._encode(signals)]


class Missing(ArithmeticTokenizer):
    """Loses the last signal."""

    def _encode(self, signals):
        return super()._encode(signals)[:-1]


class Doubled(ArithmeticTokenizer):
    """Gives a result of nothing."""

    def _encode(self, signals):
        return super()._encode([*signals, signals[0]])


class Fresh(ArithmeticTokenizer):
    """Its first call gives other codes than all later ones."""

    calls = 0

    def _encode(self, signals):
        self.calls += 1
        return [(codes + (self.calls == 1)) % 16 for codes in super()._encode(signals)]


class Scribbling(ArithmeticTokenizer):
    """Writes into the caller's samples, after it has coded them."""

    def _encode(self, signals):
        made = super()._encode(signals)
        signals[0][:] = 0
        return made


class Erasing(ArithmeticTokenizer):
    """Writes into the caller's codes, after it has decoded them."""

    def _decode(self, codes):
        samples = super()._decode(codes)
        codes[:] = 0
        return samples


class Noisy(ArithmeticTokenizer):
    def _decode(self, codes):
        return super()._decode(codes) * np.random.default_rng().random(dtype=np.float32)


class Pcm(ArithmeticTokenizer):
    def _decode(self, codes):
        return (super()._decode(codes) * 32767).astype(np.int16)


class Broken(ArithmeticTokenizer):
    def _decode(self, codes):
        return super()._decode(codes) * np.float32(np.nan)


class Forgetful(ArithmeticTokenizer):
    """Its settings build another."""

    def __init__(self, bias: int = 0, device: str = "cpu"):
        super().__init__(bias=bias)
        self.spec = replace(self.spec, settings={"bias": bias + 1})


class OnNoDevice(ArithmeticTokenizer):
    def __init__(self):
        super().__init__()


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (Fractional, r"gave float64 \(10, 2\) for noise-0, not an array of integers"),
        (Missing, "gave 1 results for 2 signals"),
        (Doubled, "gave 3 results for 2 signals"),
        (Fresh, "coded again"),
        (Scribbling, "wrote into its samples"),
        (Erasing, "wrote into its codes"),
        (Noisy, "decoded again"),
        (Pcm, r"decoded noise-0 to int16 \(1600,\)"),
        (Broken, "noise-0: decoded to NaN"),
        (Forgetful, "its settings, {'bias': 1}, build one of another fingerprint, settings"),
        (OnNoDevice, "`device`"),
        (Leaky, "batch|neighbours"),
        (Tailed, "shape"),
        (Overflowing, "outside its codebook"),
        (Short, "samples; its spec says 10 frames of 160"),
        (Long, "samples; its spec says 10 frames of 160"),
    ],
)
def test_the_law_finds_what_is_broken(broken: type[ArithmeticTokenizer], complaint: str) -> None:
    with pytest.raises((AssertionError, ValueError), match=complaint):
        tokenizer_law(broken(), [noise(1600, 0), noise(3000, 1)])


def test_the_law_is_not_kept_by_one_single_code() -> None:
    silence = [AudioClip(f"silence-{n}", np.zeros(n, np.float32), 8000) for n in (1600, 3200)]
    with pytest.raises(AssertionError, match="too few codes"):
        tokenizer_law(ArithmeticTokenizer(), silence)


def test_decoding_the_codes_of_another_tokenizer_is_refused_and_names_both() -> None:
    ours, other = ArithmeticTokenizer(), ArithmeticTokenizer(bias=1)
    codes = other.encode([tone(0.1)])[0]
    with pytest.raises(UsageError) as caught:
        ours.decode(codes)
    assert ours.spec.fingerprint[:12] in str(caught.value)
    assert other.spec.fingerprint[:12] in str(caught.value)


def test_what_is_no_clip_and_no_codes_is_told_so() -> None:
    tokenizer, clip = ArithmeticTokenizer(), tone(0.1)
    codes: Any = tokenizer.encode([clip])
    given: Any = [clip, [clip.samples], "ab"]
    for wrong, told in zip(
        given, ("a list of clips", "an AudioClip, not float32", "an AudioClip, not str"), strict=True
    ):
        with pytest.raises(ValueError, match=told):
            tokenizer.encode(wrong)
    for wrong, told in ((codes, "not list"), (codes[0].codes, "not uint16")):
        with pytest.raises(ValueError, match=f"the Codes of one clip, .* {told}"):
            tokenizer.decode(wrong)


def test_decoded_audio_is_padded_with_silence_to_the_clip() -> None:
    tokenizer = ArithmeticTokenizer()
    clip = tokenizer.decode(tokenizer.encode([tone(0.05)])[0])  # 400 samples: 2 frames of 160 and a dropped tail of 80
    assert clip.samples.shape == (400,)
    assert (clip.samples[320:] == 0).all()
    nothing = tokenizer.decode(Codes("x", np.zeros((0, 2), np.uint16), 7, tokenizer.spec))
    assert np.array_equal(nothing.samples, np.zeros(7))


def test_decoded_audio_is_not_copied_on_its_way_out() -> None:
    class Keeping(ArithmeticTokenizer):
        def _decode(self, codes):
            self.made = super()._decode(codes).astype(np.float32)
            return self.made

    tokenizer = Keeping()
    (codes,) = tokenizer.encode([noise(1600, 0)])
    assert np.shares_memory(tokenizer.decode(codes).samples, tokenizer.made)


def test_fingerprint_follows_settings_and_every_weight_but_no_order() -> None:
    a, b = np.arange(600, dtype=np.float32).reshape(20, 30), np.ones(3, np.float32)
    base = fingerprint({"n": 1, "m": 2}, [("a", a), ("b", b)])
    assert base == fingerprint({"m": 2, "n": 1}, [("b", b), ("a", a)])
    touched = a.copy()
    touched[19, 29] = np.nextafter(touched[19, 29], 999)
    others = [
        fingerprint({"n": 2, "m": 2}, [("a", a), ("b", b)]),
        fingerprint({"n": 1, "m": 2}, [("a", touched), ("b", b)]),
        fingerprint({"n": 1, "m": 2}, [("a", a.reshape(30, 20)), ("b", b)]),
        fingerprint({"n": 1, "m": 2}, [("b", a), ("a", b)]),
        fingerprint({"n": 1, "m": 2}, [("a", a)]),
    ]
    assert len({base, *others}) == 6


def test_fingerprint_of_torch_and_numpy_weights_agree() -> None:
    torch = pytest.importorskip("torch")
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert fingerprint({}, [("a", a)]) == fingerprint({}, [("a", torch.from_numpy(a).requires_grad_())])


def test_fingerprint_sees_what_float32_would_round() -> None:
    torch = pytest.importorskip("torch")
    halves = torch.tensor([1.0, 0.5])
    assert fingerprint({}, [("a", halves)]) == fingerprint({}, [("a", halves.bfloat16())])
    for value in (torch.tensor([1.0 + 2**-50], dtype=torch.float64), torch.tensor([2**24 + 1])):
        assert fingerprint({}, [("a", value)]) != fingerprint({}, [("a", value.float())])


def test_the_law_of_fingerprints_finds_a_weight_that_is_left_out() -> None:
    def make(weights):
        made = ArithmeticTokenizer()
        made.spec = replace(made.spec, fingerprint=fingerprint({}, [("a", weights["a"])]))
        return made

    fingerprint_law(make, {"a": np.ones(3)})
    with pytest.raises(AssertionError, match="another b gives the same fingerprint"):
        fingerprint_law(make, {"a": np.ones(3), "b": np.ones(2)})


def test_describe_names_the_tokenizer_its_codebooks_and_its_rate() -> None:
    spec = TokenizerSpec("x", "0" * 64, 8000, 320, (512, 512, 16, 64))
    assert spec.describe() == "x [000000000000] 512x512x16x64 at 25 Hz"
    assert replace(spec, codebook_sizes=(2048,) * 32).describe() == "x [000000000000] 2048 x 32 at 25 Hz"


def test_a_clip_longer_than_memory_allows_is_refused_before_it_is_coded(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = ArithmeticTokenizer()
    monkeypatch.setattr(ArithmeticTokenizer, "longest_clip_s", 2.0)
    rate = tokenizer.spec.sample_rate_hz
    whole, longer = (AudioClip(f"{n}", np.ones(n, np.float32), rate) for n in (2 * rate, 2 * rate + rate // 2))
    assert len(tokenizer.encode([whole])) == 1
    with pytest.raises(ValueError, match=r"2\.5 s, but arithmetic codes a clip in one piece, of 2 s at most"):
        tokenizer.encode([whole, longer])


def test_those_whose_memory_grows_with_the_square_say_how_long_a_clip_may_be() -> None:
    limits = {name: TOKENIZERS.get(name).longest_clip_s for name in TOKENIZERS.names()}
    assert {name: limit for name, limit in limits.items() if limit} == {
        "xcodec": 1200.0,
        "higgs-audio-v2": 1200.0,
        "xcodec2": 600.0,
        "neucodec": 600.0,
        "focalcodec": 600.0,
        "dualcodec": 600.0,
    }


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda codes: codes.astype(np.int64) - 100, "outside its codebook"),
        (lambda codes: codes + 16, "outside its codebook"),
        (lambda codes: codes[:, :1], "codes of 1 codebooks"),
        (lambda codes: np.concatenate([codes, codes], axis=1), "codes of 4 codebooks"),
        (lambda codes: codes[:, 0], "array of integers"),
        (lambda codes: codes + 0.5, "array of integers"),
        (lambda codes: codes.tolist(), "array of integers"),
    ],
)
def test_codes_that_are_none_of_the_spec_are_not_decoded(change, complaint: str) -> None:
    tokenizer = ArithmeticTokenizer(num_codebooks=2)
    (codes,) = tokenizer.encode([noise(1600, 0)])
    assert len(tokenizer.decode(codes).samples) == 1600
    with pytest.raises(ValueError, match=complaint):
        tokenizer.decode(Codes("changed", change(codes.codes), 1600, codes.spec))
    with pytest.raises(ValueError, match="-1 samples are no length"):
        tokenizer.decode(Codes("changed", codes.codes, -1, codes.spec))


def test_samples_as_large_as_no_audio_are_refused() -> None:
    """Their squares are infinite in float32, and so all codes that come of norms; integers of 32 bits are not."""
    tokenizer, samples = ArithmeticTokenizer(), noise(1600, 0).samples
    for value, refused in ((1e30, True), (-1e30, True), (2.0**31, False)):
        samples[800] = value
        if refused:
            with pytest.raises(ValueError, match=r"a sample of 1\.0e\+30: audio lies within"):
                tokenizer.encode([AudioClip("loud", samples, 8000)])
        else:
            tokenizer.encode([AudioClip("loud", samples, 8000)])
    with pytest.raises(ValueError, match="not list"):
        tokenizer.encode([AudioClip("list", samples.tolist(), 8000)])


def test_a_mode_that_is_no_word_is_refused() -> None:
    with pytest.raises(UsageError, match="has no mode"):
        ArithmeticTokenizer().use_mode(["exact"])  # type: ignore[arg-type]
