"""FocalCodec against golden codes and audio of its authors' code, in a light build with true strides and windows."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers._batched import code_mismatch
from slm.tokenizers._focalcodec_checkpoint import published_names
from slm.tokenizers.focalcodec import FocalCodecTokenizer
from slm.tokenizers.laws import batching_law, fingerprint_law, tokenizer_law
from slm.tokenizers.networks import focalcodec as networks
from slm.types import AudioClip
from tests.tokenizers.seeded import seeded_state
from tests.tokenizers.speech import real_clips

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/data/golden/focalcodec.npz"
FACTORS = {"50hz": [1, 1, 1], "25hz": [2, 1, 1], "12_5hz": [2, 2, 1]}
LIGHT: dict[str, dict[str, Any]] = {
    "encoder_config": {
        "hidden_dims": [16] * 7,
        "num_layers": 2,
        "dim": 32,
        "ffn_dim": 64,
        "num_heads": 2,
        "conv_pos": 16,
        "conv_pos_groups": 4,
    },
    "compressor_config": {"input_dim": 32, "hidden_dims": [32, 24, 16]},
    "decompressor_config": {"output_dim": 32, "hidden_dims": [16, 24, 32]},
    "decoder_config": {"input_dim": 32, "dim": 32, "ffn_dim": 64, "num_layers": 2},
}


def write_light(folder: Path, name: str) -> Path:
    squeezed = {**LIGHT["compressor_config"], "downscale_factors": FACTORS[name]}
    back = {**LIGHT["decompressor_config"], "upscale_factors": FACTORS[name][::-1]}
    changes = {**LIGHT, "compressor_config": squeezed, "decompressor_config": back}
    FocalCodecTokenizer.write_untrained(folder / name, **changes)
    return folder / name


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    return {name: write_light(root, name) for name in FACTORS}


def load(folder: Path, **settings: Any) -> FocalCodecTokenizer:
    tokenizer = load_tokenizer("focalcodec", checkpoint=str(folder), **settings)
    assert isinstance(tokenizer, FocalCodecTokenizer)
    return tokenizer


def golden_clips() -> list[AudioClip]:
    """About every border of a frame at each rate, one of less than a second, and 9 s."""
    samples = np.concatenate([clip.samples for clip in real_clips(16_000)])
    lengths = (400, 719, 720, 1039, 1040, 1359, 1360, 1680, 1999, 2000, 15_000, len(samples))
    return [AudioClip(str(n), samples[-n:], 16_000) for n in lengths]


def golden_state(tokenizer: FocalCodecTokenizer, centre: np.ndarray) -> dict[str, torch.Tensor]:
    """Seeded weights by their published names. `centre [13]` is what the last layer before the signs makes of speech on
    average: less it, each sign comes out both ways."""
    state = seeded_state(published_names(tokenizer.model.state_dict()))
    state["compressor.out_proj.bias"] = torch.from_numpy(-centre).float()
    return state


@pytest.mark.parametrize("name", FACTORS)
def test_codes_and_audio_are_those_of_the_authors_for_seeded_weights(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    golden = np.load(GOLDEN)
    shutil.copy(folders[name] / "config.json", tmp_path)
    save_file(golden_state(load(folders[name]), golden[f"centre_{name}"]), tmp_path / "model.safetensors")
    tokenizer = load(tmp_path)
    tokenizer.model.double()
    made = tokenizer.encode(golden_clips())
    assert len(np.unique(made[-1].codes)) >= 40, "too few codes show nothing"
    for codes in made:
        assert np.array_equal(codes.codes[:, 0], golden[f"codes_{name}_{codes.id}"])
    for codes in (made[0], made[-2]):
        expected = golden[f"audio_{name}_{codes.id}"]
        audio = tokenizer.decode_unfilled(codes)[: len(expected)]
        np.testing.assert_allclose(audio, expected[: codes.num_samples], atol=1e-6 * np.abs(expected).max())


def long_clips() -> list[AudioClip]:
    samples = np.concatenate([clip.samples for clip in real_clips(16_000)])
    return [AudioClip(str(n), samples[:n], 16_000) for n in (30_011, 41_007, 60_000)]


def test_keeps_the_law(folders: dict[str, Path]) -> None:
    for name, hop in (("50hz", 320), ("25hz", 640), ("12_5hz", 1280)):
        path = ROOT / f"configs/tokenizers/focalcodec-{name.replace('_', '.')}.yaml"
        tokenizer = load_tokenizer(str(path), checkpoint=str(folders[name]))
        assert (tokenizer.spec.hop_samples, tokenizer.spec.codebook_sizes) == (hop, (8192,))
        assert tokenizer.spec.taxonomy["quantizer"] == "FSQ"
        assert (tokenizer.spec.num_frames(399), tokenizer.spec.num_frames(400)) == (0, 1)
    tokenizer_law(load(folders["25hz"]), long_clips())


@pytest.mark.parametrize("name", FACTORS)
def test_a_batch_equals_its_clips(name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of odd and even frames, whose codes zeros fill, and with the mean of each over its own frames."""
    monkeypatch.setattr(FocalCodecTokenizer, "batch_s", {"cpu": 30.0})
    batched = load(folders[name], mode="batched")
    batching_law(load(folders[name]), batched, long_clips()[:2])
    rounded = load(folders[name], mode="bf16").encode(long_clips())
    assert 0 < code_mismatch(rounded, batched.encode(long_clips())) < 0.6


def test_convolutions_of_long_clips_in_pieces_change_nothing(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, clip = load(folders["50hz"]), long_clips()[0]
    tokenizer.model.double()
    [whole] = tokenizer.encode([clip])
    widths: list[int] = []
    first = tokenizer.model.encoder.wavlm.feature_extractor.conv_layers[0]
    first.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[-1]))
    for steps in (1, 31, len(whole.codes) - 1):
        monkeypatch.setattr(networks, "_STEPS_AT_A_TIME", steps)
        assert np.array_equal(tokenizer.encode([clip])[0].codes, whole.codes)
        assert max(widths) == (steps - 1) * 320 + 400
        widths.clear()
    with pytest.raises(ValueError, match="of 600 s at most"):
        tokenizer.encode([AudioClip("long", np.zeros(601 * 16_000, np.float32), 16_000)])


def second_release(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A published checkpoint as the second release of the authors' code would save it."""
    made = {}
    for name, value in state.items():
        for old, new in (
            (r"^compressor\.layers\.(\d)\.0\.", r"compressor.layers.\1.downscale."),
            (r"^compressor\.layers\.(\d)\.1\.", r"compressor.layers.\1.focal_block."),
            (r"^decompressor\.layers\.(\d)\.0\.", r"decompressor.layers.\1.focal_block."),
            (r"^decompressor\.layers\.(\d)\.1\.", r"decompressor.layers.\1.upscale."),
        ):
            name = re.sub(old, new, name)
        if ".q_proj." in name:
            together = [state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            made[name.replace("q_proj", "qkv_proj")] = torch.cat(together)
        elif not re.search(r"\.[kv]_proj\.|^encoder\.encoder\.norm\.|^quantizer\.", name):
            made[name] = value
    return made


def test_both_releases_of_a_checkpoint_are_one_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = load(folders["12_5hz"])
    config = json.loads((folders["12_5hz"] / "config.json").read_text())
    decoder = config["decoder_config"]
    decoder["input_channels"] = decoder.pop("input_dim")  # as the first release calls it
    config["encoder_config"] |= {"dropout": 0.1, "causal": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = load_file(folders["12_5hz"] / "model.safetensors")
    other = second_release(state)
    assert "decompressor.layers.2.upscale.activation.alpha" in other
    assert len(other) == len(state) - 3 - 2 * 2 * LIGHT["encoder_config"]["num_layers"]
    save_file(other, tmp_path / "model.safetensors")
    again = load(tmp_path)
    assert again.spec.fingerprint == tokenizer.spec.fingerprint  # which does not see weights that are exchanged
    given = again.model.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in tokenizer.model.state_dict().items())


def test_the_fingerprint_is_of_all_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(folders["50hz"] / "config.json", tmp_path)
    state = load_file(folders["50hz"] / "model.safetensors")
    heard = (
        "compressor.",
        "encoder.encoder.layers.1.",
        "encoder.encoder.relative",
        "encoder.feature_proj",
        "decoder.head",
    )

    def make(weights: Any) -> FocalCodecTokenizer:
        given = {**state, **{name: torch.from_numpy(value) for name, value in weights.items()}}
        save_file(given, tmp_path / "model.safetensors")
        return load(tmp_path)

    fingerprint_law(make, {name: value.numpy() for name, value in list(state.items())[::9] if name.startswith(heard)})
    config = json.loads((folders["50hz"] / "config.json").read_text())
    before = load(tmp_path).spec.fingerprint
    config["encoder_config"]["max_distance"] = 400
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(tmp_path).spec.fingerprint != before, "other codes of the same weights"


def test_what_is_of_another_form_is_refused_in_words(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="num_codebooks must be 1 to 1, not 2"):
        load(folders["50hz"], num_codebooks=2)
    broken = tmp_path / "broken"
    shutil.copytree(folders["25hz"], broken)
    text = (broken / "config.json").read_text()
    for part, change, told in (
        ("encoder", {"causal": True}, "is of a causal FocalCodec, which is not read"),
        ("encoder", {"dim": 36}, "reads 32 numbers of 36"),
        ("encoder", {"num_heads": 3}, "3 heads for a dim of 32"),
        ("encoder", {"conv_pos_groups": 5}, "5 conv_pos_groups for a dim of 32"),
        ("encoder", {"max_distance": 80}, "a max_distance of 80 for 320 num_buckets"),
        ("encoder", {"strides": [5, 2]}, r"convolutions of \[7, 7, 2\] layers"),
        ("encoder", {"num_layers": "6"}, "has num_layers '6' in encoder_config, not a whole number from 1 on"),
        ("encoder", {"num_layers": 3}, "lacks"),
        ("encoder", {"num_layers": 1}, "has besides"),
        ("encoder", {"depth": 3}, "has depth 3 in encoder_config, which is not known"),
        ("compressor", {"hidden_dims": []}, r"has hidden_dims \[\] .*, not a list of whole numbers from 1 on"),
        ("compressor", {"hidden_dims": [8]}, "hidden_dims and factors of different lengths"),
        ("compressor", {"use_layerscale": True}, "only False is known"),
        ("compressor", {"focal_window": 5}, r"as \(.*, 7\), not \(.*, 5\)"),
        ("compressor", {"downscale_factors": [2, 2, 1]}, "a code of 4 frames that comes back as 2"),
        ("quantizer", {"codebook_size": 4096}, "a codebook of 4096 for 13 bits"),
        ("decoder", {"hop_length": 480}, "a frame of 320 samples that comes back as 480"),
        ("decoder", {"n_fft": 200}, "an n_fft of 200 for a hop of 320"),
        ("decoder", {"input_dim": 16}, "a decoder that reads 16 numbers of 32"),
        ("decoder", {"n_fft": 10**12}, r"not fit its configuration.*, not \(1000000000002"),
    ):
        config = json.loads(text)
        config[f"{part}_config"] |= change
        (broken / "config.json").write_text(json.dumps(config))
        with pytest.raises(UsageError, match=told):
            load(broken)
    for change, told in (
        ({"decoder_name": "WaveNeXt"}, "causal"),
        ({"encoder_name": "HuBERT"}, "has encoder_name 'HuBERT': only 'WavLM' is known"),
        ({"encoder_config": [1]}, r"has encoder_config \[1\], not fields"),
    ):
        (broken / "config.json").write_text(json.dumps({**json.loads(text), **change}))
        with pytest.raises(UsageError, match=told):
            load(broken)
    for other, told in (("{", "is no JSON"), ('{"model_type": "wavlm"}', "no configuration of FocalCodec")):
        (broken / "config.json").write_text(other)
        with pytest.raises(UsageError, match=told):
            load(broken)
    with pytest.raises(UsageError, match=r"lacks config\.json"):
        load(tmp_path)


def test_damaged_weights_are_refused_in_words(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(folders["50hz"] / "config.json", tmp_path)
    state = load_file(folders["50hz"] / "model.safetensors")
    lost, name = dict(state), "compressor.out_proj.bias"
    lost.pop(name)
    cases = {
        "lacks 1 weights .*compressor.out_proj.bias": lost,
        "has besides 1 weights": {**state, "refiner.weight": torch.ones(2)},
        r"has encoder\.compressor\.out_proj\.bias as \(12,\), not \(13,\)": {**state, name: torch.ones(12)},
        "is damaged: its weight encoder.compressor.out_proj.bias holds NaN": {
            **state,
            name: torch.full((13,), torch.nan),
        },
    }
    for told, weights in cases.items():
        save_file(weights, tmp_path / "model.safetensors")
        with pytest.raises(UsageError, match=told):
            load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UsageError, match="no readable checkpoint"):
        load(tmp_path)
