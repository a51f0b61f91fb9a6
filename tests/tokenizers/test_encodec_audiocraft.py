"""EnCodec in audiocraft's own format, against what audiocraft's code makes of the same weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers._audiocraft import FILE_NAME, encodec_config, encodec_model
from slm.tokenizers.laws import tokenizer_law
from tests.tokenizers.audiocraft_checkpoint import CONFIG, write_package
from tests.tokenizers.light_codecs import make_model, speech

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("hub") / "audiogen")


def load(folder: Path, **settings: Any) -> Any:
    return load_tokenizer("encodec", checkpoint=str(folder), **settings)


def test_it_keeps_the_law(folder: Path) -> None:
    tokenizer = load(folder)
    assert (tokenizer.spec.sample_rate_hz, tokenizer.spec.hop_samples) == (16_000, 320)
    assert tokenizer.spec.codebook_sizes == (64,) * 4
    tokenizer_law(tokenizer, speech(16_000))


def test_codes_and_audio_are_those_of_audiocraft(folder: Path) -> None:
    """In float64 (see tests/data/golden/encodec_audiocraft.md)."""
    golden = np.load(ROOT / "tests/data/golden/encodec_audiocraft.npz")
    tokenizer = load(folder)
    tokenizer.model.double()
    made = tokenizer.encode(speech(16_000, clips=3))
    for i, codes in enumerate(made):
        assert np.array_equal(codes.codes, golden[f"codes_{i}"])
    assert all(len(np.unique(column)) >= 10 for column in np.concatenate([c.codes for c in made]).T)
    audio = tokenizer.decode(made[0]).samples[:2000]
    np.testing.assert_allclose(audio, golden["audio"], atol=1e-6 * np.abs(golden["audio"]).max())


def test_it_is_the_same_tokenizer_in_the_form_of_transformers(folder: Path, tmp_path: Path) -> None:
    package = torch.load(folder / FILE_NAME, weights_only=True)
    config = encodec_config(package["xp.cfg"], str(folder))
    encodec_model(config, package["best_state"], str(folder)).save_pretrained(tmp_path)
    assert load(tmp_path).spec.fingerprint == load(folder).spec.fingerprint


def test_the_fingerprint_follows_every_weight(folder: Path, tmp_path: Path) -> None:
    package = torch.load(folder / "compression_state_dict.bin", weights_only=True)
    name = "encoder.model.0.conv.conv.weight_v"
    package["best_state"][name][0, 0, 0] += 1e-6
    assert load(write_package(tmp_path, **package)).spec.fingerprint != load(folder).spec.fingerprint


def test_a_hub_id_without_a_configuration_is_asked_for_the_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"hf download facebook/audiogen-nothing"):
        load_tokenizer("encodec", checkpoint="facebook/audiogen-nothing")
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    tokenizer = load_tokenizer("encodec", checkpoint="facebook/audiogen-nothing")
    assert asked == [("facebook/audiogen-nothing", "compression_state_dict.bin")]
    assert tokenizer.spec.fingerprint == load(folder).spec.fingerprint
    assert tokenizer.spec.settings["checkpoint"] == "facebook/audiogen-nothing"


def test_a_package_may_name_a_checkpoint_of_transformers(tmp_path: Path) -> None:
    make_model("encodec").save_pretrained(tmp_path / "encodec")
    torch.save({"pretrained": str(tmp_path / "encodec"), "exported": True}, tmp_path / "compression_state_dict.bin")
    assert load(tmp_path).spec.fingerprint == load(tmp_path / "encodec").spec.fingerprint


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("seanet", "activation", "Snake", "seanet.activation is 'Snake'; only 'ELU' is supported"),
        ("encodec", "channels", 2, "stereo"),
        ("encodec", "renormalize", True, "normalized"),
        ("seanet", "n_filters", 2**20, "does not fit its configuration"),
        ("rvq", "n_q", 5, "lacks 4 weights"),
        ("seanet", "ratios", "${nothing.here}", "xp.cfg lacks nothing.here"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    section: str, key: str, value: Any, words: str, tmp_path: Path
) -> None:
    config = copy.deepcopy(CONFIG)
    config[section][key] = value
    write_package(tmp_path, **{"xp.cfg": yaml.safe_dump(config)})
    with pytest.raises(UsageError, match=words) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_other_packages_and_codebooks_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="num_codebooks must be 1 to 4, not 5"):
        load(folder, num_codebooks=5)
    write_package(tmp_path, **{"xp.cfg": {"not": "text"}})
    with pytest.raises(UsageError, match="no compression model of audiocraft"):
        load(tmp_path)
    (tmp_path / "compression_state_dict.bin").write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match="no readable checkpoint"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["encodec-32khz", "encodec-audiogen-16khz"])
def test_the_tokenizer_files(name: str, folder: Path) -> None:
    path = ROOT / f"configs/tokenizers/{name}.yaml"
    assert yaml.safe_load(path.read_text())["num_codebooks"] == 4
    assert load_tokenizer(str(path), checkpoint=str(folder)).spec.name == "encodec"
