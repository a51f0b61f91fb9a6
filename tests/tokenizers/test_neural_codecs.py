"""EnCodec, DAC and Mimi: transformers' classes in a light build, saved as the hub serves them, loaded by our code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import DacFeatureExtractor, DacModel, EncodecConfig, EncodecModel, MimiModel

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers.laws import long_audio_law, tokenizer_law
from slm.types import AudioClip
from tests.tokenizers.light_codecs import ENCODEC, FAMILIES, HOPS, RATES_HZ, make_model, speech

ROOT = Path(__file__).parents[2]
FEWER: dict[str, dict[str, Any]] = {
    "encodec": {"target_bandwidths": [0.9]},
    "dac": {"n_codebooks": 3},
    "mimi": {"num_hidden_layers": 0, "num_quantizers": 3},
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each family, as the hub serves them: config.json and model.safetensors."""
    root = tmp_path_factory.mktemp("hub")
    for family in FAMILIES:
        make_model(family).save_pretrained(root / family)
        assert {"config.json", "model.safetensors"} <= {f.name for f in (root / family).iterdir()}
    return {family: root / family for family in FAMILIES}


def load(family: str, folder: Path, **settings: Any) -> Any:
    return load_tokenizer(family, checkpoint=str(folder), **settings)


def direct_codes(family: str, model: Any, samples: np.ndarray) -> np.ndarray:
    """Codes `[T, K]` by the model's own call on one clip: DAC with its feature extractor, Mimi on whole frames (as
    Moshi pads), EnCodec as it is, with the mask its documentation asks for."""
    values = torch.from_numpy(samples)[None, None]
    with torch.no_grad():
        if family == "dac":
            extractor = DacFeatureExtractor(sampling_rate=16_000, hop_length=320)
            values = extractor(samples, sampling_rate=16_000, return_tensors="pt")["input_values"]
            return model.encode(values).audio_codes[0].T.numpy()
        if family == "mimi":
            whole = torch.cat([values, torch.zeros(1, 1, -len(samples) % 1920)], dim=-1)
            return model.encode(whole, torch.ones_like(whole, dtype=torch.bool)).audio_codes[0].T.numpy()
        mask = torch.ones_like(values, dtype=torch.bool)
        return model.encode(values, mask, bandwidth=1.8).audio_codes[0, 0].T.numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_codec_keeps_the_law(family: str, checkpoints: dict[str, Path]) -> None:
    tokenizer_law(load(family, checkpoints[family]), speech(RATES_HZ[family]))


def test_dac_in_pieces_equals_one_pass(checkpoints: dict[str, Path]) -> None:
    samples = np.concatenate([clip.samples for clip in speech(16_000)])
    long_audio_law(load("dac", checkpoints["dac"]), AudioClip("long", samples, 16_000))


@pytest.mark.parametrize("family", FAMILIES)
def test_codes_equal_a_direct_call_of_the_model(family: str, checkpoints: dict[str, Path]) -> None:
    tokenizer, hop = load(family, checkpoints[family]), HOPS[family]
    clips = speech(RATES_HZ[family])
    model_class: Any = {"encodec": EncodecModel, "dac": DacModel, "mimi": MimiModel}[family]
    model = model_class.from_pretrained(checkpoints[family]).eval()
    cuts = [AudioClip(f"cut-{n}", clips[0].samples[:n], clips[0].sample_rate_hz) for n in (hop, 2 * hop + 1, 5 * hop)]
    made = tokenizer.encode([*clips, *cuts])
    for clip, codes in zip([*clips, *cuts], made, strict=True):
        assert np.array_equal(codes.codes, direct_codes(family, model, clip.samples))
    seen = np.concatenate([codes.codes for codes in made])
    assert all(len(np.unique(column)) >= 10 for column in seen.T), "degenerate codebooks: the comparison shows nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_spec_states_the_model(family: str, checkpoints: dict[str, Path]) -> None:
    spec = load(family, checkpoints[family]).spec
    assert (spec.name, spec.sample_rate_hz, spec.hop_samples) == (family, RATES_HZ[family], HOPS[family])
    assert spec.codebook_sizes == (64,) * 4
    assert spec.semantic_codebooks == ((0,) if family == "mimi" else ())
    assert spec.num_frames(HOPS[family] + 1) == 2
    assert load(family, checkpoints[family], num_codebooks=2).spec.codebook_sizes == (64, 64)


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_equals_the_model_on_the_same_codes(family: str, checkpoints: dict[str, Path]) -> None:
    tokenizer = load(family, checkpoints[family], num_codebooks=2)
    codes = tokenizer.encode(speech(RATES_HZ[family], clips=1))[0]
    model, values = tokenizer.model, torch.from_numpy(codes.codes.T.astype(np.int64))[None]
    with torch.no_grad():
        if family == "mimi":
            parts = model.decoder if hasattr(model.decoder, "decoder_seanet") else model  # the decoder's own since 5.21
            latents = parts.upsample(model.quantizer.decode(values)).transpose(1, 2)
            latents = parts.decoder_transformer(latents).last_hidden_state.transpose(1, 2)
            expected = getattr(parts, "decoder_seanet", model.decoder)(latents)
        elif family == "dac":
            expected = model.decoder(model.quantizer.from_codes(values)[0])
        else:
            expected = model.decoder(model.quantizer.decode(values.transpose(0, 1)))
    expected = expected.flatten().numpy()[: codes.num_samples]
    samples = tokenizer.decode(codes).samples
    assert np.abs(expected).max() > 0
    assert np.array_equal(samples[: len(expected)], expected)
    assert codes.num_samples - len(expected) <= 8  # what DAC's strided decoder leaves out


@pytest.mark.parametrize("family", FAMILIES)
def test_fingerprint_follows_weights_and_settings_not_the_place(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = load(family, checkpoints[family])
    shutil.copytree(checkpoints[family], tmp_path / "moved")
    moved = load(family, tmp_path / "moved")
    assert moved.spec.fingerprint == tokenizer.spec.fingerprint
    assert moved.spec.settings["checkpoint"] == str(tmp_path / "moved")
    assert load_tokenizer(tokenizer.spec, checkpoint=str(tmp_path / "moved")).spec.fingerprint == moved.spec.fingerprint

    model = type(moved.model).from_pretrained(tmp_path / "moved")
    model.save_pretrained(tmp_path / "resaved")
    assert load(family, tmp_path / "resaved").spec.fingerprint == tokenizer.spec.fingerprint
    with torch.no_grad():
        next(model.encoder.parameters()).flatten()[0].add_(0.01)
    model.save_pretrained(tmp_path / "touched")
    with pytest.raises(UsageError, match="two different tokenizers"):
        load_tokenizer(tokenizer.spec, checkpoint=str(tmp_path / "touched"))


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [("encodec", "pad_mode", "constant"), ("mimi", "sliding_window", 4), ("dac", "sampling_rate", 24_000)],
)
def test_a_setting_without_weights_is_in_the_fingerprint(
    family: str, key: str, value: Any, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(checkpoints[family], tmp_path / "other")
    config = json.loads((tmp_path / "other/config.json").read_text())
    assert config[key] != value
    (tmp_path / "other/config.json").write_text(json.dumps({**config, key: value}))
    assert load(family, tmp_path / "other").spec.fingerprint != load(family, checkpoints[family]).spec.fingerprint


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", [0, 5, "2"])
def test_codebooks_that_do_not_exist_are_refused(family: str, count: Any, checkpoints: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"num_codebooks'? must be (1 to 4|int)"):
        load(family, checkpoints[family], num_codebooks=count)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_cannot_be_had(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"hf download nobody/no-such-codec") as caught:
        load_tokenizer(family, checkpoint="nobody/no-such-codec")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="no such folder"):
        load_tokenizer(family, checkpoint=str(tmp_path / "no-such-folder"))
    with pytest.raises(UsageError, match=r"config\.json"):
        load_tokenizer(family, checkpoint=str(tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_broken_folder_is_refused(family: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(checkpoints[family], folder)
    weights = load_file(folder / "model.safetensors")
    encoder = sorted(name for name in weights if name.startswith("encoder."))
    save_file({n: w for n, w in weights.items() if n != encoder[0]}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="lacks 1 weights"):
        load(family, folder)
    save_file({**weights, encoder[0]: weights[encoder[0]][..., None]}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="does not fit its configuration: it has encoder"):
        load(family, folder)
    save_file({**weights, "of_training.0.weight": torch.ones(1)}, folder / "model.safetensors", {"format": "pt"})
    load(family, folder)
    config = json.loads((folder / "config.json").read_text())
    for key, value in FEWER[family].items():
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(UsageError, match=r"knows fewer layers or codebooks: it has \d+ weights more, such as"):
            load(family, folder)
    if family == "mimi":
        (folder / "config.json").write_text(
            json.dumps({**config, "rope_parameters": {"rope_type": "default", "rope_theta": 0}})
        )
        with pytest.raises(UsageError, match="has rope_theta 0 in its configuration, not a number above 0"):
            load(family, folder)
        (folder / "config.json").write_text(json.dumps({**config, "num_quantizers": 10**12}))
        with pytest.raises(UsageError, match="broken has a configuration of more than 20000 weights and layers"):
            load(family, folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UsageError, match="cannot load"):
        load(family, folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="safetensors"):
        load(family, folder)


def test_a_checkpoint_of_another_family_is_refused_with_its_name(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="use the tokenizer 'mimi'"):
        load("encodec", checkpoints["mimi"])


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"audio_channels": 2}, "stereo"), ({"normalize": True}, "normalized"), ({"chunk_length_s": 1.0}, "chunked")],
)
def test_encodec_forms_without_one_sequence_of_codes_are_refused(
    changes: dict[str, Any], word: str, tmp_path: Path
) -> None:
    EncodecConfig(**ENCODEC, **changes).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=word):
        load("encodec", tmp_path)


def test_encodec_without_causal_convolutions_and_at_32_khz_keeps_the_law(tmp_path: Path) -> None:
    """The form of facebook/encodec_32khz: hop 640, one bandwidth, 4 codebooks."""
    changes = {"sampling_rate": 32_000, "upsampling_ratios": [8, 5, 4, 4], "use_causal_conv": False}
    model = make_model("encodec", **changes, target_bandwidths=[1.2])
    model.save_pretrained(tmp_path)
    tokenizer = load("encodec", tmp_path)
    assert (tokenizer.spec.hop_samples, tokenizer.spec.num_codebooks) == (640, 4)
    tokenizer_law(tokenizer, speech(32_000))


@pytest.mark.parametrize(
    ("config", "books"), [("mimi", 8), ("encodec-24khz", 8), ("dac-16khz", 8)], ids=["mimi", "encodec", "dac"]
)
def test_tokenizer_files_name_a_family_and_its_settings(
    config: str, books: int, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    values = yaml.safe_load((ROOT / f"configs/tokenizers/{config}.yaml").read_text())
    assert values["num_codebooks"] == books
    family = values["name"]
    loaded = load_tokenizer(
        str(ROOT / f"configs/tokenizers/{config}.yaml"), checkpoint=str(checkpoints[family]), num_codebooks=3
    )
    assert loaded.spec.name == family


def test_finding_the_codecs_imports_no_torch() -> None:
    code = (
        "import sys, slm.tokenizers.encodec, slm.tokenizers.dac, slm.tokenizers.mimi; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_clips_go_through_the_model_together(family: str, checkpoints: dict[str, Path]) -> None:
    """At the published widths a batch of equal lengths gives other codes than its clips alone; these models are too
    narrow to show it, so the law cannot."""
    tokenizer, rows = load(family, checkpoints[family]), []
    tokenizer.model.encoder.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    tokenizer.encode([AudioClip(str(i), clip.samples[:9600], clip.sample_rate_hz)
                      for i, clip in enumerate(speech(RATES_HZ[family]))])  # fmt: skip
    assert rows == [1, 1, 1, 1]
