"""Log-mel units: the features against a slow reading of their definition, and the law on real speech."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slm.tokenizers import load_tokenizer, logmel_kmeans
from slm.tokenizers.laws import tokenizer_law
from slm.tokenizers.logmel_kmeans import LogMelFrames
from slm.types import AudioClip
from tests.tokenizers.speech import real_clips


def mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's mel scale: linear to 1 kHz, logarithmic above."""
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def slow_log_mel(samples: np.ndarray) -> np.ndarray:
    """Frame by frame in float64, with triangles drawn from the mel scale: `[T, 80]`."""
    grid = np.linspace(0, 8000, 200_001)
    edges = np.interp(np.linspace(0, mel(np.array(8000.0)), 82), mel(grid), grid)
    hz = np.fft.rfftfreq(400, 1 / 16_000)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = []
    for start in range(0, len(samples) - 399, 320):
        spectrum = np.abs(np.fft.rfft(window * samples[start : start + 400])) ** 2
        bands = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            triangle = np.clip(np.minimum((hz - low) / (middle - low), (high - hz) / (high - middle)), 0, None)
            bands.append(spectrum @ triangle * 2 / (high - low))
        power.append(bands)
    return np.log10(np.maximum(np.array(power) / max(np.max(power), 1e-2), 1e-8))


def test_features_equal_their_definition() -> None:
    samples = real_clips(16_000)[0].samples[:20_000]
    features = LogMelFrames().features(samples)[0].numpy()
    np.testing.assert_allclose(features, slow_log_mel(samples.astype(np.float64)), atol=2e-3)


def test_a_long_clip_taken_in_parts_has_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, encoder = real_clips(16_000)[0].samples, LogMelFrames()
    whole = encoder.features(samples)
    monkeypatch.setattr(logmel_kmeans, "_PART_FRAMES", 7)
    torch.testing.assert_close(encoder.features(samples), whole)


def test_the_level_of_a_recording_does_not_matter() -> None:
    clip = real_clips(16_000)[0]
    quieter = AudioClip("quieter", 0.25 * clip.samples, 16_000)
    loud, quiet = load_tokenizer("logmel-kmeans").encode([clip, quieter])
    assert np.array_equal(loud.codes, quiet.codes)


def test_silence_and_faint_noise_are_not_amplified() -> None:
    faint = 1e-5 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    silence, noise = (LogMelFrames().features(x) for x in (np.zeros(16_000, np.float32), faint))
    assert (silence == -8).all()
    assert noise.max() < -3


def test_logmel_kmeans_keeps_the_law() -> None:
    tokenizer = load_tokenizer("logmel-kmeans")
    assert tokenizer.spec.codebook_sizes == (100,)
    assert tokenizer.spec.frame_rate_hz == 50
    tokenizer_law(tokenizer, real_clips(16_000))


def test_real_speech_uses_most_of_the_packaged_units() -> None:
    codes = np.concatenate([c.codes for c in load_tokenizer("logmel-kmeans").encode(real_clips(16_000, 12))])
    assert len(np.unique(codes)) > 80


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_no_window_reaches_past_the_clip(frames: int) -> None:
    shortest = 400 + 320 * (frames - 1)
    spec = load_tokenizer("logmel-kmeans").spec
    assert [spec.num_frames(shortest + n) for n in (-1, 0)] == [frames - 1, frames]
    assert LogMelFrames().features(np.zeros(shortest, np.float32)).shape == (1, frames, 80)
