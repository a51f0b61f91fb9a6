"""SNAC: the class of its authors' package in a light build, saved as the hub serves it, loaded by our code."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers.laws import long_audio_law, tokenizer_law
from slm.tokenizers.snac import SnacTokenizer, _seed
from slm.types import AudioClip, Codes
from tests.tokenizers.speech import real_clips

snac = pytest.importorskip("snac")

# Rates, strides and windows are those of the published models, so that the frame rule is; widths are not.
FORMS: dict[str, dict[str, Any]] = {
    "24khz": {"encoder_dim": 4, "decoder_dim": 32, "codebook_size": 64},
    "44khz": {
        "sampling_rate": 44_100,
        "encoder_dim": 8,
        "encoder_rates": [2, 3, 8, 8],
        "decoder_dim": 64,
        "decoder_rates": [8, 8, 3, 2],
        "attn_window_size": 32,
        "vq_strides": [8, 4, 2, 1],
        "codebook_size": 64,
    },
}
ONE_FORM = ["24khz", pytest.param("44khz", marks=pytest.mark.thorough)]
RATES_HZ = {"24khz": 24_000, "44khz": 44_100}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("snac")
    for form, changes in FORMS.items():
        SnacTokenizer.write_untrained(root / form, **changes)
    return {form: root / form for form in FORMS}


def clips_of(form: str, seconds: float = 1.0) -> list[AudioClip]:
    """Three real clips of odd lengths."""
    rate = RATES_HZ[form]
    return [
        AudioClip(clip.id, clip.samples[i * 5000 :][: int((seconds + 0.1 * i) * rate) + 7], rate)
        for i, clip in enumerate(real_clips(rate, 3))
    ]


def direct_levels(model: Any, samples: np.ndarray) -> list[list[int]]:
    """The codes of each level of one clip, by the package's own call."""
    with torch.no_grad():
        return [level[0].tolist() for level in model.encode(torch.from_numpy(samples)[None, None])]


@pytest.mark.parametrize("form", ONE_FORM)
def test_keeps_the_law(form: str, folders: dict[str, Path]) -> None:
    tokenizer_law(load_tokenizer("snac", checkpoint=str(folders[form])), clips_of(form))


@pytest.mark.parametrize("form", FORMS)
def test_codes_are_those_of_the_package_in_frames(form: str, folders: dict[str, Path]) -> None:
    tokenizer, model = SnacTokenizer(checkpoint=str(folders[form])), snac.SNAC.from_pretrained(str(folders[form]))
    per_frame = [1, 2, 4, 8][: len(model.vq_strides)]
    clips, hop = clips_of(form), tokenizer.spec.hop_samples
    cuts = [AudioClip(str(n), clips[0].samples[:n], RATES_HZ[form]) for n in (1, hop, hop + 1, 4 * hop, 4 * hop + 1)]
    seen = []
    for codes in tokenizer.encode([*clips, *cuts]):
        samples = next(clip.samples for clip in [*clips, *cuts] if clip.id == codes.id)
        levels = direct_levels(model, samples)
        assert [len(level) for level in levels] == [len(codes.codes) * n for n in per_frame]
        for t, row in enumerate(codes.codes.tolist()):
            assert row == [level[n * t + c] for level, n in zip(levels, per_frame, strict=True) for c in range(n)]
        seen.append(codes.codes)
    assert all(len(np.unique(column)) >= 6 for column in np.concatenate(seen).T), "too few codes show nothing"


@pytest.mark.parametrize("form", FORMS)
def test_audio_is_that_of_the_package_and_can_be_repeated(form: str, folders: dict[str, Path]) -> None:
    tokenizer, model = SnacTokenizer(checkpoint=str(folders[form])), snac.SNAC.from_pretrained(str(folders[form]))
    clip = clips_of(form)[0]
    [codes] = tokenizer.encode([clip])
    levels = [torch.tensor(level)[None] for level in direct_levels(model, clip.samples)]
    torch.manual_seed(0)
    with torch.no_grad():
        expected = model.decode(levels)[0, 0].numpy()[: len(clip.samples)]
        after = torch.rand(1)
        torch.manual_seed(7)
        made = tokenizer.decode(codes).samples
        untouched = torch.rand(1)
    np.testing.assert_allclose(made, expected, atol=1e-6)
    assert np.abs(expected).max() > 0
    assert np.array_equal(tokenizer.decode(codes).samples, made)
    torch.manual_seed(7)
    assert torch.equal(untouched, torch.rand(1)), "decoding moves the generator of others"
    assert not torch.equal(after, untouched)


@pytest.mark.parametrize("form", ONE_FORM)
def test_long_clips_are_exact_but_for_the_noise(form: str, tmp_path: Path) -> None:
    samples = np.concatenate([clip.samples for clip in clips_of(form)])
    for noise in (False, True):
        SnacTokenizer.write_untrained(tmp_path / str(noise), **FORMS[form], noise=noise)
        tokenizer = SnacTokenizer(checkpoint=str(tmp_path / str(noise)))
        assert tokenizer.decoder_is_random == noise
        long_audio_law(tokenizer, AudioClip("long", samples, RATES_HZ[form]))


def test_frames_that_fill_no_window_are_decoded(tmp_path: Path) -> None:
    """A language model may stop anywhere: its last frame is repeated until the window is full, and cut off again."""
    SnacTokenizer.write_untrained(tmp_path / "quiet", **FORMS["44khz"], noise=False)
    tokenizer = SnacTokenizer(checkpoint=str(tmp_path / "quiet"))
    [codes] = tokenizer.encode(clips_of("44khz")[:1])
    for frames in (1, 4, 5):
        cut = codes.codes[:frames]
        filled = np.concatenate([cut, cut[-1:].repeat(-frames % 4, axis=0)])
        expected = tokenizer.decode(Codes("filled", filled, frames * 3072, tokenizer.spec)).samples
        made = tokenizer.decode(Codes("cut", cut, frames * 3072, tokenizer.spec)).samples
        assert np.array_equal(made, expected)
        assert np.abs(made[-100:]).max() > 0


def test_fewer_levels(folders: dict[str, Path]) -> None:
    clip = clips_of("24khz")[0]
    everything = SnacTokenizer(checkpoint=str(folders["24khz"])).encode([clip])[0].codes
    for count in (1, 3, 7):
        tokenizer = load_tokenizer("snac", checkpoint=str(folders["24khz"]), num_codebooks=count)
        [codes] = tokenizer.encode([clip])
        assert np.array_equal(codes.codes, everything[:, :count])
        assert np.abs(tokenizer.decode(codes).samples).max() > 0
    for count in (0, 2, 6, 8):
        with pytest.raises(UsageError, match=f"1, 3, 7, not {count}"):
            load_tokenizer("snac", checkpoint=str(folders["24khz"]), num_codebooks=count)


def test_spec_of_the_published_forms(folders: dict[str, Path]) -> None:
    speech = SnacTokenizer(checkpoint=str(folders["24khz"])).spec
    assert (speech.sample_rate_hz, speech.hop_samples, speech.num_codebooks) == (24_000, 2048, 7)
    assert [speech.num_frames(n) for n in (0, 1, 2048, 2049)] == [0, 1, 1, 2]
    music = SnacTokenizer(checkpoint=str(folders["44khz"])).spec
    assert (music.sample_rate_hz, music.hop_samples, music.num_codebooks) == (44_100, 3072, 15)
    assert [music.num_frames(n) for n in (0, 1, 4 * 3072, 4 * 3072 + 1)] == [0, 4, 4, 8]


def test_fingerprint_follows_a_single_weight_and_the_configuration(folders: dict[str, Path], tmp_path: Path) -> None:
    fingerprint = SnacTokenizer(checkpoint=str(folders["24khz"])).spec.fingerprint
    folder = shutil.copytree(folders["24khz"], tmp_path / "copy")
    assert SnacTokenizer(checkpoint=str(folder)).spec.fingerprint == fingerprint
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "noise": True, "sampling_rate": 16_000}))
    assert SnacTokenizer(checkpoint=str(folder)).spec.fingerprint != fingerprint
    (folder / "config.json").write_text(json.dumps(config))
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    state["encoder.block.0.bias"][0] += 1e-6
    torch.save(state, folder / "pytorch_model.bin")
    assert SnacTokenizer(checkpoint=str(folder)).spec.fingerprint != fingerprint


def test_what_does_not_fit_is_refused(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def refused(match: str, checkpoint: Path | str) -> None:
        with pytest.raises(UsageError, match=match) as caught:
            SnacTokenizer(checkpoint=str(checkpoint))
        assert "\n" not in str(caught.value)

    refused("hf download nobody/no-such-codec config.json pytorch_model.bin", "nobody/no-such-codec")
    refused("lacks config.json", tmp_path)
    folder = shutil.copytree(folders["24khz"], tmp_path / "copy")
    config, state = (
        json.loads((folder / "config.json").read_text()),
        torch.load(folder / "pytorch_model.bin", weights_only=True),
    )
    torch.save({n: v for n, v in state.items() if n != "encoder.block.0.bias"}, folder / "pytorch_model.bin")
    refused("lacks 1 weights", folder)
    for broken, match in (
        ({**config, "model_type": "mimi"}, "no model_type"),
        ({"sampling_rate": 24_000}, "no vq_strides"),
        ({**config, "vq_strides": [3, 2, 1]}, "no frame in common"),
        ({**config, "vq_strides": [10**9, 2, 1]}, "have 1500000001 codes in a frame"),
        ({**config, "codebook_size": 10**12}, r"does not fit .* not \(1000000000000, 8\)"),
    ):
        (folder / "config.json").write_text(json.dumps(broken))
        refused(match, folder)
    monkeypatch.setitem(sys.modules, "snac", None)
    refused("pip install snac", folders["24khz"])


def test_decoding_seeds_the_generator_that_it_draws_from_and_no_other_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    generators = [torch.Generator().manual_seed(5 + i) for i in range(2)]
    monkeypatch.setattr(torch.cuda, "default_generators", tuple(generators))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("all GPUs were seeded"))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(9)
        _seed(torch.device("cuda", 1))
        assert [each.initial_seed() for each in (torch.default_generator, *generators)] == [9, 5, 0]
        _seed(torch.device("cpu"))
        assert torch.default_generator.initial_seed() == 0
