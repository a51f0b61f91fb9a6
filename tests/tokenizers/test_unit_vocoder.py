"""Unit vocoders against their authors' code (see `data/golden/unit_vocoder.md`), in pieces, and their refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slm.errors import UsageError
from slm.tokenizers._unit_vocoder import UnitVocoder, load_unit_vocoder
from slm.tokenizers.base import fingerprint
from tests.tokenizers.unit_vocoders import SEEDS, golden, write_vocoder


@pytest.fixture
def exact():
    """Networks are built in float64, so that the goldens' weights and their folded norms are not rounded."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def load(folder: Path, case: str, values: dict[str, Any] | None = None, **settings: Any) -> UnitVocoder:
    return load_unit_vocoder(str(write_vocoder(folder, case, **(values or {}))), **settings)


def assert_same(made: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(made, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", ["fairseq", "speechbrain-durations"])
def test_predicts_the_durations_and_audio_of_the_reference(case: str, exact: None, tmp_path: Path) -> None:
    vocoder, made = load(tmp_path, case), golden(case)
    assert vocoder.predicts_durations
    assert vocoder.predict_durations(made["units"]).tolist() == made["durations"].tolist()
    assert len(set(made["durations"].tolist())) > 2
    assert_same(vocoder.decode(made["units"], "predict"), made["audio"])
    assert_same(vocoder.decode(made["units"], made["durations"]), made["audio"])
    assert_same(vocoder.decode(np.repeat(made["units"], made["durations"], axis=0)), made["audio"])


def test_speakers_and_styles_are_those_of_the_reference(exact: None, tmp_path: Path) -> None:
    made = golden("textless")
    vocoder = load(tmp_path, "textless", speaker=int(made["speaker"]), style=int(made["style"]))
    assert_same(vocoder.decode(made["units"]), made["audio"])
    other = load_unit_vocoder(str(tmp_path), speaker=1, style=3)
    assert np.abs(other.decode(made["units"]) - made["audio"]).max() > 0.01
    assert fingerprint(other.identity()) != fingerprint(vocoder.identity())


def test_layers_are_pooled_as_by_the_reference(exact: None, tmp_path: Path) -> None:
    """Also where some layers are not given, and at six frames, the fewest that the reference can reflect."""
    made = golden("speechbrain")
    vocoder = load(tmp_path, "speechbrain", num_units=20)
    assert (vocoder.network.num_codebooks, vocoder.num_units) == (3, 20)
    assert_same(vocoder.decode(made["units"]), made["audio"])
    assert_same(vocoder.decode(made["units"][:6]), made["six_frames"])
    write_vocoder(tmp_path, "speechbrain", num_clusters=20, layer=[1, 3, 7])
    two = load_unit_vocoder(str(tmp_path), layers=[1, 3])
    assert_same(two.decode(made["units"][:, :2]), made["first_two"])
    swapped = load_unit_vocoder(str(tmp_path), layers=[3, 1])
    assert_same(swapped.decode(made["units"][:, [1, 0]]), made["first_two"])


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("case", SEEDS)
def test_the_shortest_units_make_audio_of_their_length(case: str, frames: int, tmp_path: Path) -> None:
    vocoder, made = load(tmp_path, case), golden(case)
    columns = made["units"][:frames, : vocoder.network.num_codebooks]
    audio = vocoder.decode(columns % vocoder.num_units)
    assert audio.shape == (frames * vocoder.hop_samples,)
    assert audio.dtype == np.float32
    assert audio.std() > 0
    assert vocoder.decode(columns[:0]).shape == (0,)


@pytest.mark.parametrize("case", SEEDS)
def test_long_units_in_pieces_are_one_pass(case: str, exact: None, tmp_path: Path) -> None:
    vocoder = load(tmp_path, case)
    reach = vocoder.network.model.generator.reach_frames
    units = np.random.default_rng(1).integers(0, vocoder.num_units, (5 * reach, vocoder.network.num_codebooks))
    whole = vocoder.decode(units)
    for vocoder.piece_frames in (1 + reach // 2, reach, 3 * reach):
        np.testing.assert_allclose(vocoder.decode(units), whole, atol=1e-13)


@pytest.mark.parametrize("case", SEEDS)
def test_the_reach_is_as_far_as_a_sample_sees(case: str, exact: None, tmp_path: Path) -> None:
    """Another unit in the middle changes no sample beyond the reach, and some close to its end."""
    vocoder = load(tmp_path, case)
    reach, hop = vocoder.network.model.generator.reach_frames, vocoder.hop_samples
    units = np.zeros((4 * reach + 1, vocoder.network.num_codebooks), np.int64)
    before = vocoder.decode(units)
    units[2 * reach] = 7
    changed = np.flatnonzero(vocoder.decode(units) != before) // hop - 2 * reach
    assert -reach <= changed.min() <= -reach + 4
    assert reach - 4 <= changed.max() <= reach


def test_the_identity_knows_each_weight_and_the_voice_not_the_place(tmp_path: Path) -> None:
    first = fingerprint(load(tmp_path / "a", "fairseq").identity())
    assert fingerprint(load(tmp_path / "b", "fairseq").identity()) == first
    state = torch.load(tmp_path / "b" / "model.pt")
    state["generator"]["ups.1.bias"][0] += 1e-3
    torch.save(state, tmp_path / "b" / "model.pt")
    assert fingerprint(load_unit_vocoder(str(tmp_path / "b")).identity()) != first


def test_names_of_other_publishers_are_found(tmp_path: Path) -> None:
    made = golden("fairseq")
    reference = load(tmp_path, "fairseq").decode(made["units"])
    names = (("lj_config.json", "lj.pt"), ("config.json", "g_00400000"), ("config.json", "hifigan_vocoder"))
    for config, weights in names:
        other = write_vocoder(tmp_path / weights, "fairseq")
        (other / "speakers.txt").write_text("lj")
        (other / "model.pt").rename(other / weights)
        (other / "config.json").rename(other / config)
        assert np.array_equal(load_unit_vocoder(str(other)).decode(made["units"]), reference)


@pytest.mark.parametrize("case", ["fairseq", "speechbrain"])
def test_both_formats_are_found_on_the_hub(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_vocoder(tmp_path, case)

    def hub(repository: str, name: str) -> str:
        if not (folder / name).is_file():
            raise OSError(f"404: no {name} in {repository}")
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    found = load_unit_vocoder("some/vocoder")
    assert fingerprint(found.identity()) == fingerprint(load_unit_vocoder(str(folder)).identity())


def test_layers_that_are_not_the_vocoders_are_refused(tmp_path: Path) -> None:
    for values, layers, complaint in (
        (
            {"num_clusters": 20, "layer": [1, 3, 7]},
            [1, 4],
            r"units of layers \[1, 3, 7\] into audio, not of .*\[1, 4\]",
        ),
        ({"num_clusters": 20}, [1, 3], "of 3 layers at once"),
        ({"num_clusters": 10}, [1, 2], r"layers \[1, 3, 7, 12, 18, 23\]"),  # six codebooks, as those published
    ):
        write_vocoder(tmp_path, "speechbrain", **values)
        with pytest.raises(UsageError, match=complaint):
            load_unit_vocoder(str(tmp_path), layers=layers)
    assert load_unit_vocoder(str(tmp_path), layers=[3, 23]).columns == (1, 5)
    with pytest.raises(UsageError, match="of 1 layer into"):
        load(tmp_path / "f", "fairseq", layers=[1, 2])


def test_bad_units_and_durations_are_refused(tmp_path: Path) -> None:
    fairseq = load(tmp_path / "f", "fairseq")
    speechbrain = load(tmp_path / "s", "speechbrain", num_units=20)
    units = np.zeros((3, 1), np.int64)
    for vocoder, bad in ((fairseq, units + 50), (fairseq, units - 1), (speechbrain, np.full((3, 3), 20))):
        with pytest.raises(ValueError, match="within 0 and"):
            vocoder.decode(bad)
    for vocoder, bad in (
        (fairseq, np.zeros((3, 2), int)),
        (fairseq, units[:, 0]),
        (speechbrain, np.zeros((3, 4), int)),
    ):
        with pytest.raises(ValueError, match="of shape"):
            vocoder.decode(bad)
    for durations in (np.ones(2, int), np.array([1, -1, 1]), np.ones(3)):
        with pytest.raises(ValueError, match="durations"):
            fairseq.decode(units, durations)
    with pytest.raises(UsageError, match="predicts no durations"):
        speechbrain.decode(units, "predict")


@pytest.mark.parametrize(
    ("case", "values", "complaint"),
    [
        ("fairseq", {"f0": True}, r"more than units \(f0\)"),
        ("fairseq", {"embedder_params": {"n": 1}, "lambda_commit_code": 1}, r"\(embedder_params, lambda_commit_code\)"),
        ("fairseq", {"model_in_dim": 16}, r"more than units \(16 inputs\)"),
        ("fairseq", {"resblock": "2"}, "only type 1"),
        ("fairseq", {"num_embeddings": 10**12}, r"units\.weight as \(50, 8\), not \(1000000000000, 8\)"),
        ("fairseq", {"dur_predictor_params": None}, "has besides 10 weights"),
        ("fairseq", {"upsample_rates": 5}, "does not describe a unit vocoder"),
        ("speechbrain", {"multi_speaker": True}, r"more than units \(multi_speaker\)"),
        ("speechbrain", {"skip_token_embedding": True, "cond_channels": 8}, r"\(skip_token_embedding, cond_channels\)"),
        ("speechbrain", {"resblock_type": "2"}, "only type 1"),
        ("speechbrain", {"num_clusters": 7}, "no whole number of codebooks of 7"),
        ("speechbrain", {"num_clusters": 20, "layer": [1, 3]}, r"not one for each of its layers \[1, 3\]"),
        ("speechbrain", {"vocab_size": 1 + 6 * 10**11}, r"not fit .*units\.weight as .*, not \(600000000001, 12\)"),
        ("speechbrain", {"pooling_type": "sum"}, r"has besides 3 weights \(attention\.0\.bias"),
    ],
)
def test_what_does_not_fit_is_named(case: str, values: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=complaint):
        load(tmp_path, case, values)


def test_broken_checkpoints_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, complaint in (({"speaker": 4}, "has 4 speakers"), ({"style": -1}, "has 5 styles")):
        with pytest.raises(UsageError, match=complaint):
            load(tmp_path / "t", "textless", **settings)
    with pytest.raises(UsageError, match="has 1 speaker, from 0"):
        load(tmp_path / "f", "fairseq", speaker=1)
    state = torch.load(tmp_path / "f" / "model.pt")
    del state["generator"]["conv_post.bias"]
    torch.save(state, tmp_path / "f" / "model.pt")
    with pytest.raises(UsageError, match=r"lacks 1 weights \(generator\.conv_post\.bias\)"):
        load_unit_vocoder(str(tmp_path / "f"))
    (tmp_path / "f" / "config.json").write_text(json.dumps([1]))
    with pytest.raises(UsageError, match="does not describe"):
        load_unit_vocoder(str(tmp_path / "f"))
    (tmp_path / "f" / "config.json").unlink()
    with pytest.raises(UsageError, match=r"must hold one unit vocoder.*found: model\.pt"):
        load_unit_vocoder(str(tmp_path / "f"))
    (tmp_path / "f" / "hyperparams.yaml").write_text("generator: 1")
    with pytest.raises(UsageError, match=r"lacks generator\.ckpt"):
        load_unit_vocoder(str(tmp_path / "f"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", _unreachable)
    with pytest.raises(
        UsageError, match=r"hf download some/vocoder .*config\.json model\.pt.* or .*hyperparams\.yaml generator\.ckpt"
    ):
        load_unit_vocoder("some/vocoder")


def _unreachable(repository: str, name: str) -> str:
    raise OSError("no network")
