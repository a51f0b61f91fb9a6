"""SQ-Codec against SpeechBrain's code (tests/data/golden/sq-codec.md), and what our own code promises."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers.laws import long_audio_law, tokenizer_law
from slm.tokenizers.sq_codec import ARCHIVE, CODEBOOK_SIZE, CONFIG, WEIGHTS, SQCodecTokenizer, build
from slm.types import AudioClip
from tests.tokenizers.seeded import seeded_tensor
from tests.tokenizers.speech import real_clips

ROOT = Path(__file__).parents[2]
GOLDEN = np.load(ROOT / "tests/data/golden/sq-codec.npz")
FORMS = ("causal", "same")
SEED, LENGTHS = 5, (20_807, 4_007, 3_200, 321, 1)


def published_state(names: list[tuple[str, list[int]]], gain: float) -> dict[str, torch.Tensor]:
    """Seeded weights by the reference's names, but for the PReLU that all strides share, which is in the state once
    for each, and a gain that makes all three levels common."""
    state = {name: torch.from_numpy(np.asarray(seeded_tensor(name, tuple(shape), SEED))) for name, shape in names}
    shared = [name for name in state if name.endswith("down_conv.activation.weight")]
    last = max((name for name in state if name.startswith("encoder.")), key=lambda name: int(name.split(".")[1]))
    state |= dict.fromkeys(shared, state[shared[0]])
    state[f"encoder.{last.split('.')[1]}.weight_g"] *= gain
    return state


def golden_clips() -> list[AudioClip]:
    """Starts of real speech, four times as loud; the shortest of one sample."""
    clips = real_clips(16_000, 3)
    samples = [4 * clips[i % 3].samples[4000 : 4000 + n] for i, n in enumerate(LENGTHS)]
    return [AudioClip(str(len(each)), each, 16_000) for each in samples]


def published_form(form: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    return json.loads(str(GOLDEN[f"{form}.config"])), published_state(
        json.loads(str(GOLDEN[f"{form}.state"])), float(GOLDEN[f"{form}.gain"])
    )


def write_checkpoint(folder: Path, config: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
    (folder / CONFIG).write_text(yaml.safe_dump({"generator": {"config": config}, "seed": 1}))
    torch.save({"codec_model": {name: value.float() for name, value in state.items()}, "epoch": 3}, folder / WEIGHTS)


@pytest.fixture(scope="module", params=FORMS)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, SQCodecTokenizer]:
    """The reference's checkpoint, read by us, and computed in float64 as it was."""
    config, state = published_form(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(folder, config, state)
    tokenizer = SQCodecTokenizer(checkpoint=str(folder))
    tokenizer.model = build(config, state, "golden")
    return request.param, tokenizer


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sq-codec") / "small"
    SQCodecTokenizer.write_untrained(folder, init_channel=4)
    return folder


def test_codes_are_those_of_the_reference(golden: tuple[str, SQCodecTokenizer]) -> None:
    form, tokenizer = golden
    for codes in tokenizer.encode(golden_clips()):
        assert np.array_equal(codes.codes, GOLDEN[f"{form}.{codes.id}.codes"])
    longest = GOLDEN[f"{form}.{LENGTHS[0]}.codes"]
    assert all(len(np.unique(column)) >= 20 for column in longest.T)
    digits = longest[..., None] // 3 ** np.arange(9) % 3
    assert np.bincount(digits.ravel(), minlength=3).min() > 0.1 * digits.size, "a level is rare: little is shown"


def test_audio_is_that_of_the_reference(golden: tuple[str, SQCodecTokenizer]) -> None:
    form, tokenizer = golden
    for length in (4_007, 321, 1) if form == "causal" else (4_007, 321):
        audio = tokenizer._decode(GOLDEN[f"{form}.{length}.codes"])
        expected = GOLDEN[f"{form}.{length}.audio"]
        assert audio.shape == expected.shape
        np.testing.assert_allclose(audio, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_keeps_the_law(untrained: Path) -> None:
    tokenizer_law(load_tokenizer("sq-codec", checkpoint=str(untrained)), real_clips(16_000, 3))


@pytest.mark.parametrize("form", FORMS)
def test_long_clips_are_exact_there_and_back(form: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, *published_form(form))
    tokenizer = SQCodecTokenizer(checkpoint=str(tmp_path))
    samples = np.concatenate([clip.samples for clip in real_clips(16_000, 3)])
    long_audio_law(tokenizer, AudioClip("long", samples[:-13], 16_000))


def test_context_is_as_far_as_a_frame_sees(golden: tuple[str, SQCodecTokenizer]) -> None:
    """Changing the middle frame's samples, or its codes, changes nothing beyond the context to either side."""
    _, tokenizer = golden
    frames, hop = 2 * max(tokenizer.context_frames or 0, tokenizer.decoder_context_frames or 0) + 9, 320
    middle = frames // 2
    signal = torch.randn(1, 1, frames * hop, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = signal.clone()
    other[..., middle * hop : (middle + 1) * hop] += 1
    with torch.no_grad():
        latents, changed = tokenizer.model.encode(signal), tokenizer.model.encode(other)
        moved = (latents != changed).any(dim=1)[0].nonzero()
        assert abs(moved - middle).max() < (tokenizer.context_frames or 0)
        assert len(moved) > 1
        codes = torch.zeros(1, 4, frames, dtype=torch.long)
        audio = tokenizer._audio_of(codes)
        codes[..., middle] = 19_000
        moved = (audio != tokenizer._audio_of(codes))[0].nonzero() // hop
        assert abs(moved - middle).max() < (tokenizer.decoder_context_frames or 0)


def test_only_causal_networks_have_a_batched_mode(untrained: Path, tmp_path: Path) -> None:
    assert load_tokenizer("sq-codec", checkpoint=str(untrained), mode="batched").spec.settings["mode"] == "batched"
    write_checkpoint(tmp_path, *published_form("same"))
    with pytest.raises(UsageError, match="no mode 'batched'"):
        load_tokenizer("sq-codec", checkpoint=str(tmp_path), mode="batched")


def test_spec_and_first_groups(untrained: Path) -> None:
    spec = load_tokenizer("sq-codec", checkpoint=str(untrained), num_codebooks=2).spec
    assert (spec.sample_rate_hz, spec.hop_samples, spec.codebook_sizes) == (16_000, 320, (CODEBOOK_SIZE,) * 2)
    assert [spec.num_frames(n) for n in (0, 1, 320, 321)] == [0, 1, 1, 2]
    with pytest.raises(UsageError, match="1 to 4"):
        load_tokenizer("sq-codec", checkpoint=str(untrained), num_codebooks=5)


def test_a_code_is_nine_ternary_digits_the_first_the_least(untrained: Path) -> None:
    tokenizer = SQCodecTokenizer(checkpoint=str(untrained))
    given: list[torch.Tensor] = []
    tokenizer.model.decoder[0].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    scalars = torch.randint(-1, 2, (36, 5), generator=torch.Generator().manual_seed(0))
    digits = (scalars + 1).reshape(4, 9, 5).tolist()
    codes = [[int("".join(str(digits[g][d][t]) for d in reversed(range(9))), 3) for g in range(4)] for t in range(5)]
    tokenizer._decode(np.array(codes))
    assert torch.equal(given[0][0].long(), scalars)


def test_archive_and_folder_are_the_same_tokenizer(untrained: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / ARCHIVE, "w") as archive:
        for file in untrained.iterdir():
            archive.write(file, f"SQ-Codec/{file.name}")
    spec = SQCodecTokenizer(checkpoint=str(untrained)).spec
    for checkpoint in (tmp_path, tmp_path / ARCHIVE):
        packed = SQCodecTokenizer(checkpoint=str(checkpoint)).spec
        assert (packed.fingerprint, packed.settings["checkpoint"]) == (spec.fingerprint, str(checkpoint))


def test_fingerprint_follows_a_single_weight_and_the_configuration(untrained: Path, tmp_path: Path) -> None:
    fingerprint = SQCodecTokenizer(checkpoint=str(untrained)).spec.fingerprint
    folder = shutil.copytree(untrained, tmp_path / "copy")
    values = torch.load(folder / WEIGHTS, weights_only=True)
    values["codec_model"]["encoder.0.bias"][0] += 1e-6
    torch.save(values, folder / WEIGHTS)
    assert SQCodecTokenizer(checkpoint=str(folder)).spec.fingerprint != fingerprint
    shutil.copy(untrained / WEIGHTS, folder / WEIGHTS)
    assert SQCodecTokenizer(checkpoint=str(folder)).spec.fingerprint == fingerprint
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(text.replace("causal: true", "causal: false"))
    assert SQCodecTokenizer(checkpoint=str(folder)).spec.fingerprint != fingerprint


def test_what_does_not_fit_is_refused(untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def refused(match: str, checkpoint: Path | str) -> None:
        with pytest.raises(UsageError, match=match) as caught:
            SQCodecTokenizer(checkpoint=str(checkpoint))
        assert "\n" not in str(caught.value)

    refused("hf download nobody/no-such-codec", "nobody/no-such-codec")
    refused("no such folder", tmp_path / "absent")
    refused("one file of weights", tmp_path)
    folder = shutil.copytree(untrained, tmp_path / "copy")
    text, values = (folder / CONFIG).read_text(), torch.load(folder / WEIGHTS, weights_only=True)["codec_model"]
    for missing in ("encoder.0.weight_g", "encoder.0.weight_v", "decoder.0.bias"):
        torch.save({"codec_model": {n: v for n, v in values.items() if n != missing}}, folder / WEIGHTS)
        refused("lacks 1 weights", folder)
    (folder / CONFIG).write_text(text.replace("res_kernel_size: 7", f"res_kernel_size: {10**12}"))
    refused(r"does not fit .*, 1000000000000\)", folder)
    torch.save({"model": values}, folder / WEIGHTS)
    refused("no `codec_model`", folder)
    (folder / CONFIG).write_text(text.replace("latent_hidden_dim: 36", "latent_hidden_dim: 50"))
    refused("groups of 9", folder)
    (folder / CONFIG).write_text(text.replace("init_channel", "channel"))
    refused("init_channel", folder)
    (tmp_path / ARCHIVE).write_bytes(b"PK no archive")
    refused("cannot be unpacked", tmp_path)
