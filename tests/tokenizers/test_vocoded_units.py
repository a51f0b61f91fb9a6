"""k-means units with a way back: a tiny random encoder, random centroids, and unit vocoders that fit them or do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from slm.errors import UsageError
from slm.model.backbone import build_causal_lm
from slm.model.checkpoint import ModelRecord, save_model
from slm.model.statistics import CodeStatistics
from slm.spoken_lm import load_lm
from slm.tokenizers import load_tokenizer
from slm.tokenizers._encoders import load_encoder
from slm.tokenizers._kmeans import Centroids
from slm.tokenizers._unit_vocoder import load_unit_vocoder
from slm.tokenizers.laws import tokenizer_law
from slm.types import AudioClip
from slm.units import deduplicate
from tests.fakes import TINY_BACKBONE
from tests.tokenizers.speech import real_clips
from tests.tokenizers.unit_vocoders import write_vocoder

ROOT = Path(__file__).parents[2]
KINDS: dict[str, dict[str, Any]] = {  # golden case of the vocoder -> units that fit it
    "fairseq": {"hop": 320, "k": 50, "layer": 1},
    "textless": {"hop": 40, "k": 30, "layer": 1},
    "speechbrain": {"hop": 40, "k": 20, "layer": [0, 1, 2]},
}
CONVOLUTIONS = {  # hop -> strides and kernels: HuBERT's own, and those of a faster one
    320: {"conv_stride": [5, 2, 2, 2, 2, 2, 2], "conv_kernel": [10, 3, 3, 3, 3, 2, 2]},
    40: {"conv_stride": [5, 2, 2, 2, 1, 1, 1], "conv_kernel": [5, 2, 2, 2, 1, 1, 1]},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Settings of a tokenizer, vocoder included, for each kind."""
    root, made = tmp_path_factory.mktemp("units"), {}
    for kind, about in KINDS.items():
        encoder = save_encoder(root / f"hubert-{about['hop']}", CONVOLUTIONS[about["hop"]])
        layers = about["layer"] if isinstance(about["layer"], list) else [about["layer"]]
        for layer in layers:
            save_centroids(root / f"{kind}-{layer}.safetensors", encoder, layer, about["k"])
        values = {"layer": layers} if kind == "speechbrain" else {}
        made[kind] = {
            "encoder": str(encoder),
            "layer": about["layer"],
            "centroids": str(root / f"{kind}-{{layer}}.safetensors"),
            "vocoder": str(write_vocoder(root / kind, kind, **values)),
        }
    return made


def save_encoder(folder: Path, convolutions: dict[str, list[int]]) -> Path:
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7,
        **convolutions, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def save_centroids(path: Path, encoder: Path, layer: int, k: int) -> None:
    """Frames of speech themselves, so that most of them are used."""
    frames = load_encoder(str(encoder), layer)
    features = torch.cat([window[0] for clip in clips() for window in frames.windows(clip.samples)])
    rows = torch.randperm(len(features), generator=torch.Generator().manual_seed(1))[:k]
    Centroids(features[rows].clone(), torch.zeros(24), torch.ones(24)).save(path)


def clips() -> list[AudioClip]:
    """Of different lengths, half a second and more."""
    return [
        AudioClip(clip.id, clip.samples[8_000 : 16_500 + 777 * i].copy(), 16_000)
        for i, clip in enumerate(real_clips(16_000, 3))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_units_with_a_vocoder_keep_the_law(kind: str, settings: dict[str, dict[str, Any]]) -> None:
    tokenizer = load_tokenizer("ssl-kmeans", **settings[kind])
    assert tokenizer.spec.has_decoder
    assert tokenizer.spec.num_codebooks == (3 if kind == "speechbrain" else 1)
    tokenizer_law(tokenizer, clips())


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_files_say_what_can_be_said(kind: str, settings: dict[str, dict[str, Any]]) -> None:
    files = {"fairseq": "mhubert-25hz", "textless": "hubert-base-l9", "speechbrain": "discrete-wavlm-large"}
    file = ROOT / f"configs/tokenizers/{files[kind]}-vocoder.yaml"
    tokenizer = load_tokenizer(str(file), **settings[kind])
    assert tokenizer.spec.has_decoder
    assert len(yaml.safe_load(file.read_text(encoding="utf-8"))["vocoder"]) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_audio_is_the_vocoders_frame_by_frame(kind: str, settings: dict[str, dict[str, Any]]) -> None:
    tokenizer = load_tokenizer("ssl-kmeans", **settings[kind])
    vocoder = load_unit_vocoder(settings[kind]["vocoder"], num_units=KINDS[kind]["k"])
    for codes in tokenizer.encode(clips()):
        made, expected = tokenizer.decode(codes), vocoder.decode(codes.codes)
        length = min(len(expected), codes.num_samples)
        assert np.array_equal(made.samples[:length], expected[:length])
        assert 0 <= codes.num_samples - length < 2 * tokenizer.spec.hop_samples + 400


def test_some_layers_are_decoded_as_those_of_the_vocoder(settings: dict[str, dict[str, Any]]) -> None:
    whole = load_tokenizer("ssl-kmeans", **settings["speechbrain"])
    for layer, columns in (([1, 2], [1, 2]), ([2], [2])):
        part = load_tokenizer("ssl-kmeans", **{**settings["speechbrain"], "layer": layer})
        assert part.vocoder.columns == tuple(columns)
        codes = part.encode(clips()[:1])[0]
        assert np.array_equal(codes.codes, whole.encode(clips()[:1])[0].codes[:, columns])
        assert part.decode(codes).samples.std() > 0


def test_a_vocoder_has_no_part_in_the_codes(settings: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """The same fingerprint without it, and codes made without it are decoded; its own tells it from another."""
    with_it = load_tokenizer("ssl-kmeans", **settings["textless"])
    without = load_tokenizer("ssl-kmeans", **{**settings["textless"], "vocoder": None})
    other = load_tokenizer("ssl-kmeans", **settings["textless"], vocoder_speaker=2)
    assert with_it.spec.fingerprint == without.spec.fingerprint == other.spec.fingerprint
    marks = [t.spec.decoder_fingerprint for t in (without, with_it, other)]
    assert marks[0] == ""
    assert len(set(marks)) == 3
    codes = without.encode(clips()[:1])[0]
    with pytest.raises(UsageError, match="no decoder"):
        without.decode(codes)
    audio = [t.decode(codes).samples for t in (with_it, other)]
    assert np.abs(audio[0] - audio[1]).max() > 0.01
    assert load_tokenizer(without.spec, vocoder=settings["textless"]["vocoder"]).spec == with_it.spec


def test_a_spec_reloads_its_own_vocoder_only(settings: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    vocoder = write_vocoder(tmp_path / "v", "fairseq")
    spec = load_tokenizer("ssl-kmeans", **{**settings["fairseq"], "vocoder": str(vocoder)}).spec
    assert load_tokenizer(spec).spec == spec
    state = torch.load(vocoder / "model.pt")
    state["generator"]["conv_post.bias"] += 0.1
    torch.save(state, vocoder / "model.pt")
    with pytest.raises(UsageError, match="its vocoder is another than it was"):
        load_tokenizer(spec)
    assert load_tokenizer(spec, vocoder=str(vocoder)).spec.fingerprint == spec.fingerprint


def test_durations_are_predicted_where_the_vocoder_can(settings: dict[str, dict[str, Any]]) -> None:
    can, cannot = (load_tokenizer("ssl-kmeans", **settings[kind]) for kind in ("fairseq", "textless"))
    units = deduplicate(can.encode(clips()[:1])[0].codes)[0]
    predicted = can.predict_durations(units)
    assert predicted.shape == (len(units),)
    assert predicted.min() >= 1
    assert cannot.predict_durations(units % 30) is None


def test_a_model_of_units_without_a_decoder_speaks_when_given_a_vocoder(
    settings: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """A continuation of deduplicated units lasts as long as the vocoder predicts, and is the audio of its codes."""
    spec = load_tokenizer("ssl-kmeans", **{**settings["fairseq"], "vocoder": None}).spec
    record = ModelRecord(spec, "flat", dedup=True)
    codes = [c.codes for c in load_tokenizer(spec).encode(clips())]
    statistics = CodeStatistics.measure(record.units, [(deduplicate(c)[0], c) for c in codes])
    save_model(tmp_path, build_causal_lm(TINY_BACKBONE, record.make_pattern(), 0), record, statistics)
    mute, lm = load_lm(tmp_path), load_lm(tmp_path, vocoder=settings["fairseq"]["vocoder"])
    assert lm.fingerprint == mute.fingerprint
    clip = clips()[0]
    with pytest.raises(UsageError, match="no decoder"):
        mute.continue_clip(clip, seconds=0.4, seed=0)
    prompt = lm.tokenizer.encode([clip])[0]
    made = lm.continue_codes(prompt, seconds=4, seed=0, may_stop=False)
    assert len(made.codes) == len(prompt.codes) + 200
    spoken = lm.continue_clip(clip, seconds=4, seed=0, may_stop=False)
    assert np.array_equal(spoken.samples, lm.tokenizer.decode(made).samples)
    units, lasting = deduplicate(made.codes)
    new = slice(len(deduplicate(prompt.codes)[0]) + 1, len(units) - 3)  # the ends merge with neighbours, or are cut
    assert len(set(lasting[new].tolist())) > 2
    assert lasting[new].tolist() == lm.tokenizer.predict_durations(units)[new].tolist()


def test_vocoders_that_do_not_fit_are_refused(settings: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    wrong_rate = write_vocoder(tmp_path / "rate", "fairseq", sampling_rate=22_050)
    one_layer = write_vocoder(tmp_path / "one", "speechbrain", layer=[1])
    cases = [
        (
            "textless",
            {
                "vocoder": settings["speechbrain"]["vocoder"],
                "layer": 2,
                "centroids": settings["textless"]["centroids"].replace("{layer}", "1"),
            },
            "for 20 units, .* makes 30",
        ),
        ("fairseq", {"vocoder": settings["textless"]["vocoder"]}, "for 30 units, each of 40 .* makes 50, of 320"),
        ("textless", {"vocoder": settings["fairseq"]["vocoder"]}, "for 50 units, each of 320 .* makes 30, of 40"),
        ("fairseq", {"vocoder": str(wrong_rate)}, "samples at 22050 Hz; this tokenizer .* at 16000 Hz"),
        ("textless", {"vocoder": str(one_layer)}, "for 60 units, .* makes 30"),
        ("speechbrain", {"vocoder": settings["textless"]["vocoder"]}, r"of 1 layer into audio, not of .*\[0, 1, 2\]"),
        ("textless", {"vocoder_speaker": 9}, "has 4 speakers"),
        ("fairseq", {"vocoder": str(tmp_path / "nowhere")}, "no such folder"),
    ]
    for kind, changes, complaint in cases:
        with pytest.raises(UsageError, match=complaint):
            load_tokenizer("ssl-kmeans", **{**settings[kind], **changes})
