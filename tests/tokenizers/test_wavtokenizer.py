"""WavTokenizer against the authors' code and transformers (tests/data/golden), and what our own code promises."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers._wavtokenizer_checkpoint import _inference_weights, read_release
from slm.tokenizers.laws import batching_law, long_audio_law, tokenizer_law
from slm.tokenizers.networks import seanet
from slm.tokenizers.wavtokenizer import WavTokenizer, _network, _published_form, build
from slm.types import AudioClip
from tests.tokenizers.seeded import seeded_tensor
from tests.tokenizers.speech import real_clips

ROOT = Path(__file__).parents[2]
GOLDEN = np.load(ROOT / "tests/data/golden/wavtokenizer.npz")
HUB = np.load(ROOT / "tests/data/golden/wavtokenizer_transformers.npz")
HOPS = {"small75": 320, "small40": 600}
SMALL = {"width": 4, "input_channels": 24, "vq_bins": 64, "dim": 64, "intermediate_dim": 48, "num_layers": 2}


def published_state(form: str) -> dict[str, torch.Tensor]:
    """Every tensor of floats in the authors' state dict, by their names, in the values that made the golden arrays."""
    named = json.loads(str(GOLDEN[f"{form}_state"]))
    state = {name: torch.from_numpy(np.asarray(seeded_tensor(name, tuple(shape), 7))) for name, shape in named}
    window = "head.istft.window"
    return {**state, window: torch.hann_window(len(state[window]), dtype=torch.float64)}


@pytest.fixture(scope="module", params=HOPS)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, WavTokenizer]:
    """The authors' checkpoint, read by us, and computed in float64 as they were."""
    form, folder = request.param, tmp_path_factory.mktemp(request.param)
    state, sections = published_state(form), json.loads(str(GOLDEN[f"{form}_config"]))
    wrapped = {name: {"class_path": "decoder.x", "init_args": values} for name, values in sections.items()}
    (folder / "c.yaml").write_text(yaml.safe_dump({"seed_everything": 3407, "model": {"init_args": wrapped}}))
    lightning = {**{n: t.float() for n, t in state.items()}, "melspec_loss.mel": torch.ones(2)}
    torch.save({"epoch": 3, "state_dict": lightning, "optimizer_states": []}, folder / "c.ckpt")
    tokenizer = WavTokenizer(checkpoint=str(folder))
    tokenizer.model = build(sections, _inference_weights({"state_dict": state}, folder), "golden")
    return form, tokenizer


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wavtokenizer") / "small"
    WavTokenizer.write_untrained(folder, **SMALL)
    return folder


def golden_clips(form: str) -> list[tuple[int, AudioClip]]:
    """The six clips that the authors' code was run on: parts of real speech, down to one sample."""
    sources = real_clips(24_000, 3)
    made = []
    for i, source in enumerate([*sources, sources[0], sources[0], sources[0]]):
        samples = source.samples[6000 : 6000 + int(GOLDEN[f"{form}_{i}_length"][0])]
        made.append((i, AudioClip(str(i), samples, 24_000)))
    return made


def test_codes_are_those_of_the_authors_code(golden: tuple[str, WavTokenizer]) -> None:
    form, tokenizer = golden
    assert tokenizer.spec.hop_samples == HOPS[form]
    seen = []
    for i, clip in golden_clips(form):
        [made] = tokenizer.encode([clip])
        assert np.array_equal(made.codes, GOLDEN[f"{form}_{i}_codes"])
        seen.append(made.codes)
    assert len(np.unique(np.concatenate(seen))) >= 10


def test_audio_is_that_of_the_authors_code(golden: tuple[str, WavTokenizer]) -> None:
    form, tokenizer = golden
    for i, _ in golden_clips(form):
        audio = tokenizer._decode(GOLDEN[f"{form}_{i}_codes"])
        assert len(audio) == GOLDEN[f"{form}_{i}_length"][1]
        start = GOLDEN[f"{form}_{i}_audio"]
        np.testing.assert_allclose(audio[: len(start)], start, rtol=1e-9, atol=1e-12)
        if f"{form}_{i}_tail" in GOLDEN:
            tail = GOLDEN[f"{form}_{i}_tail"]
            np.testing.assert_allclose(audio[-len(tail) :], tail, rtol=1e-9, atol=1e-12)


def write_as_transformers(
    folder: Path, form: str, state: dict[str, torch.Tensor], config: dict[str, Any] | None = None
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**json.loads(str(HUB[f"{form}_config"])), **(config or {})}))
    (folder / "preprocessor_config.json").write_text(str(HUB[f"{form}_preprocessor"]))
    save_file(state, folder / "model.safetensors")
    return folder


def hub_state(form: str) -> dict[str, torch.Tensor]:
    """The state dict of transformers with the values that made its golden arrays."""
    named = json.loads(str(HUB[f"{form}_state"]))
    return {name: torch.from_numpy(np.asarray(seeded_tensor(name, tuple(shape), 7))) for name, shape in named}


@pytest.mark.parametrize("form", HOPS)
def test_codes_and_audio_are_those_of_transformers(form: str, tmp_path: Path) -> None:
    """Of its layout, whose names are others, and which may bring clips to one level first."""
    state = hub_state(form)
    tokenizer = WavTokenizer(
        checkpoint=str(write_as_transformers(tmp_path, form, {n: t.float() for n, t in state.items()}))
    )
    save_file(state, tmp_path / "model.safetensors")
    release = read_release(str(tmp_path), None)
    window = "head.istft.window"
    exact = torch.hann_window(len(release.state[window]), dtype=torch.float64)
    tokenizer.model = build(release.form, {**release.state, window: exact}, "golden")
    sources, seen = real_clips(24_000, 3), []
    for i, source in enumerate((*sources, sources[0])):
        length, made = HUB[f"{form}_{i}_length"]
        clip = AudioClip(str(i), source.samples[6000 : 6000 + length], 24_000)
        assert np.array_equal(tokenizer.encode([clip])[0].codes, HUB[f"{form}_{i}_codes"])
        audio = tokenizer._decode(HUB[f"{form}_{i}_codes"])
        assert len(audio) == made
        np.testing.assert_allclose(audio[:200], HUB[f"{form}_{i}_audio"], rtol=0, atol=3e-7)  # its head is float32
        seen.append(HUB[f"{form}_{i}_codes"])
    assert len(np.unique(np.concatenate(seen))) >= 5
    silence = AudioClip("silence", np.zeros(2000, np.float32), 24_000)
    assert (release.peak is not None) == (form == "small40")
    assert len(tokenizer.encode([silence])[0].codes) == -(-2000 // HOPS[form])


def test_both_layouts_of_one_checkpoint_are_one_tokenizer(untrained: Path, tmp_path: Path) -> None:
    """Codes and fingerprint; and where clips are brought to one level, neither: then loudness is nothing."""
    state = torch.load(untrained / "wavtokenizer.ckpt", weights_only=True)["state_dict"]
    renamed = {
        re.sub(r"conv\.conv\.weight_([gv])", lambda m: f"conv.parametrizations.weight.original{'gv'.index(m[1])}", name)
        .replace("conv.conv.bias", "conv.bias")
        .replace("feature_extractor.encodec.encoder.model.", "encoder_model.encoder.layers.")
        .replace("feature_extractor.encodec.quantizer.vq.layers.0._codebook.", "encoder_model.quantizer.codebook.")
        .replace("head.out.", "head.linear."): value
        for name, value in state.items()
        if name != "head.istft.window"
    }
    assert renamed.keys() >= {name for name in hub_state("small75") if not name.endswith(("inited", "size", "avg"))}
    folder = write_as_transformers(tmp_path / "hub", "small75", renamed)
    authors, hub = WavTokenizer(checkpoint=str(untrained)), WavTokenizer(checkpoint=str(folder))
    assert hub.spec.fingerprint == authors.spec.fingerprint
    assert load_tokenizer(hub.spec).spec == hub.spec
    with pytest.raises(UsageError, match="leave it out where the checkpoint is a folder"):
        WavTokenizer(checkpoint=str(folder), config=str(untrained / "wavtokenizer.yaml"))
    shutil.copytree(untrained, tmp_path / "authors")
    shutil.copy(folder / "config.json", tmp_path / "authors")  # of a snapshot of the hub, for instance
    assert WavTokenizer(checkpoint=str(tmp_path / "authors")).spec.fingerprint == authors.spec.fingerprint
    half = {name: tensor.bfloat16() for name, tensor in renamed.items()}
    save_file(half, folder / "model.safetensors")
    rounded = WavTokenizer(checkpoint=str(folder))
    save_file({name: tensor.float() for name, tensor in half.items()}, folder / "model.safetensors")
    assert WavTokenizer(checkpoint=str(folder)).spec.fingerprint == rounded.spec.fingerprint

    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "normalize_audio": True}))
    levelled = WavTokenizer(checkpoint=str(folder))
    assert levelled.spec.fingerprint != authors.spec.fingerprint
    [clip] = real_clips(24_000, 1)
    clips = [AudioClip(str(gain), clip.samples * np.float32(gain), 24_000) for gain in (1, 0.25)]
    first, second = (codes.codes for codes in levelled.encode(clips))
    assert np.array_equal(first, second)
    unlike = [codes.codes for codes in authors.encode(clips)]
    assert not np.array_equal(*unlike)
    levelled.use_mode("batched")
    assert all(np.array_equal(codes.codes, first) for codes in levelled.encode(clips))


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"model_type": "encodec"}, "no configuration of WavTokenizer: it has model_type 'encodec'"),
        ({"use_causal_conv": True}, "use_causal_conv True: only False is known"),
        ({"decoder_num_layers": 3}, "does not fit its configuration: it lacks"),
        ({"hidden_size": "24"}, "hidden_size '24', which is not of whole numbers"),
        ({"upsampling_ratios": [8, 5, 4, 10**9]}, "does not fit its configuration"),
    ],
)
def test_files_of_transformers_that_do_not_fit_are_refused(config: dict, match: str, tmp_path: Path) -> None:
    state = {name: tensor.float() for name, tensor in hub_state("small75").items()}
    folder = write_as_transformers(tmp_path, "small75", state, config)
    with pytest.raises(UsageError, match=match):
        WavTokenizer(checkpoint=str(folder))


def test_files_of_transformers_that_are_missing_or_hold_something_else_are_named(tmp_path: Path) -> None:
    state = {name: tensor.float() for name, tensor in hub_state("small75").items()}
    folder = write_as_transformers(tmp_path, "small75", state)
    (folder / "preprocessor_config.json").write_text('{"normalize_audio": true, "target_peak_dB_FS": "loud"}')
    with pytest.raises(UsageError, match=r"target_peak_dB_FS 'loud', not a level in dB"):
        WavTokenizer(checkpoint=str(folder))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"lacks preprocessor_config.json"):
        WavTokenizer(checkpoint=str(folder))
    write_as_transformers(folder, "small75", {n: t for n, t in state.items() if not n.startswith("head.")})
    with pytest.raises(UsageError, match=r"holds no WavTokenizer with its decoder"):
        WavTokenizer(checkpoint=str(folder))


@pytest.mark.parametrize("hop", [320, 600])
def test_keeps_the_law(hop: int, tmp_path: Path) -> None:
    WavTokenizer.write_untrained(tmp_path / "small", hop=hop, **SMALL)
    tokenizer = load_tokenizer("wavtokenizer", checkpoint=str(tmp_path / "small"))
    assert (tokenizer.spec.codebook_sizes, tokenizer.spec.hop_samples) == ((64,), hop)
    tokenizer_law(tokenizer, real_clips(24_000, 3))


@pytest.mark.parametrize(("hop", "millions"), [(320, 80.6), (600, 80.9)])
def test_the_untrained_form_is_the_published_one(hop: int, millions: float) -> None:
    """The parameters are those of table 2 of arXiv 2506.10274, with EnCodec's decoder that the release carries."""
    with torch.device("meta"):
        network = _network(_published_form(hop), 32)
        unused = seanet.decoder(seanet.SEANetConfig((8, 5, 4, 2), 32, 512))
    parameters = sum(p.numel() for module in (network, unused) for p in module.parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.1)
    assert (network.quantizer.layers[0].embed.shape, network.head.hop_samples) == ((4096, 512), hop)


@pytest.mark.parametrize("pieces_per_block", [1, 2])
def test_long_clips_are_exact(untrained: Path, pieces_per_block: int) -> None:
    tokenizer = WavTokenizer(checkpoint=str(untrained))
    tokenizer.pieces_per_block = pieces_per_block
    long_audio_law(tokenizer, AudioClip("long", real_clips(24_000, 1)[0].samples[: 2 * 24_000 + 7], 24_000))


def test_one_weight_changes_the_fingerprint_and_what_only_training_needs_does_not(
    untrained: Path, tmp_path: Path
) -> None:
    def fingerprint_with(name: str) -> str:
        loaded = torch.load(untrained / "wavtokenizer.ckpt", weights_only=True)
        loaded["state_dict"][name] = loaded["state_dict"].get(name, torch.zeros(4)).clone()
        loaded["state_dict"][name].view(-1)[0] += 1e-3
        shutil.copytree(untrained, tmp_path / name)
        torch.save(loaded, tmp_path / name / "wavtokenizer.ckpt")
        return WavTokenizer(checkpoint=str(tmp_path / name)).spec.fingerprint

    first = WavTokenizer(checkpoint=str(untrained)).spec.fingerprint
    assert fingerprint_with("feature_extractor.encodec.encoder.model.0.conv.conv.bias") != first
    assert fingerprint_with("feature_extractor.encodec.decoder.model.0.conv.conv.bias") == first
    assert fingerprint_with("feature_extractor.encodec.quantizer.vq.layers.0._codebook.cluster_size") == first


def test_files_are_named_or_lie_together(untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = WavTokenizer(checkpoint=str(untrained)).spec
    by_file = WavTokenizer(checkpoint=str(untrained / "wavtokenizer.ckpt")).spec
    assert by_file.fingerprint == spec.fingerprint
    assert load_tokenizer(by_file).spec == by_file
    (tmp_path / "elsewhere.yaml").write_text((untrained / "wavtokenizer.yaml").read_text())
    shutil.copytree(untrained, tmp_path / "two")
    shutil.copy(untrained / "wavtokenizer.yaml", tmp_path / "two/other.yaml")
    with pytest.raises(UsageError, match=r"must hold one \.yaml file, not other\.yaml, wav"):
        WavTokenizer(checkpoint=str(tmp_path / "two"))
    named = WavTokenizer(checkpoint=str(tmp_path / "two"), config=str(tmp_path / "elsewhere.yaml")).spec
    assert named.fingerprint == spec.fingerprint
    assert load_tokenizer(named).spec == named
    with pytest.raises(UsageError, match=r"names no \.ckpt file"):
        WavTokenizer(checkpoint="novateur/WavTokenizer")
    asked = []

    def downloaded(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(untrained / f"wavtokenizer{Path(name).suffix}")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", downloaded)
    WavTokenizer(checkpoint="novateur/WavTokenizer-large-unify-40token/wavtokenizer_large_unify_600_24k.ckpt")
    assert asked == [
        ("novateur/WavTokenizer-large-unify-40token", "wavtokenizer_large_unify_600_24k.ckpt"),
        ("novateur/WavTokenizer", "wavtokenizer_smalldata_frame40_3s_nq1_code4096_dim512_kmeans200_attn.yaml"),
    ]


def test_what_does_not_fit_is_refused(untrained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(untrained, folder)
    state = torch.load(folder / "wavtokenizer.ckpt", weights_only=True)["state_dict"]
    form = yaml.safe_load((folder / "wavtokenizer.yaml").read_text())

    def refused(match: str, weights: Any, **head: Any) -> None:
        torch.save(weights, folder / "wavtokenizer.ckpt")
        form["model"]["init_args"]["head"]["init_args"].update(head)
        (folder / "wavtokenizer.yaml").write_text(yaml.safe_dump(form))
        with pytest.raises(UsageError, match=match):
            WavTokenizer(checkpoint=str(folder))

    refused(r"lacks 1 weights \(head", {"state_dict": {n: t for n, t in state.items() if n != "head.out.bias"}})
    refused("no WavTokenizer", {"state_dict": {"layer.weight": torch.ones(2)}})
    refused("no WavTokenizer", state)
    refused(r"does not fit .* not \(1000000000000,\)", {"state_dict": state}, n_fft=10**12)
    refused("hop of 320 samples, the head's is 300", {"state_dict": state}, hop_length=300)
    refused("padding 'same'", {"state_dict": state}, padding="center")
    (folder / "wavtokenizer.yaml").write_text("model: {init_args: {backbone: {}}}")
    with pytest.raises(UsageError, match="lacks feature_extractor"):
        WavTokenizer(checkpoint=str(folder))
    with pytest.raises(UsageError, match="num_codebooks must be 1 to 1"):
        WavTokenizer(checkpoint=str(untrained), num_codebooks=2)


@pytest.mark.parametrize("config", ["wavtokenizer-75hz", "wavtokenizer-40hz"])
def test_tokenizer_files_name_a_release(config: str, untrained: Path) -> None:
    loaded = load_tokenizer(str(ROOT / f"configs/tokenizers/{config}.yaml"), checkpoint=str(untrained))
    assert loaded.spec.name == "wavtokenizer"


def test_clips_share_batches_and_keep_their_codes(untrained: Path) -> None:
    exact, batched = (WavTokenizer(checkpoint=str(untrained)) for _ in range(2))
    batched.use_mode("batched")
    batched.batch_s = {"cpu": 8.0}
    batching_law(exact, batched, real_clips(24_000, 2))
