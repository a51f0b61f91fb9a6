"""X-Codec 2 and NeuCodec: transformers' own classes and feature extractors on light checkpoints, one clip at a time."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soxr
import torch
import yaml
from transformers import NeuCodecModel, Xcodec2Model
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from slm.tokenizers import load_tokenizer
from slm.tokenizers.laws import tokenizer_law
from slm.tokenizers.xcodec2 import mel_features
from tests.tokenizers.light_codecs import speech
from tests.tokenizers.semantic_codecs import (
    gives_the_models_codes,
    has_the_models_frames,
    one_weight_changes_the_fingerprint,
    refuses_what_does_not_fit,
    write_light,
)

ROOT = Path(__file__).parents[2]
NAMES = ("xcodec2", "neucodec")
ONE_NAME = ["xcodec2", pytest.param("neucodec", marks=pytest.mark.thorough)]  # their networks are the same
OFFSETS_SAMPLES = {"xcodec2": 320, "neucodec": 0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    return {name: write_light(name, root / name) for name in NAMES}


class Reference:
    """A model of transformers in float64 behind its own feature extractor, whose one call of torchaudio is replaced."""

    def __init__(self, name: str, folder: Path, patch: pytest.MonkeyPatch):
        network: Any = {"xcodec2": Xcodec2Model, "neucodec": NeuCodecModel}[name]
        self.model = network.from_pretrained(folder).eval().double()
        module = importlib.import_module(f"transformers.models.{name}.feature_extraction_{name}")
        torchaudio = SimpleNamespace(compliance=SimpleNamespace(kaldi=SimpleNamespace(fbank=kaldi_fbank)))
        patch.setattr(module, "torchaudio", torchaudio, raising=False)
        extractor = {"xcodec2": "Xcodec2FeatureExtractor", "neucodec": "NeuCodecFeatureExtractor"}[name]
        call = getattr(module, extractor).__call__
        # NeuCodec's is wrapped in a check that torchaudio is installed.
        self.extract, self.extractor = getattr(call, "__wrapped__", call), getattr(module, extractor)()

    def codes(self, samples: np.ndarray) -> np.ndarray:
        inputs = self.extract(self.extractor, audio=samples, sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            features = inputs["input_features"].double()
            mask = inputs["input_features_mask"]
            made = self.model.encode(inputs["input_values"].double(), features, input_features_mask=mask)
        return made.audio_codes[0].T.numpy()

    def audio(self, codes: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            values = torch.from_numpy(codes.T.astype(np.int64))[None]
            return self.model.decode(values).audio_values[0, 0].numpy()


def kaldi_fbank(waveform: torch.Tensor, **_: Any) -> torch.Tensor:
    """Kaldi's log-mel features of 16-bit samples by transformers' numpy routines."""
    mel = mel_filter_bank(257, 80, 20, 8000, 16_000, None, "kaldi", triangularize_in_mel_space=True)
    features = spectrogram(
        waveform[0].double().numpy(),
        window_function(400, "povey", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=mel,
        log_mel="log",
        mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    )
    return torch.from_numpy(features.T)


def test_features_are_those_of_torchaudio() -> None:
    """0.4 s of speech by `torchaudio.compliance.kaldi.fbank` (see tests/data/golden/torchaudio.md)."""
    golden = np.load(ROOT / "tests/data/golden/torchaudio.npz")["features"]
    made = mel_features(torch.from_numpy(speech(16_000, clips=1)[0].samples[:6400]), 160)
    assert made.shape == (1, 20, 160)
    np.testing.assert_allclose(made[0].reshape(-1, 80).numpy(), golden, atol=1e-4)


@pytest.mark.parametrize("name", ONE_NAME)
def test_it_keeps_the_law(name: str, folders: dict[str, Path]) -> None:
    tokenizer: Any = load_tokenizer(name, checkpoint=str(folders[name]))
    spec = tokenizer.spec
    assert (spec.sample_rate_hz, spec.hop_samples, spec.codebook_sizes) == (16_000, 320, (65_536,))
    assert spec.frame_offset_samples == OFFSETS_SAMPLES[name]
    assert spec.code_dtype is np.uint16
    tokenizer_law(tokenizer, speech(16_000, clips=2))


@pytest.mark.parametrize("name", ONE_NAME)
def test_codes_frames_and_audio_are_those_of_the_model(
    name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer: Any = load_tokenizer(name, checkpoint=str(folders[name]))
    reference = Reference(name, folders[name], monkeypatch)
    clips = speech(16_000)
    gives_the_models_codes(tokenizer, reference.codes, clips)
    has_the_models_frames(tokenizer, reference.codes, clips[0])
    codes = tokenizer.encode(clips[:1])[0]
    expected = reference.audio(codes.codes)
    made = tokenizer.decode(codes)
    if name == "neucodec":
        wideband = tokenizer.decode_wideband(codes)
        assert wideband.sample_rate_hz == 24_000
        np.testing.assert_allclose(wideband.samples, expected, atol=1e-6 * np.abs(expected).max())
        assert len(wideband.samples) == 480 * len(codes.codes)
        expected = soxr.resample(expected, 24_000, 16_000)
    size = min(len(expected), len(made.samples))
    assert abs(len(expected) - len(made.samples)) <= 320
    np.testing.assert_allclose(made.samples[:size], expected[:size], atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_is_refused(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    refuses_what_does_not_fit(name, folders[name], 1, tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_the_fingerprint_follows_every_weight(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    one_weight_changes_the_fingerprint(name, folders[name], tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_tokenizer_file(name: str, folders: dict[str, Path]) -> None:
    path = ROOT / f"configs/tokenizers/{name}.yaml"
    assert yaml.safe_load(path.read_text())["name"] == name
    assert load_tokenizer(str(path), checkpoint=str(folders[name])).spec.name == name
