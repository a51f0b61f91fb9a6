"""Units of clips that share a tensor: those of each clip alone, whatever the encoder does along the whole of a clip."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers._batched import code_mismatch
from slm.tokenizers._catalogue import modes_of
from slm.tokenizers._encoders import load_encoder
from slm.tokenizers._kmeans import Centroids
from slm.tokenizers.database import find_records
from slm.tokenizers.laws import batching_law, tokenizer_law
from slm.tokenizers.ssl_kmeans import SslKmeansTokenizer
from slm.types import AudioClip
from tests.tokenizers.speech import real_clips
from tests.tokenizers.speech_encoders import WIDTH, conv_config, randomized, save_encoders, small_mhubert

NAMES = [
    *("hubert-group", "wavlm-layer", "25-hz", "batch-norm", "bert", "whisper"),
    *(pytest.param(name, marks=pytest.mark.thorough) for name in ("hubert-layer", "wavlm-group", "wav2vec2-group")),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small encoders of every form; positions by a kernel of 128 frames, as published, and one that is odd."""
    root = tmp_path_factory.mktemp("encoders")
    made = save_encoders(root)
    wide = {"num_conv_pos_embeddings": 128}
    normed = conv_config(HubertConfig, stable=False)
    normed.update({"conv_pos_batch_norm": True, "num_conv_pos_embeddings": 15})  # as mHuBERT-147
    for name, model in {"25-hz": small_mhubert(), "batch-norm": HubertModel(normed)}.items():
        made[name] = root / name
        with torch.random.fork_rng():
            torch.manual_seed(3)
            randomized(model).save_pretrained(root / name)
        Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(root / name)
    config = conv_config(HubertConfig, stable=False)
    config.update(wide)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        randomized(HubertModel(config)).save_pretrained(made["hubert-group"])
        for folder in made.values():
            _write_centroids(folder)
    return made


def _write_centroids(folder: Path) -> None:
    """Frames of speech, so that its units are many."""
    encoder = load_encoder(str(folder), [1, 3])
    frames = torch.cat([encoder.features(clip.samples[:16_000]) for clip in real_clips(16_000)], dim=1)
    chosen = torch.randperm(frames.shape[1])[:60]
    for layer, of_layer in zip((1, 3), frames[:, chosen], strict=True):
        Centroids(of_layer, torch.zeros(WIDTH), torch.ones(WIDTH)).save(folder / f"L{layer}.safetensors")


@pytest.fixture
def load(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Units of layers 1 and 3, in batches of 8 s, where a CPU would take clips one by one."""
    monkeypatch.setattr(SslKmeansTokenizer, "batch_s", {"cpu": 8.0})

    def loaded(name: str, mode: str, **settings: Any) -> Any:
        centroids = str(folders[name] / "L{layer}.safetensors")
        return load_tokenizer(
            "ssl-kmeans", mode=mode, encoder=str(folders[name]), layer=[1, 3], centroids=centroids, **settings
        )

    return loaded


def short_clips(count: int) -> list[AudioClip]:
    return [replace(clip, samples=clip.samples[:32_000]) for clip in real_clips(16_000, count)]


@pytest.mark.parametrize("name", NAMES)
def test_units_of_a_batch_are_those_of_its_clips(load: Callable[..., Any], name: str) -> None:
    exact, clips = load(name, "exact"), short_clips(1)
    batching_law(exact, load(name, "batched"), clips)
    assert len(np.unique(exact.encode(clips)[0].codes, axis=0)) > 20


@pytest.mark.parametrize("settings", [{"padding_samples": 40, "input_norm": "layer-norm"}, {"max_window_s": 0.7}])
def test_so_are_those_of_padded_clips_and_of_windows(load: Callable[..., Any], settings: dict[str, Any]) -> None:
    batching_law(load("hubert-group", "exact", **settings), load("hubert-group", "batched", **settings), short_clips(1))


def test_no_neighbour_changes_a_unit(load: Callable[..., Any]) -> None:
    tokenizer_law(load("hubert-group", "batched"), short_clips(2))


def test_clips_too_short_for_a_batch_and_longer_than_one(load: Callable[..., Any]) -> None:
    exact, batched = (load("hubert-layer", mode) for mode in ("exact", "batched"))
    speech = np.tile(np.concatenate([clip.samples for clip in real_clips(16_000)]), 2)
    clips = [AudioClip(str(n), speech[:n], 16_000) for n in (399, 400, 15 * 320 + 79, 15 * 320 + 80, 8 * 16_000 + 700)]
    for alone, together in zip(exact.encode(clips), batched.encode(clips), strict=True):
        assert len(alone.codes) == len(together.codes) == exact.spec.num_frames(int(alone.id))
        assert (alone.codes != together.codes).mean() < 0.02 if len(alone.codes) else True


@pytest.mark.parametrize("name", ["bert", "whisper"])
def test_clips_of_spectra_about_as_long_as_shares_of_a_tensor(load: Callable[..., Any], name: str) -> None:
    """A sample more or less than a frame or a log-mel frame of it, with clips of under 16 frames among them."""
    exact, batched = (load(name, mode) for mode in ("exact", "batched"))
    for each in (exact, batched):
        each.model.double()
    speech = np.tile(np.concatenate([clip.samples for clip in real_clips(16_000)]), 2)
    sizes = [f * 320 + more for f in (15, 16, 25, 50, 400) for more in (-241, -80, -1, 0, 1, 80, 160, 240)]
    clips = [AudioClip(str(n), speech[37 * i :][:n], 16_000) for i, n in enumerate(sizes)]
    for alone, together in zip(exact.encode(clips), batched.encode(clips), strict=True):
        assert np.array_equal(alone.codes, together.codes), alone.id


def test_a_copy_has_the_same_units(load: Callable[..., Any]) -> None:
    tokenizer, clips = load("wav2vec2-group", "batched"), short_clips(2)
    for before, after in zip(tokenizer.encode(clips), copy.deepcopy(tokenizer).encode(clips), strict=True):
        assert np.array_equal(before.codes, after.codes)


def test_encoders_compute_in_bfloat16_and_centroids_do_not(load: Callable[..., Any]) -> None:
    exact, fast = (load("hubert-layer", mode) for mode in ("exact", "bf16"))
    assert {p.dtype for p in fast.model.parameters()} == {torch.bfloat16}
    assert {c.centroids.dtype for c in fast.centroids} == {torch.float32}
    clips = [*short_clips(2), AudioClip("short", short_clips(1)[0].samples[:900], 16_000)]
    assert 0 < code_mismatch(fast.encode(clips), exact.encode(clips)) < 0.5
    assert "on a CPU" in fast.spec.taxonomy["mode"]


def test_positions_of_a_kind_that_is_not_published_have_exact_alone(tmp_path: Path, folders: dict[str, Path]) -> None:
    shutil.copytree(folders["bert"], tmp_path / "bert")
    config = json.loads((tmp_path / "bert/config.json").read_text())
    config["position_embeddings_type"] = "rotary"
    (tmp_path / "bert/config.json").write_text(json.dumps(config))
    settings = {"encoder": str(tmp_path / "bert"), "layer": 1, "centroids": str(tmp_path / "bert/L1.safetensors")}
    assert list(load_tokenizer("ssl-kmeans", **settings).modes) == ["exact"]
    with pytest.raises(UsageError, match="no mode 'batched', only exact"):
        load_tokenizer("ssl-kmeans", mode="batched", **settings)


def test_the_page_tells_modes_of_all_encoders() -> None:
    told = {name: list(modes_of(find_records(name)[0])) for name in ("w2v-bert-2-l17", "mhubert-25hz")}
    assert all(modes == ["exact", "batched", "tf32", "bf16"] for modes in told.values())
