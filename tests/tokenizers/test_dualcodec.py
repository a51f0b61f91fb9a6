"""DualCodec against golden codes and audio of its authors' code, in a light build with true strides and layers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers._dualcodec_checkpoint import LAYER, MODELS, STATISTICS, build, read_statistics
from slm.tokenizers.database import find_records
from slm.tokenizers.dualcodec import DualCodecTokenizer
from slm.tokenizers.laws import batching_law, long_audio_law, tokenizer_law
from slm.tokenizers.networks.dualcodec import DualCodecConfig, DualCodecNetwork
from slm.types import AudioClip
from tests.tokenizers.seeded import seeded_state, seeded_tensor
from tests.tokenizers.speech import real_clips

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/data/golden/dualcodec.npz"
LIGHT: dict[str, Any] = {
    "encoder_dim": 2,
    "decoder_dim": 32,
    "n_codebooks": 3,
    "codebook_size": 64,
    "semantic_codebook_size": 128,
    "convnext_dim": 24,
    "intermediate_dim": 32,
    "w2v_bert": {"hidden_size": 32, "num_hidden_layers": 18, "num_attention_heads": 2, "intermediate_size": 48},
}
HOPS = {"12hz_v1": 1920, "25hz_v1": 960}
LENGTHS = (1079, 1300, 2038, 2039, 2300, 3000, 3958, 3959, 15_600, 48_003)
"""About borders of frames; of odd and even log-mel frames, the half pair of which is part of a code or is none."""


def write_light(folder: Path, model_id: str) -> Path:
    DualCodecTokenizer.write_untrained(folder, model_id=model_id, **LIGHT)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    return {model_id: write_light(root / model_id, model_id) for model_id in MODELS}


def load(folder: Path, **settings: Any) -> DualCodecTokenizer:
    tokenizer = load_tokenizer("dualcodec", checkpoint=str(folder), **settings)
    assert isinstance(tokenizer, DualCodecTokenizer)
    return tokenizer


def golden_clips(model_id: str) -> list[AudioClip]:
    samples = np.concatenate([clip.samples for clip in real_clips(24_000)])
    lengths = [n for n in (*LENGTHS, len(samples)) if n >= 119 + HOPS[model_id]]
    return [AudioClip(str(n), samples[-n:], 24_000) for n in lengths]


def seed(folder: Path, centres: np.ndarray) -> None:
    """Seeded weights in the files of a folder. `centres [K, 8]` are what is looked up in each codebook on average: less
    it, many codes come out."""
    [file] = folder.glob("*.safetensors")
    state = seeded_state(load_file(file))
    quantizers = ["semantic_vq.quantizers.0", *(f"dac.quantizer.quantizers.{k}" for k in range(len(centres) - 1))]
    state |= {f"{q}.in_proj.bias": -torch.from_numpy(c).float() for q, c in zip(quantizers, centres, strict=True)}
    last = max((n for n in state if n.startswith("dac.decoder.model.")), key=lambda n: int(n.split(".")[3]))
    state |= {f"{last.rpartition('.')[0]}.weight_g": torch.full((1, 1, 1), 0.01)}  # or its tanh is always 1
    save_file(state, file)
    encoder = folder / "w2v-bert-2.0/model.safetensors"
    save_file(seeded_state(load_file(encoder)), encoder, {"format": "pt"})
    width = LIGHT["w2v_bert"]["hidden_size"]
    statistics = {"mean": seeded_tensor("mean", (width,), 0), "var": seeded_tensor("var.scale", (width,), 0)}
    torch.save({name: torch.from_numpy(value).float() for name, value in statistics.items()}, folder / STATISTICS)


def in_double(tokenizer: DualCodecTokenizer, folder: Path) -> DualCodecTokenizer:
    """As the golden codes were made: weight norms too are computed in float64."""
    [file] = folder.glob("*.safetensors")
    weights = {name: value.double() for name, value in load_file(file).items()}
    bert = tokenizer.model.w2v_bert
    tokenizer.model, _ = build(weights, read_statistics(folder / STATISTICS), str(file))
    tokenizer.model.w2v_bert = bert.double()
    return tokenizer


@pytest.mark.parametrize("model_id", MODELS)
def test_codes_and_audio_are_those_of_the_authors_for_seeded_weights(
    model_id: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    golden = np.load(GOLDEN)
    folder = shutil.copytree(folders[model_id], tmp_path / "seeded")
    seed(folder, golden[f"centres_{model_id}"])
    tokenizer = in_double(load(folder), folder)
    made = tokenizer.encode(golden_clips(model_id))
    assert all(len(np.unique(column)) >= 15 for column in made[-1].codes.T), "too few codes show nothing"
    for codes in made:
        assert np.array_equal(codes.codes, golden[f"codes_{model_id}_{codes.id}"])
    for clip in (golden_clips(model_id)[0], golden_clips(model_id)[-3]):
        with torch.no_grad():
            spectra, filled = tokenizer._spectra_of(torch.from_numpy(clip.samples).double())
            pooled = tokenizer.model.pool(tokenizer.model.hear(spectra, filled))[0]
        assert filled, "what becomes of a half pair is part of the last code"
        np.testing.assert_allclose(pooled.numpy(), golden[f"pooled_{model_id}_{clip.id}"], atol=1e-9)
    first = in_double(load(folder, num_codebooks=1), folder)
    [semantic] = first.encode(golden_clips(model_id)[-2:-1])
    assert np.array_equal(semantic.codes, made[-2].codes[:, :1])
    for name, codec, codes in (
        ("audio", tokenizer, made[0]),
        ("audio", tokenizer, made[-2]),
        ("semantic", first, semantic),
    ):
        expected = golden[f"{name}_{model_id}_{codes.id}"]
        audio = codec.decode_unfilled(codes)[: len(expected)]
        np.testing.assert_allclose(audio, expected[: codes.num_samples], rtol=1e-6, atol=1e-7)
        assert 0.01 < np.abs(expected).max() < 0.999


def long_clips() -> list[AudioClip]:
    """Of the first the half pair is part of a code, at both rates."""
    samples = np.concatenate([clip.samples for clip in real_clips(24_000)])
    return [AudioClip(str(n), samples[:n], 24_000) for n in (31_000, 46_007, 70_007)]


def test_keeps_the_law(folders: dict[str, Path]) -> None:
    for model_id, hop in HOPS.items():
        path = ROOT / f"configs/tokenizers/dualcodec-{'12.5' if hop == 1920 else '25'}hz.yaml"
        tokenizer = load_tokenizer(str(path), checkpoint=str(folders[model_id]))
        spec = tokenizer.spec
        assert (spec.hop_samples, spec.codebook_sizes, spec.semantic_codebooks) == (hop, (128, 64, 64, 64), (0,))
        assert [spec.num_frames(n) for n in (118 + hop, 119 + hop, 118 + 5 * hop, 119 + 5 * hop)] == [0, 1, 4, 5]
    tokenizer_law(
        load(folders["12hz_v1"]), [AudioClip(str(n), long_clips()[0].samples[:n], 24_000) for n in (31_000, 24_007)]
    )


@pytest.mark.parametrize("model_id", ["12hz_v1", pytest.param("25hz_v1", marks=pytest.mark.thorough)])
def test_a_batch_equals_its_clips(model_id: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DualCodecTokenizer, "batch_s", {"cpu": 30.0})
    exact, batched = (load(folders[model_id], mode=mode) for mode in ("exact", "batched"))
    batching_law(exact, batched, long_clips()[:2])
    alone, together = (last_pooled(tokenizer, long_clips()[0]) for tokenizer in (exact, batched))
    np.testing.assert_allclose(together, alone, atol=1e-9)
    semantic = load(folders[model_id], mode="batched", num_codebooks=1)
    semantic.model.double()
    first, [whole] = semantic.encode(long_clips()[1:2])[0], exact.encode(long_clips()[1:2])
    assert np.array_equal(first.codes, whole.codes[:, :1])


def last_pooled(tokenizer: DualCodecTokenizer, clip: AudioClip) -> np.ndarray:
    """Of the states of w2v-BERT what the last code of a clip, or of the only one of a batch, is made of `[C]`."""
    seen: list[torch.Tensor] = []
    hook = tokenizer.model.convnext_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tokenizer.encode([clip])
    hook.remove()
    [pooled] = seen
    return pooled[0, :, tokenizer.spec.num_frames(len(clip.samples)) - 1].numpy()


def test_long_clips_go_in_pieces_where_they_can(folders: dict[str, Path]) -> None:
    tokenizer, lengths = load(folders["25hz_v1"]), []
    encoder = tokenizer.model.dac["encoder"]
    encoder.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[-1]))
    clip = golden_clips("25hz_v1")[-1]
    long_audio_law(tokenizer, clip)
    in_seven = tokenizer.spec.num_frames(len(clip.samples)) // 7 + 1
    assert max(lengths[-7:]) <= (in_seven + 2 * tokenizer._acoustic_context) * 960 < max(lengths) / 2
    with pytest.raises(ValueError, match="of 600 s at most"):
        tokenizer.encode([AudioClip("long", np.zeros(601 * 24_000, np.float32), 24_000)])


def test_the_fingerprint_is_of_all_weights_that_are_used(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["25hz_v1"], tmp_path / "copy")
    fingerprint = load(folder).spec.fingerprint
    [file], bert = folder.glob("*.safetensors"), folder / "w2v-bert-2.0/model.safetensors"

    def changed(path: Path, name: str) -> bool:
        state = load_file(path)
        other = state[name].clone()
        other.flatten()[0] += 1e-3
        save_file({**state, name: other}, path, {"format": "pt"})
        made = load(folder).spec.fingerprint
        save_file(state, path, {"format": "pt"})
        return made != fingerprint

    for name in ("dac.encoder.block.0.weight_g", "convnext_decoder.4.bias", "semantic_vq.quantizers.0.codebook.weight"):
        assert changed(file, name)
    assert changed(bert, "encoder.layers.16.ffn2.output_dense.bias")
    assert not changed(bert, "encoder.layers.17.ffn2.output_dense.bias"), "a layer that is not read"
    statistics = torch.load(folder / STATISTICS, weights_only=True)
    for name in ("mean", "var"):
        torch.save({**statistics, name: statistics[name] + 1e-3}, folder / STATISTICS)
        assert load(folder).spec.fingerprint != fingerprint
    torch.save({name: value[None, None] for name, value in statistics.items()}, folder / STATISTICS)
    assert load(folder).spec.fingerprint == fingerprint


def test_weights_in_half_precision_make_what_they_make_in_single(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["25hz_v1"], tmp_path / "half")
    [file] = folder.glob("*.safetensors")
    state = {name: value.half() for name, value in load_file(file).items()}
    save_file(state, file)
    gain, direction = (state[f"dac.decoder.model.0.weight_{part}"].float() for part in "gv")
    expected = gain * direction / direction.flatten(1).norm(dim=1)[:, None, None]
    torch.testing.assert_close(load(folder).model.dac["decoder"].conv1.weight, expected)


def test_which_files_are_taken(folders: dict[str, Path], tmp_path: Path) -> None:
    both = shutil.copytree(folders["12hz_v1"], tmp_path / "both")
    [other] = folders["25hz_v1"].glob("*.safetensors")
    shutil.copy(other, both)
    assert load(both).spec.settings["model_id"] == "12hz_v1"
    assert load(both, model_id="25hz_v1").spec.hop_samples == 960
    encoder = (both / "w2v-bert-2.0").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"cannot get the encoder 'facebook/w2v-bert-2\.0'"):
        load(both)
    assert load(both, encoder=str(encoder)).spec.settings["encoder"] == str(encoder.resolve())


def test_published_sizes() -> None:
    """Of the codec alone, and with w2v-BERT up to the layer that is read."""
    for row in find_records("dualcodec"):
        different = MODELS[dict(row.settings)["model_id"]][1]
        with torch.device("meta"):
            codec = DualCodecNetwork(DualCodecConfig(**different), 2)
            bert = Wav2Vec2BertModel(Wav2Vec2BertConfig(num_hidden_layers=LAYER))
        count = sum(p.numel() for part in (codec, bert) for p in part.parameters())
        assert count == pytest.approx(row.parameters, abs=5e4)
        assert row.codebook_sizes == (16384, *[different.get("codebook_size", 4096)] * different.get("n_codebooks", 7))


def test_what_does_not_fit_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def refused(match: str, **settings: Any) -> None:
        with pytest.raises(UsageError, match=match) as caught:
            load(broken, **settings)
        assert "\n" not in str(caught.value)

    broken = shutil.copytree(folders["25hz_v1"], tmp_path / "broken")
    [file] = broken.glob("*.safetensors")
    refused("num_codebooks must be 1 to 4, not 5", num_codebooks=5)
    refused("no model_id '25hz': it is 12hz_v1 or 25hz_v1", model_id="25hz")
    refused(r"lacks dualcodec_12hz_16384_4096\.safetensors", model_id="12hz_v1")
    state, statistics = load_file(file), torch.load(broken / STATISTICS, weights_only=True)
    block = "convnext_encoder.2.dwconv.bias"
    for told, weights in {
        f"lacks 1 weights .{block}": {name: value for name, value in state.items() if name != block},
        "has besides 1 weights .refiner.weight": {**state, "refiner.weight": torch.ones(2)},
        rf"has {block} as \(12,\), not \(24,\)": {**state, block: torch.ones(12)},
        "has frames of 1120 samples, not of w2v-BERT's": {
            **state,
            "dac.encoder.block.3.block.4.weight_v": torch.ones(16, 8, 14),
        },
        "has frames of 960 samples that come back as 480": {
            **state,
            "dac.decoder.model.1.block.1.weight_v": torch.ones(32, 16, 8),
        },
        "lacks weights .*: it is no DualCodec": {"model.weight": torch.ones(2)},
        r"lacks weights .*convnext_encoder\.1\.pwconv1": {
            name: value for name, value in state.items() if not name.startswith("convnext_encoder.1.")
        },
        f"is damaged: its weight {block} holds NaN": {**state, block: torch.full((24,), torch.nan)},
    }.items():
        save_file(weights, file)
        refused(told)
    save_file(state, file)
    for told, values in {
        "holds no `mean` and `var` above 0": {**statistics, "var": torch.zeros(32)},
        "holds no `mean` and `var`": {"mean": statistics["mean"]},
        "codes states of 32 numbers, .* is of 16 and 16": {name: value[:16] for name, value in statistics.items()},
        "codes states of 32 numbers, .* is of 32 and 16": {**statistics, "var": statistics["var"][:16]},
    }.items():
        torch.save(values, broken / STATISTICS)
        refused(told)
    torch.save(Path, broken / STATISTICS)  # no tensors: nothing of it runs
    refused("holds no `mean` and `var`")
    torch.save(statistics, broken / STATISTICS)
    Wav2Vec2BertModel(Wav2Vec2BertConfig(**{**LIGHT["w2v_bert"], "hidden_size": 16})).save_pretrained(tmp_path / "b")
    SeamlessM4TFeatureExtractor().save_pretrained(tmp_path / "b")
    refused("is no w2v-BERT 2.0 of width 32", encoder=str(tmp_path / "b"))
    refused("layer 17 of .*: it has layers 0", encoder=str(shallow(tmp_path / "c")))


def shallow(folder: Path) -> Path:
    Wav2Vec2BertModel(Wav2Vec2BertConfig(**{**LIGHT["w2v_bert"], "num_hidden_layers": 3})).save_pretrained(folder)
    SeamlessM4TFeatureExtractor().save_pretrained(folder)
    return folder
