"""Codecs of transformers with a self-supervised branch, in a light build: true strides and rates, narrow layers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from slm.errors import UsageError
from slm.tokenizers import TOKENIZERS, load_tokenizer
from slm.types import AudioClip
from tests.tokenizers.light_codecs import speech
from tests.tokenizers.seeded import fill_seeded

GOLDEN = Path(__file__).parents[1] / "data/golden"

_HUBERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_DAC = {"encoder_hidden_size": 4, "decoder_hidden_size": 32, "hidden_size": 16}
_W2V_BERT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
_XCODEC2 = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "encoder_hidden_size": 2,
    "quantization_dim": 96,
    "semantic_model_config": _W2V_BERT,
}
LIGHT: dict[str, dict[str, Any]] = {
    "xcodec": {
        "codebook_size": 64,
        "target_bandwidths": [0.3, 0.6, 1.2],  # 1, 2 and 4 codebooks of 6 bits at 50 Hz
        "acoustic_model_config": _DAC,
        "semantic_model_config": _HUBERT,
    },
    "higgs-audio-v2": {
        "codebook_size": 64,
        "codebook_dim": 8,
        "target_bandwidths": [0.15, 0.3, 0.6],
        "acoustic_model_config": {
            **_DAC,
            "downsampling_ratios": [8, 5, 4, 2, 3],
            "upsampling_ratios": [8, 5, 4, 2, 3],
        },
        "semantic_model_config": _HUBERT,
    },
    "xcodec2": _XCODEC2,
    "neucodec": _XCODEC2,
}


def write_light(name: str, folder: Path) -> Path:
    TOKENIZERS.get(name).write_untrained(folder, **LIGHT[name])  # type: ignore[attr-defined]
    return folder


def seeded_model(name: str) -> Any:
    """The light model with weights that the authors' own code can be given too: by name, not by torch's generator."""
    network = TOKENIZERS.get(name)._network()  # type: ignore[attr-defined]
    published = TOKENIZERS.get(name).published  # type: ignore[attr-defined]
    return fill_seeded(network(network.config_class(**{**published, **LIGHT[name]})).eval())


def gives_the_authors_codes(name: str, folder: Path) -> None:
    """The codes of four clips of any length, and the first of their audio, as tests/data/golden/NAME.md says."""
    golden = np.load(GOLDEN / f"{name.replace('-', '_')}.npz")
    seeded_model(name).save_pretrained(folder)
    tokenizer: Any = load_tokenizer(name, checkpoint=str(folder))
    tokenizer.model.double()
    made = tokenizer.encode(speech(tokenizer.spec.sample_rate_hz))
    for i, codes in enumerate(made):
        assert np.array_equal(codes.codes, golden[f"codes_{i}"])
    assert all(len(np.unique(column)) >= 10 for column in np.concatenate([c.codes for c in made]).T)
    audio = tokenizer.decode(made[0]).samples[:2000]
    np.testing.assert_allclose(audio, golden["audio"], atol=1e-6 * np.abs(golden["audio"]).max())


def has_the_models_frames(tokenizer: Any, direct: Callable[[np.ndarray], np.ndarray], clip: AudioClip) -> None:
    """The spec's T equals what the model gives, at every border of a frame; `direct` maps samples to codes `[T, K]`."""
    spec = tokenizer.spec
    starts = [spec.hop_samples * t - spec.frame_offset_samples for t in (1, 2, 3)]
    lengths = {max(1, n + d) for n in starts for d in (-1, 0, 1)} | {5 * spec.hop_samples}
    for n in sorted(lengths):
        if spec.num_frames(n) > 0:
            assert len(direct(clip.samples[:n])) == spec.num_frames(n), n


def gives_the_models_codes(tokenizer: Any, direct: Callable[[np.ndarray], np.ndarray], clips: list[AudioClip]) -> None:
    """In float64, on clips of any length."""
    tokenizer.model.double()
    made = tokenizer.encode(clips)
    for clip, codes in zip(clips, made, strict=True):
        assert np.array_equal(codes.codes, direct(clip.samples))
    seen = np.concatenate([codes.codes for codes in made])
    assert all(len(np.unique(column)) >= 20 for column in seen.T), "degenerate codebooks: the comparison shows nothing"


def refuses_what_does_not_fit(name: str, folder: Path, books: int, tmp_path: Path) -> None:
    """Codebooks that do not exist, a layer too many or a weight too few, another family, a name without weights."""
    with pytest.raises(UsageError, match=rf"num_codebooks must be 1 to {books}, not {books + 1}"):
        load_tokenizer(name, checkpoint=str(folder), num_codebooks=books + 1)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    config = json.loads((broken / "config.json").read_text())
    config["semantic_model_config"]["num_hidden_layers"] -= 1
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"knows fewer layers or codebooks: it has .* such as semantic"):
        load_tokenizer(name, checkpoint=str(broken))
    shutil.copy(folder / "config.json", broken)
    weights = load_file(broken / "model.safetensors")
    weights.pop(sorted(key for key in weights if "acoustic_encoder" in key)[0])
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="lacks 1 weights"):
        load_tokenizer(name, checkpoint=str(broken))
    with pytest.raises(UsageError, match=f"not 'mimi': use the tokenizer '{name}'"):
        load_tokenizer("mimi", checkpoint=str(folder))
    with pytest.raises(UsageError, match=r"config\.json"):
        load_tokenizer(name, checkpoint=str(tmp_path))


def one_weight_changes_the_fingerprint(name: str, folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(name, checkpoint=str(folder))
    shutil.copytree(folder, tmp_path / "touched")
    path = tmp_path / "touched/model.safetensors"
    weights = load_file(path)
    for key in (sorted(weights)[0], sorted(weights)[-1]):
        changed = {**weights, key: torch.nextafter(weights[key], torch.tensor(torch.inf))}
        save_file(changed, path, {"format": "pt"})
        other = load_tokenizer(name, checkpoint=str(tmp_path / "touched"))
        assert other.spec.fingerprint != tokenizer.spec.fingerprint
    save_file(weights, path, {"format": "pt"})
    assert load_tokenizer(name, checkpoint=str(path.parent)).spec.fingerprint == tokenizer.spec.fingerprint
