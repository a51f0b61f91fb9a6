"""SpeechTokenizer against the authors' code (tests/data/golden/speechtokenizer.md), and what our own code promises."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers.laws import batching_law, long_audio_law, tokenizer_law
from slm.tokenizers.speechtokenizer import PUBLISHED, SpeechTokenizer, _inference_weights, _network, build
from slm.types import AudioClip
from tests.tokenizers.seeded import seeded_tensor
from tests.tokenizers.speech import real_clips

ROOT = Path(__file__).parents[2]
GOLDEN = np.load(ROOT / "tests/data/golden/speechtokenizer.npz")
FORMS = ("elu", "snake")
SMALL = {"n_filters": 4, "dimension": 24, "codebook_size": 64, "n_q": 3}


def published_state(form: str) -> dict[str, torch.Tensor]:
    """Every tensor of floats in the authors' state dict, by their names, in the values that made the golden arrays."""
    named = json.loads(str(GOLDEN[f"{form}_state"]))
    return {name: torch.from_numpy(np.asarray(seeded_tensor(name, tuple(shape), 7))) for name, shape in named}


@pytest.fixture(scope="module", params=FORMS)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, SpeechTokenizer]:
    """The authors' checkpoint, read by us, and computed in float64 as they were."""
    form, folder = request.param, tmp_path_factory.mktemp(request.param)
    state = published_state(form)
    (folder / "config.json").write_text(str(GOLDEN[f"{form}_config"]))
    torch.save({name: value.float() for name, value in state.items()}, folder / "SpeechTokenizer.pt")
    tokenizer = SpeechTokenizer(checkpoint=str(folder))
    config = json.loads(str(GOLDEN[f"{form}_config"]))
    tokenizer.model = build(config, _inference_weights(state, folder), "golden")
    return form, tokenizer


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speechtokenizer") / "small"
    SpeechTokenizer.write_untrained(folder, **SMALL)
    return folder


def fingerprint_of(folder: Path) -> str:
    return SpeechTokenizer(checkpoint=str(folder)).spec.fingerprint


def golden_clips(form: str) -> list[tuple[int, AudioClip]]:
    """The six clips that the authors' code was run on: starts of real speech, down to one sample."""
    sources = real_clips(16_000, 3)
    made = []
    for i, source in enumerate([*sources, sources[0], sources[0], sources[0]]):
        samples = source.samples[4000 : 4000 + int(GOLDEN[f"{form}_{i}_length"][0])]
        made.append((i, AudioClip(str(i), samples, 16_000)))
    return made


def test_codes_are_those_of_the_authors_code(golden: tuple[str, SpeechTokenizer]) -> None:
    form, tokenizer = golden
    seen = []
    for i, clip in golden_clips(form):
        [made] = tokenizer.encode([clip])
        assert np.array_equal(made.codes, GOLDEN[f"{form}_{i}_codes"])
        seen.append(made.codes)
    assert all(len(np.unique(column)) >= 20 for column in np.concatenate(seen).T)


def test_audio_is_that_of_the_authors_code(golden: tuple[str, SpeechTokenizer]) -> None:
    form, tokenizer = golden
    for i, _ in golden_clips(form):
        audio = tokenizer._decode(GOLDEN[f"{form}_{i}_codes"])
        assert len(audio) == GOLDEN[f"{form}_{i}_length"][1]
        start = GOLDEN[f"{form}_{i}_audio"]
        np.testing.assert_allclose(audio[: len(start)], start, rtol=1e-9, atol=1e-12)
        if f"{form}_{i}_tail" in GOLDEN:
            tail = GOLDEN[f"{form}_{i}_tail"]
            np.testing.assert_allclose(audio[-len(tail) :], tail, rtol=1e-9, atol=1e-12)


def test_keeps_the_law(untrained: Path) -> None:
    tokenizer_law(load_tokenizer("speechtokenizer", checkpoint=str(untrained)), real_clips(16_000, 3))


@pytest.mark.parametrize("pieces_per_block", [1, 2])
def test_long_clips_are_exact_although_the_lstm_runs_both_ways(untrained: Path, pieces_per_block: int) -> None:
    tokenizer = SpeechTokenizer(checkpoint=str(untrained))
    tokenizer.pieces_per_block = pieces_per_block
    clip = real_clips(16_000, 1)[0]
    clip = AudioClip("long", clip.samples[: 2 * 16_000 + 7], 16_000)
    long_audio_law(tokenizer, clip)
    codes = tokenizer.encode([clip])[0]
    tokenizer.piece_s = 60
    whole = tokenizer.decode(codes).samples
    tokenizer.piece_s = 0.3
    np.testing.assert_allclose(tokenizer.decode(codes).samples, whole, atol=1e-6)
    assert np.abs(whole).max() > 0


def test_the_untrained_form_is_the_published_one(untrained: Path, tmp_path: Path) -> None:
    with torch.device("meta"):
        parameters = sum(p.numel() for p in _network(PUBLISHED).parameters())
    transform = (1024 + 1) * 768  # to HuBERT's features, in training only
    assert (parameters + transform) / 1e6 == pytest.approx(103.7, abs=0.05)  # table 2 of arXiv 2506.10274
    SpeechTokenizer.write_untrained(tmp_path / "again", **SMALL)
    assert fingerprint_of(tmp_path / "again") == fingerprint_of(untrained)
    SpeechTokenizer.write_untrained(tmp_path / "other", seed=1, **SMALL)
    assert fingerprint_of(tmp_path / "other") != fingerprint_of(untrained)


def test_spec_of_the_published_form(untrained: Path) -> None:
    spec = load_tokenizer("speechtokenizer", checkpoint=str(untrained), num_codebooks=2).spec
    assert (spec.sample_rate_hz, spec.hop_samples, spec.codebook_sizes) == (16_000, 320, (64, 64))
    assert spec.semantic_codebooks == (0,)
    assert [spec.num_frames(n) for n in (0, 1, 320, 321)] == [0, 1, 1, 2]


def test_one_weight_or_one_setting_changes_the_fingerprint(untrained: Path, tmp_path: Path) -> None:
    def fingerprint_with(change_weight: bool, **settings: Any) -> str:
        folder = tmp_path / f"{change_weight}{settings}"
        shutil.copytree(untrained, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **settings}))
        state = torch.load(folder / "SpeechTokenizer.pt", weights_only=True)
        state["encoder.model.0.conv.conv.bias"][0] += 1e-3 * change_weight
        state["transform.weight"] = torch.ones(2, 2)  # only training needs it
        torch.save(state, folder / "SpeechTokenizer.pt")
        return fingerprint_of(folder)

    first = fingerprint_of(untrained)
    assert fingerprint_with(False) == first
    assert fingerprint_with(True) != first
    assert fingerprint_with(False, sample_rate=8000) != first


def test_what_does_not_fit_is_refused(untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(untrained, folder)
    state = torch.load(folder / "SpeechTokenizer.pt", weights_only=True)
    torch.save({n: t for n, t in state.items() if n != "decoder.model.0.conv.conv.bias"}, folder / "SpeechTokenizer.pt")
    with pytest.raises(UsageError, match=r"lacks 1 weights \(decoder"):
        SpeechTokenizer(checkpoint=str(folder))
    torch.save({n: t for n, t in state.items() if not n.endswith("weight_g")}, folder / "SpeechTokenizer.pt")
    with pytest.raises(UsageError, match="lacks"):
        SpeechTokenizer(checkpoint=str(folder))
    torch.save({"layer": torch.ones(3)}, folder / "SpeechTokenizer.pt")
    with pytest.raises(UsageError, match="no SpeechTokenizer"):
        SpeechTokenizer(checkpoint=str(folder))
    config = json.loads((folder / "config.json").read_text())
    shutil.copy(untrained / "SpeechTokenizer.pt", folder)
    (folder / "config.json").write_text(json.dumps({**config, "codebook_size": 10**12}))
    with pytest.raises(UsageError, match=r"does not fit .* not \(1000000000000, 24\)"):
        SpeechTokenizer(checkpoint=str(folder))
    for changes in ({"activation": "ReLU"}, {"lstm_layers": 0}, {"dilation_base": 0}):
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(UsageError, match=f"{next(iter(changes))} must be"):
            SpeechTokenizer(checkpoint=str(folder))
    (folder / "config.json").write_text('{"n_filters": 4}')
    with pytest.raises(UsageError, match="lacks strides"):
        SpeechTokenizer(checkpoint=str(folder))
    with pytest.raises(UsageError, match="num_codebooks must be 1 to 3"):
        SpeechTokenizer(checkpoint=str(untrained), num_codebooks=4)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="hf download fnlp/SpeechTokenizer"):
        SpeechTokenizer()


def test_the_tokenizer_file_is_that_of_the_release(untrained: Path) -> None:
    config = str(ROOT / "configs/tokenizers/speechtokenizer.yaml")
    assert load_tokenizer(config, checkpoint=str(untrained), num_codebooks=2).spec.name == "speechtokenizer"


def test_clips_share_batches_and_keep_their_codes(untrained: Path) -> None:
    exact, batched = (SpeechTokenizer(checkpoint=str(untrained)) for _ in range(2))
    batched.use_mode("batched")
    batched.batch_s = {"cpu": 8.0}
    batching_law(exact, batched, real_clips(16_000, 2))


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_filters", "4"), ("n_filters", None), ("strides", 8), ("dimension", -1), ("codebook_size", [64]), ("n_q", 1.5)],
)
def test_a_field_of_the_wrong_type_is_one_line(untrained: Path, tmp_path: Path, key: str, value: Any) -> None:
    shutil.copytree(untrained, tmp_path / "x")
    config = json.loads((untrained / "config.json").read_text())
    (tmp_path / "x/config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(UsageError, match=r"cannot be made of checkpoint=.* not what it needs") as error:
        load_tokenizer("speechtokenizer", checkpoint=str(tmp_path / "x"))
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is not None


@pytest.mark.parametrize("name", ["quantizer.vq.layers.1._codebook.embed", "encoder.model.0.conv.conv.bias"])
def test_a_weight_of_nan_is_named(untrained: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(untrained, tmp_path / "x")
    state = torch.load(untrained / "SpeechTokenizer.pt", weights_only=True)
    state[name].view(-1)[0] = float("nan")
    torch.save(state, tmp_path / "x/SpeechTokenizer.pt")
    with pytest.raises(UsageError, match=r"is damaged: its weight .* holds NaN"):
        load_tokenizer("speechtokenizer", checkpoint=str(tmp_path / "x"))
