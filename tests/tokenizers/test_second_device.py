"""Every network on a GPU that is none (`tests.second_device`): its codes and its audio are those of the CPU."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from slm.tokenizers import TOKENIZERS, Tokenizer, load_tokenizer
from slm.tokenizers._clustering import Lloyd, MiniBatch
from slm.tokenizers._kmeans import Centroids
from slm.tokenizers._unit_vocoder import load_unit_vocoder
from slm.tokenizers._untrained_encoders import ARCHITECTURES, write_untrained_units
from slm.types import AudioClip
from tests.contracts import second_device_law
from tests.second_device import second_device
from tests.tokenizers import (
    test_dualcodec,
    test_focalcodec,
    test_glm_4_voice,
    test_nemo_audio_codec,
    test_qwen3_tts,
    test_s3tokenizer,
)
from tests.tokenizers.semantic_codecs import LIGHT as SEMANTIC
from tests.tokenizers.speech import real_clips
from tests.tokenizers.speech_encoders import WIDTH, random_whisper
from tests.tokenizers.test_codec_modes import FAMILIES
from tests.tokenizers.unit_vocoders import golden, write_vocoder

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, changes) for name, changes in {**FAMILIES, **SEMANTIC}.items()},
    "glm-4-voice": ("glm-4-voice", test_glm_4_voice.LIGHT),
    "qwen3-tts-12hz": ("qwen3-tts-12hz", test_qwen3_tts.LIGHT),
    "s3tokenizer-v1": ("s3tokenizer", {"version": 1, "stride": 1, **test_s3tokenizer.LIGHT}),
    "s3tokenizer-v2": ("s3tokenizer", {"version": 2, "stride": 2, **test_s3tokenizer.LIGHT}),
    "focalcodec": ("focalcodec", test_focalcodec.LIGHT),
    "dualcodec": ("dualcodec", test_dualcodec.LIGHT),
    "nanocodec": ("nemo-audio-codec", test_nemo_audio_codec.SMALL),
    "lfsc": ("nemo-audio-codec", test_nemo_audio_codec.REFLECTED),
}
NEEDS = {"snac": "snac", "s3tokenizer": "onnx"}
UNITS: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}


def holds(name: str, **settings: Any) -> None:
    load = partial(load_tokenizer, name, **settings)
    rate = load().spec.sample_rate_hz
    # Of 0.89 s the last state of w2v-BERT is of a half pair of log-mel frames, which DualCodec codes.
    starts = (clip.samples[: int(seconds * rate)] for clip, seconds in zip(real_clips(rate), (1.6, 0.89), strict=False))
    second_device_law(load, [AudioClip(str(len(samples)), samples, rate) for samples in starts])


@pytest.mark.parametrize("form", NETWORKS)
def test_codecs(form: str, tmp_path: Path) -> None:
    name, changes = NETWORKS[form]
    if (package := NEEDS.get(name)) and not find_spec(package):
        pytest.skip(f"needs {package}")
    TOKENIZERS.get(name).write_untrained(tmp_path / form, **changes)  # type: ignore[attr-defined]
    holds(name, checkpoint=str(tmp_path / form))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_units(architecture: str, tmp_path: Path) -> None:
    changes = dict(UNITS)
    if architecture != "w2v-bert-2":
        changes |= {"conv_dim": (8,) * (8 if "25" in architecture else 7), "num_conv_pos_embedding_groups": 2}
    holds(str(write_untrained_units(tmp_path / "units", architecture, [1, 3], k=50, **changes)))


def test_units_of_whisper(tmp_path: Path) -> None:
    torch.manual_seed(0)
    random_whisper().save_pretrained(tmp_path)
    WhisperFeatureExtractor().save_pretrained(tmp_path)
    file = tmp_path / "centroids.safetensors"
    Centroids(torch.randn(60, WIDTH), torch.zeros(WIDTH), torch.ones(WIDTH)).save(file)
    holds("ssl-kmeans", encoder=str(tmp_path), layer=2, centroids=str(file))


def fitted(frames: torch.Tensor) -> list[np.ndarray]:
    with torch.inference_mode():
        lloyd, batches = Lloyd(frames, 40, restarts=2, iterations=5), MiniBatch(frames[:40].clone())
        while lloyd.step():
            pass
        for batch in frames.split(300):
            batches.update(batch)
    return [lloyd.best.centroids.cpu().numpy(), batches.centroids.cpu().numpy()]


def test_kmeans() -> None:
    """Frames that are equal leave clusters without any."""
    frames = torch.from_numpy(np.random.default_rng(0).standard_normal((1500, 8)).astype(np.float32))
    frames[:900] = frames[0]
    with second_device():
        there = fitted(frames.to("cuda"))
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(fitted(frames), there, strict=True))


def test_unit_vocoders(tmp_path: Path) -> None:
    units, checkpoint = golden("fairseq")["units"], str(write_vocoder(tmp_path, "fairseq"))
    with second_device():
        there = load_unit_vocoder(checkpoint, device="cuda")
        assert all(weight.is_cuda for weight in there.network.model.parameters())
        with torch.inference_mode():
            made = there.decode(units, "predict")
    assert np.array_equal(made, load_unit_vocoder(checkpoint).decode(units, "predict"))


def streamed(tokenizer: Tokenizer) -> list[np.ndarray]:
    samples = real_clips(tokenizer.spec.sample_rate_hz)[0].samples
    encoder, decoder = tokenizer.stream_encoder(), tokenizer.stream_decoder()
    codes = np.concatenate([*(encoder.feed(samples[i : i + 3001]) for i in range(0, 30_010, 3001)), encoder.finish()])
    return [codes, np.concatenate([decoder.feed(codes[:3]), decoder.feed(codes[3:]), decoder.finish()])]


@pytest.mark.parametrize("name", ["encodec", "mimi"])
def test_streams(name: str, tmp_path: Path) -> None:
    TOKENIZERS.get(name).write_untrained(tmp_path / name, **FAMILIES[name])  # type: ignore[attr-defined]
    with second_device():
        there = streamed(load_tokenizer(name, checkpoint=str(tmp_path / name), device="cuda"))
    here = streamed(load_tokenizer(name, checkpoint=str(tmp_path / name)))
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(here, there, strict=True))
