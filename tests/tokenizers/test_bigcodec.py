"""BigCodec against the authors' code (tests/data/golden/bigcodec.md), and what our own code promises."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers.bigcodec import WEIGHTS, BigCodecTokenizer, build
from slm.tokenizers.laws import long_audio_law, tokenizer_law
from slm.tokenizers.networks.bigcodec import BigCodecConfig, BigCodecNetwork, kaiser_low_pass
from slm.types import AudioClip
from tests.tokenizers.seeded import seeded_tensor
from tests.tokenizers.speech import real_clips

ROOT = Path(__file__).parents[2]
GOLDEN = np.load(ROOT / "tests/data/golden/bigcodec.npz")
SEED, LENGTHS = 11, (20_807, 4_007, 3_200, 1)
SMALL = {"ngf": 2, "upsample_initial_channel": 64, "vq_dim": 16, "codebook_size": 64}


def published_parts(names: dict[str, list[tuple[str, list[int]]]], filter_: np.ndarray, bias: np.ndarray) -> dict:
    """Seeded weights by the authors' names, but for the filters of activations, which are computed, and the bias of
    the quantizer, which brings its vectors about 0. Gains of the decoder are less, or its last tanh is always 1."""
    parts = {
        part: {name: torch.from_numpy(np.asarray(seeded_tensor(name, tuple(shape), SEED))) for name, shape in tensors}
        for part, tensors in names.items()
    }
    for state in parts.values():
        state |= dict.fromkeys((name for name in state if name.endswith("filter")), torch.from_numpy(filter_))
    decoder = parts["generator"]
    decoder |= {n: 0.6 * value for n, value in decoder.items() if n.startswith("model.") and n.endswith("weight_g")}
    decoder["quantizer.layers.0.in_proj.bias"] = torch.from_numpy(bias)
    return parts


def golden_clips() -> list[AudioClip]:
    """Starts of real speech; the shortest of one sample."""
    clips = real_clips(16_000, 3)
    samples = [clips[i % 3].samples[4000 : 4000 + n] for i, n in enumerate(LENGTHS)]
    return [AudioClip(str(len(each)), each, 16_000) for each in samples]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> BigCodecTokenizer:
    """The authors' checkpoint, read by us, and computed in float64 as it was."""
    parts = published_parts(json.loads(str(GOLDEN["state"])), GOLDEN["filter"], GOLDEN["bias"])
    folder = tmp_path_factory.mktemp("bigcodec")
    narrow = {part: {name: value.float() for name, value in state.items()} for part, state in parts.items()}
    torch.save({**narrow, "config": {"any": 1}}, folder / WEIGHTS)
    tokenizer = BigCodecTokenizer(checkpoint=str(folder))
    tokenizer.model = build(parts, "golden")
    return tokenizer


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bigcodec") / "small"
    BigCodecTokenizer.write_untrained(folder, **SMALL)
    return folder


def test_codes_are_those_of_the_authors_code(golden: BigCodecTokenizer) -> None:
    for codes in golden.encode(golden_clips()):
        assert np.array_equal(codes.codes, GOLDEN[f"{codes.id}.codes"])
    assert len(np.unique(GOLDEN[f"{LENGTHS[0]}.codes"])) >= 16


def test_audio_is_that_of_the_authors_code(golden: BigCodecTokenizer) -> None:
    for length in LENGTHS[1:]:
        audio, expected = golden._decode(GOLDEN[f"{length}.codes"]), GOLDEN[f"{length}.audio"]
        assert audio.shape == expected.shape
        np.testing.assert_allclose(audio, expected, rtol=1e-9, atol=1e-9)
    assert 0.01 < np.abs(expected).max() < 1


def test_the_filter_of_fresh_activations_is_the_authors() -> None:
    np.testing.assert_allclose(kaiser_low_pass().numpy(), GOLDEN["filter"], rtol=1e-5)


def test_keeps_the_law(untrained: Path) -> None:
    clips = [
        replace(clip, samples=clip.samples[4_000:][: 9_000 + 1_003 * i]) for i, clip in enumerate(real_clips(16_000, 3))
    ]
    tokenizer_law(load_tokenizer("bigcodec", checkpoint=str(untrained)), clips)


@pytest.mark.thorough  # as of SpeechTokenizer, by the same code
def test_long_clips_are_exact_although_an_lstm_runs_over_them(untrained: Path) -> None:
    tokenizer = BigCodecTokenizer(checkpoint=str(untrained))
    clip = real_clips(16_000, 1)[0]
    clip = AudioClip("long", clip.samples[: 2 * 16_000 + 7], 16_000)
    long_audio_law(tokenizer, clip)
    [codes] = tokenizer.encode([clip])
    tokenizer.piece_s = 60
    whole = tokenizer.decode(codes).samples
    for tokenizer.piece_s in (0.3, 0.71):
        np.testing.assert_allclose(tokenizer.decode(codes).samples, whole, atol=1e-6)
    assert np.abs(whole).max() > 0.001


def test_activations_and_context_reach_no_further_than_said(untrained: Path) -> None:
    """A change of one step of an activation's input moves its output within `reach`."""
    activation = BigCodecTokenizer(checkpoint=str(untrained)).model.double().encoder.model[-2]
    x = torch.randn(1, activation.alpha.numel(), 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[..., 32] += 1
    moved = (activation(x) != activation(other)).any(dim=1)[0].nonzero()
    assert 5 <= abs(moved - 32).max() <= activation.reach


def test_published_sizes() -> None:
    with torch.device("meta"):
        network = BigCodecNetwork(BigCodecConfig())
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == 159


def test_spec_is_that_of_the_authors_padding(untrained: Path) -> None:
    spec = load_tokenizer("bigcodec", checkpoint=str(untrained), num_codebooks=1).spec
    assert (spec.sample_rate_hz, spec.hop_samples, spec.codebook_sizes) == (16_000, 200, (64,))
    assert [spec.num_frames(n) for n in (0, 1, 199, 200, 201, 400)] == [0, 1, 1, 2, 2, 3]
    with pytest.raises(UsageError, match="1 codebooks"):
        load_tokenizer("bigcodec", checkpoint=str(untrained), num_codebooks=2)


def test_fingerprint_follows_a_single_weight(untrained: Path, tmp_path: Path) -> None:
    fingerprint = BigCodecTokenizer(checkpoint=str(untrained)).spec.fingerprint
    folder = shutil.copytree(untrained, tmp_path / "copy")
    assert BigCodecTokenizer(checkpoint=str(folder)).spec.fingerprint == fingerprint
    parts = torch.load(folder / WEIGHTS, weights_only=True)
    parts["CodecEnc"]["block.0.bias"][0] += 1e-6
    torch.save(parts, folder / WEIGHTS)
    assert BigCodecTokenizer(checkpoint=str(folder)).spec.fingerprint != fingerprint


def test_what_does_not_fit_is_refused(untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def refused(match: str, checkpoint: Path | str) -> None:
        with pytest.raises(UsageError, match=match) as caught:
            BigCodecTokenizer(checkpoint=str(checkpoint))
        assert "\n" not in str(caught.value)

    refused("hf download nobody/no-such-codec bigcodec.pt", "nobody/no-such-codec")
    refused("lacks bigcodec.pt", tmp_path)
    folder = shutil.copytree(untrained, tmp_path / "copy")
    parts = torch.load(folder / WEIGHTS, weights_only=True)
    for part, missing in (
        ("CodecEnc", "block.1.block.1.block.3.bias"),
        ("CodecEnc", "block.0.weight_v"),
        ("generator", "model.3.block.1.weight_g"),
        ("generator", "quantizer.layers.0._codebook.weight"),
    ):
        broken = {**parts, part: {name: value for name, value in parts[part].items() if name != missing}}
        torch.save(broken, folder / WEIGHTS)
        refused("lacks", folder)
    torch.save({"CodecEnc": parts["CodecEnc"]}, folder / WEIGHTS)
    refused("no `CodecEnc` and `generator`", folder)
