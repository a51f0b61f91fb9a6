"""The tokenizer of Higgs Audio v2: transformers' own class on a light checkpoint, one clip at a time."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import DacFeatureExtractor

from slm.tokenizers import load_tokenizer
from slm.tokenizers.laws import tokenizer_law
from slm.tokenizers.networks.resample import resample
from slm.types import AudioClip
from tests.tokenizers.light_codecs import speech
from tests.tokenizers.semantic_codecs import (
    gives_the_authors_codes,
    gives_the_models_codes,
    has_the_models_frames,
    one_weight_changes_the_fingerprint,
    refuses_what_does_not_fit,
    write_light,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_light("higgs-audio-v2", tmp_path_factory.mktemp("hub") / "higgs")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Iterator[Any]:
    """The class of transformers in float64, whose module imports torchaudio: its one function is put in its place."""
    stub = ModuleType("torchaudio")
    stub.__spec__ = ModuleSpec("torchaudio", None)
    stub.functional = SimpleNamespace(resample=resample)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchaudio", stub)
        module = importlib.import_module(
            "transformers.models.higgs_audio_v2_tokenizer.modeling_higgs_audio_v2_tokenizer"
        )
        yield module.HiggsAudioV2TokenizerModel.from_pretrained(folder).eval().double()


def direct_codes(model: Any, samples: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.encode(torch.from_numpy(samples)[None, None].double(), bandwidth=0.6).audio_codes[0].T.numpy()


def test_resampling_is_that_of_torchaudio() -> None:
    """5001 samples to two thirds, by `torchaudio.functional.resample` (see tests/data/golden/torchaudio.md)."""
    golden = np.load(ROOT / "tests/data/golden/torchaudio.npz")["resampled"]
    samples = torch.from_numpy(speech(24_000, clips=1)[0].samples[:5001]).double()
    made = resample(samples[None, None], 24_000, 16_000)
    assert made.shape == (1, 1, 3334)
    np.testing.assert_allclose(made[0, 0].numpy(), golden, atol=1e-12)
    assert resample(samples, 16_000, 16_000) is samples


def test_it_keeps_the_law(folder: Path) -> None:
    tokenizer = load_tokenizer("higgs-audio-v2", checkpoint=str(folder))
    assert tokenizer.spec.codebook_sizes == (64,) * 4
    assert (tokenizer.spec.sample_rate_hz, tokenizer.spec.hop_samples) == (24_000, 960)
    tokenizer_law(tokenizer, speech(24_000))


def test_whole_frames_give_the_codes_and_audio_of_transformers(folder: Path, reference: Any) -> None:
    tokenizer = load_tokenizer("higgs-audio-v2", checkpoint=str(folder))
    extractor, clips = DacFeatureExtractor(sampling_rate=24_000, hop_length=960), speech(24_000)
    whole = [AudioClip(c.id, extractor(c.samples, sampling_rate=24_000)["input_values"][0][0], 24_000) for c in clips]
    assert all(len(clip.samples) % 960 == 0 for clip in whole)
    gives_the_models_codes(tokenizer, lambda samples: direct_codes(reference, samples), whole)
    codes = tokenizer.encode(whole[:1])[0]
    with torch.no_grad():
        values = torch.from_numpy(codes.codes.T.astype(np.int64))[None]
        expected = reference.decode(values).audio_values[0, 0].numpy()
    np.testing.assert_allclose(tokenizer.decode(codes).samples, expected, atol=1e-6 * np.abs(expected).max())


def test_any_length_gives_the_codes_of_the_authors(
    folder: Path, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the padding of boson-ai/higgs-audio, 160 samples for each frame of HuBERT that makes one of theirs."""
    monkeypatch.setattr(reference, "pad", 320)
    tokenizer, clips = load_tokenizer("higgs-audio-v2", checkpoint=str(folder)), speech(24_000)
    has_the_models_frames(tokenizer, lambda samples: direct_codes(reference, samples), clips[0])
    lengths = [len(clip.samples) % 960 for clip in clips]
    assert any(119 <= rest < 632 for rest in lengths), "no clip whose last frame is padded"
    gives_the_models_codes(tokenizer, lambda samples: direct_codes(reference, samples), clips)


def test_codes_and_audio_are_those_of_the_authors(tmp_path: Path) -> None:
    gives_the_authors_codes("higgs-audio-v2", tmp_path)


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    refuses_what_does_not_fit("higgs-audio-v2", folder, 4, tmp_path)


def test_the_fingerprint_follows_every_weight(folder: Path, tmp_path: Path) -> None:
    one_weight_changes_the_fingerprint("higgs-audio-v2", folder, tmp_path)


def test_the_tokenizer_file(folder: Path) -> None:
    path = ROOT / "configs/tokenizers/higgs-audio-v2.yaml"
    assert yaml.safe_load(path.read_text())["checkpoint"] == "eustlb/higgs-audio-v2-tokenizer"
    assert load_tokenizer(str(path), checkpoint=str(folder), num_codebooks=2).spec.num_codebooks == 2
