"""Run with the package installed: pytest docs/example_tokenizer_package"""

import numpy as np
import pytest
from mulaw_tokenizer import MuLawTokenizer

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers.laws import tokenizer_law
from slm.types import AudioClip


def clips() -> list[AudioClip]:
    """Noise that grows louder, so that all levels are used."""
    rng = np.random.default_rng(0)
    made = [(rng.normal(size=n) * np.linspace(0, 0.2, n)).astype(np.float32) for n in (16_000, 8_000, 8_007)]
    return [AudioClip(f"noise-{i}", samples, 8000) for i, samples in enumerate(made)]


@pytest.mark.parametrize("samples_per_frame", [8, 1])
def test_it_keeps_the_contract(samples_per_frame: int) -> None:
    tokenizer = load_tokenizer("mulaw", samples_per_frame=samples_per_frame)
    assert type(tokenizer) is MuLawTokenizer
    assert tokenizer.spec.bitrate_bps == 64_000
    tokenizer_law(tokenizer, clips())


def test_levels_by_hand() -> None:
    """With mu = 255 the logarithm is one of base 256: 1/255 is log_256(2) = 1/8 of the way up."""
    samples = np.array([-1, 1, 0, 1 / 255, -15 / 255, 2, -2, 0.5], np.float32)
    (codes,) = MuLawTokenizer().encode([AudioClip("by-hand", samples, 8000)])
    expected = [0, 255, 127.5, 127.5 * (1 + 1 / 8), 127.5 * (1 - 1 / 2), 255, 0, 127.5 * (1 + np.log2(128.5) / 8)]
    assert np.abs(codes.codes[0] - np.array(expected)).max() <= 0.5


def test_there_and_back_is_half_a_level_off() -> None:
    clip = clips()[0]
    tokenizer = MuLawTokenizer()
    back = tokenizer.decode(tokenizer.encode([clip])[0]).samples.astype(np.float64)
    whole = len(back) // 8 * 8
    assert np.abs(back[:whole]).max() > 0.01

    def scale(x: np.ndarray) -> np.ndarray:
        return np.sign(x) * np.log1p(255 * np.abs(x)) / np.log1p(255)

    assert np.abs(scale(back[:whole]) - scale(clip.samples[:whole].astype(np.float64))).max() <= 1.001 / 255
    assert not back[whole:].any()


def test_a_frame_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1, not 0"):
        MuLawTokenizer(samples_per_frame=0)
