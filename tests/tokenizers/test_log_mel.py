"""The log-mel frames of w2v-BERT as a GPU computes them, against transformers' own, and the codes that they lead to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import SeamlessM4TFeatureExtractor, WhisperFeatureExtractor

from slm.tokenizers import load_tokenizer
from slm.tokenizers._log_mel import LogMel, WhisperLogMel
from slm.types import AudioClip
from tests.tokenizers.semantic_codecs import write_light
from tests.tokenizers.speech import real_clips


@pytest.mark.parametrize("fill_last", [True, False])
@pytest.mark.parametrize("bands", [80, 40])
def test_frames_are_those_of_transformers(fill_last: bool, bands: int) -> None:
    """An odd and an even number of frames, of speech, noise of both kinds of loudness, and silence."""
    log_mel = LogMel(SeamlessM4TFeatureExtractor(num_mel_bins=bands, feature_size=bands))
    speech, rng = real_clips(16_000)[0].samples, np.random.default_rng(0)
    signals = [speech[:n] for n in (719, 720, 16_000, 16_080)]
    signals += [1e-4 * rng.normal(size=8000), 3 * rng.normal(size=8000), np.zeros(8000)]
    for signal in signals:
        values = torch.from_numpy(np.asarray(signal, np.float32))
        theirs, made = log_mel(values, fill_last), log_mel.on_device(values, fill_last)
        assert (made.dtype, made.shape) == (theirs.dtype, theirs.shape)
        # transformers takes means and variances in fp32, which tells where a band hardly varies.
        found = log_mel.extractor._extract_fbank_features(values.numpy()).astype(np.float64)
        exact = (found - found.mean(axis=0)) / np.sqrt(found.var(axis=0, ddof=1) + 1e-7)
        frames = made.reshape(-1, bands)[: len(exact)].numpy()
        np.testing.assert_allclose(frames, exact[: len(frames)], atol=1e-5, rtol=1e-6)
        if len(signal) >= 8000 and np.ptp(signal) > 0:
            torch.testing.assert_close(made, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bands", [80, 128])
def test_frames_of_whisper_are_those_of_transformers(bands: int) -> None:
    """Speech of one frame of the encoder, of more, of 30 s, and silence; with dither too, by the same seed."""
    speech = np.tile(real_clips(16_000)[0].samples, 16)
    for dither in (0.0, 1e-3):
        log_mel = WhisperLogMel(WhisperFeatureExtractor(feature_size=bands, dither=dither))
        for signal in (speech[:320], speech[:16_160], speech[:480_000], np.zeros(16_000, np.float32)):
            values = torch.from_numpy(signal.copy())
            with torch.random.fork_rng():
                torch.manual_seed(0)
                theirs = log_mel(values)
                torch.manual_seed(0)
                made = log_mel.on_device(values)
            assert made.shape == theirs.shape == (1, len(signal) // 160, bands)
            torch.testing.assert_close(made, theirs, atol=1e-5, rtol=0)
            assert np.array_equal(values.numpy(), signal), "the clip itself was changed"


class Elsewhere(torch.Tensor):
    """On a device that is no GPU of CUDA's (mps): numpy sees it once it has been brought to the host."""

    def numpy(self) -> np.ndarray:  # type: ignore[override]
        raise TypeError("can't convert mps:0 device type tensor to numpy")

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return self.as_subclass(torch.Tensor)


def test_signals_on_other_devices_come_to_the_host_first() -> None:
    signal = torch.from_numpy(real_clips(16_000)[0].samples[:16_000].copy())
    bert, whisper = LogMel(SeamlessM4TFeatureExtractor()), WhisperLogMel(WhisperFeatureExtractor())
    elsewhere = signal.as_subclass(Elsewhere)
    assert torch.equal(bert(elsewhere, False), bert(signal, False))
    assert torch.equal(whisper(elsewhere), whisper(signal))


@pytest.mark.parametrize("name", ["xcodec2", "neucodec"])
def test_codes_are_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(name, checkpoint=str(write_light(name, tmp_path / name)))
    clips = [AudioClip(c.id, c.samples[:40_000], 16_000) for c in real_clips(16_000)[:2]]
    expected = tokenizer.encode(clips)
    calls: list[int] = []

    def as_on_a_gpu(self: LogMel, signal: torch.Tensor, fill_last: bool) -> torch.Tensor:
        calls.append(1)
        return self.on_device(signal, fill_last)

    monkeypatch.setattr(LogMel, "__call__", as_on_a_gpu)
    for before, after in zip(expected, tokenizer.encode(clips), strict=True):
        assert (before.codes != after.codes).mean() < 0.01
    assert len(calls) == 2
