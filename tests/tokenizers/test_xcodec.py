"""X-Codec: transformers' own class on a light checkpoint, one clip at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import XcodecModel

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers.laws import long_audio_law, tokenizer_law
from slm.tokenizers.xcodec import XCodecTokenizer
from tests.tokenizers.light_codecs import speech
from tests.tokenizers.semantic_codecs import (
    LIGHT,
    gives_the_authors_codes,
    gives_the_models_codes,
    has_the_models_frames,
    one_weight_changes_the_fingerprint,
    refuses_what_does_not_fit,
    write_light,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_light("xcodec", tmp_path_factory.mktemp("hub") / "xcodec")


def direct_codes(model: XcodecModel, samples: np.ndarray) -> np.ndarray:
    """As the authors' script calls their model: the samples as they are, at the highest bandwidth."""
    values = torch.from_numpy(samples)[None, None].to(model.dtype)
    with torch.no_grad():
        return model.encode(values, bandwidth=1.2).audio_codes[0].T.numpy()


def test_it_keeps_the_law(folder: Path) -> None:
    tokenizer = load_tokenizer("xcodec", checkpoint=str(folder))
    assert tokenizer.spec.codebook_sizes == (64,) * 4
    assert (tokenizer.spec.sample_rate_hz, tokenizer.spec.hop_samples) == (16_000, 320)
    tokenizer_law(tokenizer, speech(16_000))


def test_codes_frames_and_audio_are_those_of_the_model(folder: Path) -> None:
    tokenizer = load_tokenizer("xcodec", checkpoint=str(folder))
    model, clips = XcodecModel.from_pretrained(folder).eval().double(), speech(16_000)
    has_the_models_frames(tokenizer, lambda samples: direct_codes(model, samples), clips[0])
    gives_the_models_codes(tokenizer, lambda samples: direct_codes(model, samples), clips)
    codes = tokenizer.encode(clips[:1])[0]
    with torch.no_grad():
        expected = model.decode(torch.from_numpy(codes.codes.T.astype(np.int64))[None]).audio_values[0, 0].numpy()
    made = tokenizer.decode(codes).samples
    assert len(expected) == len(codes.codes) * 320
    size = min(len(made), len(expected))
    np.testing.assert_allclose(made[:size], expected[:size], atol=1e-6 * np.abs(expected).max())
    assert not made[size:].any()


def test_with_wavlm_too(tmp_path: Path) -> None:
    """The form of hf-audio/xcodec-wavlm-mls."""
    hubert = LIGHT["xcodec"]["semantic_model_config"]
    wavlm = {**LIGHT["xcodec"], "semantic_model_config": {**hubert, "model_type": "wavlm"}}
    XCodecTokenizer.write_untrained(tmp_path, **wavlm)
    model: Any = XcodecModel.from_pretrained(tmp_path).eval().double()
    assert model.semantic_model.config.model_type == "wavlm"
    tokenizer = load_tokenizer("xcodec", checkpoint=str(tmp_path))
    gives_the_models_codes(tokenizer, lambda samples: direct_codes(model, samples), speech(16_000))


def test_long_clips_are_decoded_in_pieces(folder: Path) -> None:
    tokenizer: Any = load_tokenizer("xcodec", checkpoint=str(folder))
    clip = speech(16_000, clips=8)[-1]
    long_audio_law(tokenizer, clip)
    codes = tokenizer.encode([clip])[0]
    tokenizer.piece_s = 60.0
    whole = tokenizer.decode(codes).samples
    tokenizer.piece_s = 0.3
    np.testing.assert_allclose(tokenizer.decode(codes).samples, whole, atol=1e-6 * np.abs(whole).max())


def test_codes_and_audio_are_those_of_the_authors(tmp_path: Path) -> None:
    gives_the_authors_codes("xcodec", tmp_path)


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    refuses_what_does_not_fit("xcodec", folder, 4, tmp_path)
    shutil.copytree(folder, tmp_path / "other")
    config = json.loads((tmp_path / "other/config.json").read_text())
    config["strides"] = [3, 1]
    (tmp_path / "other/config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="320 samples, the semantic one of 960"):
        load_tokenizer("xcodec", checkpoint=str(tmp_path / "other"))


def test_the_fingerprint_follows_weights_and_settings(folder: Path, tmp_path: Path) -> None:
    one_weight_changes_the_fingerprint("xcodec", folder, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["semantic_model_config"]["num_attention_heads"] = 4
    (tmp_path / "touched/config.json").write_text(json.dumps(config))
    other = load_tokenizer("xcodec", checkpoint=str(tmp_path / "touched"))
    assert other.spec.fingerprint != load_tokenizer("xcodec", checkpoint=str(folder)).spec.fingerprint


def test_the_tokenizer_file(folder: Path) -> None:
    path = Path(__file__).parents[2] / "configs/tokenizers/xcodec.yaml"
    assert yaml.safe_load(path.read_text())["checkpoint"] == "hf-audio/xcodec-hubert-librispeech"
    assert load_tokenizer(str(path), checkpoint=str(folder), num_codebooks=2).spec.num_codebooks == 2
