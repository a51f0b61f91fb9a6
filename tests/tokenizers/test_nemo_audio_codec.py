"""NeMo's audio codecs against NeMo's own code (tests/data/golden/nemo_audio_codec.md), and what ours promises."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers._nemo_checkpoint import CONFIG, WEIGHTS, NemoConfig, build, read_archive
from slm.tokenizers.laws import batching_law, long_audio_law, streaming_law, tokenizer_law
from slm.tokenizers.nemo_audio_codec import PUBLISHED, NemoAudioCodecTokenizer
from slm.types import AudioClip
from tests.tokenizers.seeded import seeded_tensor
from tests.tokenizers.speech import real_clips

ROOT = Path(__file__).parents[2]
GOLDEN = np.load(ROOT / "tests/data/golden/nemo_audio_codec.npz")
FORMS = ("nano", "lfsc", "audio-codec", "causal")
SEED, RATE = 3, 22_050
BLOCKS = {"resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [1, 3]}
SMALL: dict[str, Any] = {
    "audio_encoder": {"base_channels": 2, "encoded_dim": 12, **BLOCKS},
    "audio_decoder": {"base_channels": 64, "input_dim": 12, **BLOCKS},
    "vector_quantizer": {"num_groups": 3},
}
REFLECTED: dict[str, Any] = {
    "audio_encoder": {**SMALL["audio_encoder"], "pad_mode": "reflect", "activation": "half_snake"},
    "audio_decoder": {
        **SMALL["audio_decoder"],
        "_target_": "nemo.collections.tts.modules.audio_codec_modules.HiFiGANDecoder",
        "pad_mode": "reflect",
        "n_groups_equal_to_out_channels": False,
    },
    "vector_quantizer": {"num_groups": 3},
}


def published_form(form: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The configuration of a golden codec, and its seeded weights by NeMo's names in float64; with a gain and a bias of
    the last convolution of the encoder by which many codes come out."""
    config, names = json.loads(str(GOLDEN[f"{form}.config"])), json.loads(str(GOLDEN[f"{form}.state"]))
    state = {name: torch.from_numpy(np.asarray(seeded_tensor(name, tuple(shape), SEED))) for name, shape in names}
    last = "audio_encoder.post_conv.conv"
    state[f"{last}.parametrizations.weight.original0"] *= torch.from_numpy(GOLDEN[f"{form}.gain"])[:, None, None]
    state[f"{last}.bias"] = torch.from_numpy(GOLDEN[f"{form}.bias"])
    for group in range(config["vector_quantizer"]["num_groups"]):
        levels = torch.tensor(config["vector_quantizer"]["num_levels_per_group"])
        state[f"vector_quantizer.fsqs.{group}.num_levels"] = levels[None, :, None]
    return config, state


def golden_lengths(hop: int) -> tuple[int, ...]:
    return 1, hop, hop + 1, 4 * hop - 1, 4 * hop, 12 * hop + 5


def golden_clips(hop: int) -> list[AudioClip]:
    """Starts of real speech, the shortest of one sample."""
    samples = real_clips(RATE, 1)[0].samples[4_000:]
    return [AudioClip(str(n), samples[:n], RATE) for n in golden_lengths(hop)]


def write_archive(path: Path, config: Any, state: Any, mode: Any = "w", folder: str = "./") -> Path:
    weights = io.BytesIO()
    torch.save(state, weights)
    with tarfile.open(path, mode) as archive:
        for name, content in ((CONFIG, yaml.safe_dump(config).encode()), (WEIGHTS, weights.getvalue())):
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module", params=FORMS)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A checkpoint of NeMo's, read by us, and computed in float64 as it was."""
    config, state = published_form(request.param)
    file = tmp_path_factory.mktemp(request.param) / "any.nemo"
    more = {"discriminator.discriminators.0.weight": torch.ones(3), "speaker_encoder.fc.bias": torch.ones(2)}
    narrow = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    write_archive(file, {**config, "discriminator": {"_target_": "any"}, "mel_loss_dims": [5, 10]}, {**narrow, **more})
    tokenizer = NemoAudioCodecTokenizer(checkpoint=str(file))
    tokenizer.model = build(NemoConfig(config, "golden"), state, "golden")
    return request.param, tokenizer


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nemo") / "small"
    NemoAudioCodecTokenizer.write_untrained(folder, **SMALL)
    return folder


@pytest.fixture(scope="module")
def reflected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nemo") / "reflected"
    NemoAudioCodecTokenizer.write_untrained(folder, **REFLECTED)
    return folder


def load(checkpoint: Path, **settings: Any) -> NemoAudioCodecTokenizer:
    tokenizer = load_tokenizer("nemo-audio-codec", checkpoint=str(checkpoint), **settings)
    assert isinstance(tokenizer, NemoAudioCodecTokenizer)
    return tokenizer


def test_codes_are_those_of_nemo(golden: tuple[str, NemoAudioCodecTokenizer]) -> None:
    form, tokenizer = golden
    made = tokenizer.encode(golden_clips(tokenizer.spec.hop_samples))
    for codes in made:
        assert np.array_equal(codes.codes, GOLDEN[f"{form}.{codes.id}.codes"])
    assert all(len(np.unique(column)) >= 6 for column in made[-1].codes.T), "too few codes show nothing"


def test_audio_is_that_of_nemo(golden: tuple[str, NemoAudioCodecTokenizer]) -> None:
    form, tokenizer = golden
    for length in golden_lengths(tokenizer.spec.hop_samples)[:-1]:
        audio = tokenizer._decode(GOLDEN[f"{form}.{length}.codes"])
        expected = GOLDEN[f"{form}.{length}.audio"]
        assert len(audio) == len(GOLDEN[f"{form}.{length}.codes"]) * tokenizer.spec.hop_samples
        np.testing.assert_allclose(audio[::3], expected, atol=2e-7)
        assert np.abs(expected).max() > 0.01
        assert np.mean(np.abs(expected) == 1) < 0.5, "audio that is cut off throughout"


def test_keeps_the_law(untrained: Path) -> None:
    by_its_file = load_tokenizer(str(ROOT / "configs/tokenizers/nanocodec-12.5hz.yaml"), checkpoint=str(untrained))
    assert by_its_file.spec == load(untrained).spec
    tokenizer_law(load(untrained), real_clips(RATE, 3))


def test_short_clips_of_which_nemo_has_none_are_those_with_zeros_behind(reflected: Path) -> None:
    tokenizer = load(reflected)
    hop, samples = tokenizer.spec.hop_samples, real_clips(RATE, 1)[0].samples[4_000:]
    assert tokenizer._fewest == (4, 4)
    assert tokenizer.model.decoder(torch.zeros(1, 12, 4)).shape[-1] == 4 * hop, "odd strides as well"
    for length in (1, hop, 3 * hop - 7):
        filled = np.zeros(4 * hop, np.float32)
        filled[:length] = samples[:length]
        short, long = tokenizer.encode([AudioClip("short", samples[:length], RATE), AudioClip("long", filled, RATE)])
        assert np.array_equal(short.codes, long.codes[: len(short.codes)])
        repeated = short.codes[[min(i, len(short.codes) - 1) for i in range(4)]]
        assert np.array_equal(tokenizer._decode(short.codes), tokenizer._decode(repeated)[: len(short.codes) * hop])


@pytest.mark.parametrize("form", ["untrained", "reflected"])
def test_long_clips_are_exact_there_and_back(form: str, request: pytest.FixtureRequest) -> None:
    samples = np.concatenate([clip.samples for clip in real_clips(RATE, 3)])
    tokenizer = load(request.getfixturevalue(form))
    assert tokenizer.context_frames is not None
    assert 4 * tokenizer.context_frames < tokenizer.spec.num_frames(len(samples))
    long_audio_law(tokenizer, AudioClip("long", samples[:-13], RATE))


@pytest.mark.parametrize("form", ["untrained", "reflected"])
def test_a_batch_equals_its_clips(form: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strides of 3 and 7 in `untrained`, whose last values are repeated; reflected ends."""
    monkeypatch.setattr(NemoAudioCodecTokenizer, "batch_s", {"cpu": 16.0})
    folder = request.getfixturevalue(form)
    batching_law(load(folder), load(folder, mode="batched"), real_clips(RATE, 2))


def test_a_causal_decoder_is_streamed_and_a_causal_codec_both_ways(untrained: Path, tmp_path: Path) -> None:
    tokenizer = load(untrained)
    tokenizer.model.double()
    codes = tokenizer.encode(real_clips(RATE, 1))[0]
    whole, stream = tokenizer.decode_unfilled(codes), tokenizer.stream_decoder()
    heard = [stream.feed(part) for part in (codes.codes[:1], codes.codes[1:1], codes.codes[1:9], codes.codes[9:])]
    assert [len(part) for part in heard[:3]] == [1764, 0, 8 * 1764]
    np.testing.assert_allclose(np.concatenate([*heard, stream.finish()])[: len(whole)], whole, atol=1e-6)
    with pytest.raises(UsageError, match="cannot be streamed"):
        tokenizer.stream_encoder()
    streaming_law(tokenizer, [AudioClip("a", real_clips(RATE, 1)[0].samples[4_000:9_000], RATE)], ways="back")
    config, state = published_form("causal")
    causal = load(write_archive(tmp_path / "causal.nemo", config, state))
    clip = real_clips(RATE, 1)[0]
    config["audio_encoder"]["pad_mode"] = "replicate"  # which no causal layer asks for
    again = load(write_archive(tmp_path / "causal.nemo", config, state))
    assert again.spec.fingerprint == causal.spec.fingerprint
    streaming_law(causal, [AudioClip("a", clip.samples[4_000:5_007], RATE)], wait_frames=0)
    long_audio_law(causal, AudioClip("long", clip.samples[:20_000], RATE))


def test_a_code_is_its_digits_the_first_the_least_and_missing_groups_are_zero(untrained: Path) -> None:
    quantizer = load(untrained).model.quantizer
    codes = torch.arange(2016)[None, None]
    latents = quantizer.decode(codes)
    assert latents.shape == (1, 12, 2016)
    assert latents[0, 4:].eq(0).all()
    digits = latents[0, :4].T * torch.tensor([4, 3, 3, 3]) + torch.tensor([4, 3, 3, 3])
    assert torch.equal(digits.round().long()[8 * 7 * 6 + 8 * 7 * 5 + 8 * 6 + 7], torch.tensor([7, 6, 5, 1]))
    # What is squashed to just above a level's middle comes back as it.
    again = quantizer.encode(latents.clamp(-0.9, 0.9).repeat(1, 3, 1)[:, :12])
    assert again.unique().numel() > 100


def test_published_sizes() -> None:
    from slm.tokenizers.networks.nemo_audio_codec import NemoAudioCodec

    codec = NemoConfig(PUBLISHED, "published")
    with torch.device("meta"):
        network = NemoAudioCodec(codec.encoder, codec.decoder, torch.nn.Identity())
    halves = [sum(p.numel() for p in half.parameters()) / 1e6 for half in (network.encoder, network.decoder)]
    assert [round(half, 1) for half in halves] == [30.5, 31.7]


def test_spec_and_first_groups(untrained: Path) -> None:
    spec = load(untrained, num_codebooks=2).spec
    assert (spec.sample_rate_hz, spec.hop_samples, spec.codebook_sizes) == (RATE, 1764, (2016, 2016))
    assert [spec.num_frames(n) for n in (0, 1, 1764, 1765)] == [0, 1, 1, 2]
    with pytest.raises(UsageError, match="1 to 3"):
        load(untrained, num_codebooks=4)


def test_fingerprint_follows_weights_and_configuration(untrained: Path, tmp_path: Path) -> None:
    """It does not see the archive, nor the names that an older PyTorch gives weights under a norm."""
    [file] = untrained.glob("*.nemo")
    fingerprint, (config, state) = load(untrained).spec.fingerprint, read_archive(file)

    def changed(config: Any, state: Any, **settings: Any) -> str:
        return load(write_archive(tmp_path / "a.nemo", config, state, **settings)).spec.fingerprint

    older = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in state.items()
    }
    assert changed(config, state, mode="w:gz", folder="") == changed(config, older) == fingerprint
    unsaid = {
        part: {name: value for name, value in config[part].items() if name != left_out}
        for part, left_out in (("audio_encoder", "activation"), ("audio_decoder", "n_groups_equal_to_out_channels"))
    }
    assert changed({**config, **unsaid}, state) == fingerprint, "NeMo takes the same"
    for name in ("audio_encoder.pre_conv.conv.bias", "audio_decoder.activations.0.activation.snake_act.alpha"):
        other = state[name].clone()
        other.flatten()[0] += 1e-3
        assert changed(config, {**state, name: other}) != fingerprint
    for part in (
        {"audio_encoder": {**config["audio_encoder"], "resblock_dilation_sizes": [1, 2]}},
        {"audio_encoder": {**config["audio_encoder"], "pad_mode": "zeros"}},
        {"vector_quantizer": {**config["vector_quantizer"], "eps": 0.01}},
        {"sample_rate": 24_000},
    ):
        assert changed({**config, **part}, state) != fingerprint


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "broken.nemo"


def refused(checkpoint: Path | str, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        NemoAudioCodecTokenizer(checkpoint=str(checkpoint))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500


def read_untrained(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    [file] = folder.glob("*.nemo")
    return read_archive(file)


def test_what_is_no_checkpoint_is_refused(
    untrained: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("nobody/no-such-codec", r"hf download nobody/no-such-codec no-such-codec\.nemo")
    refused(tmp_path / "absent.nemo", "no such checkpoint")
    refused(tmp_path, "0 .nemo files")
    file.write_bytes(b"no archive")
    refused(file, "no readable .nemo file")
    [whole] = untrained.glob("*.nemo")
    file.write_bytes(whole.read_bytes()[:9_000])
    refused(file, "broken.nemo")
    config, state = read_archive(whole)
    write_archive(file, config, state, folder="../")
    refused(file, "must hold model_config.yaml and model_weights.ckpt")
    write_archive(file, config, [1])
    refused(file, "not weights by name")
    write_archive(file, config, {**state, "audio_encoder.any": 3})
    refused(file, "holds int as audio_encoder.any")


def test_weights_that_do_not_fit_are_refused(untrained: Path, file: Path) -> None:
    config, state = read_untrained(untrained)
    for name in ("audio_encoder.pre_conv.conv.bias", "audio_decoder.post_activation.activation.snake_act.alpha"):
        write_archive(file, config, {key: value for key, value in state.items() if key != name})
        refused(file, "lacks 1 weights")
    write_archive(file, config, {**state, "audio_encoder.more.weight": torch.ones(2)})
    refused(file, "has besides 1 weights")
    direction = "audio_encoder.pre_conv.conv.parametrizations.weight.original1"
    write_archive(file, config, {**state, direction: torch.tensor(1.0)})
    refused(file, "lacks 1 weights .* has besides 1 weights")
    write_archive(file, config, {**state, "audio_encoder.pre_conv.conv.bias": torch.full((2,), torch.nan)})
    refused(file, "holds NaN")
    write_archive(file, config, {key: value for key, value in state.items() if "fsqs.2" not in key})
    refused(file, "has weights of 2 groups")


def test_what_no_network_is_made_of_is_refused(untrained: Path, file: Path) -> None:
    config, state = read_untrained(untrained)
    for part, change, told in (
        ("audio_encoder", {"_target_": "any.MultiBandMelEncoder"}, "MultiBandMelEncoder as its audio_encoder"),
        ("vector_quantizer", {"_target_": "any.ResidualVectorQuantizer"}, "ResidualVectorQuantizer as its vector"),
        ("audio_decoder", {"_target_": "any.HiFiGANEncoder"}, "HiFiGANEncoder as its audio_decoder"),
        ("audio_encoder", {"base_channels": 4}, r"not \("),
        ("audio_encoder", {"base_channels": 10**9}, "base_channels 1000000000, not a whole number from 1"),
        ("audio_encoder", {"base_channels": 2**20, "resblock_kernel_sizes": [2**20 - 1]}, "no network that can be"),
        ("audio_encoder", {"base_channels": "2"}, "base_channels '2', not a whole number"),
        ("audio_encoder", {"down_sample_rates": [2, 3, 6, 7]}, "a frame of 1764 samples is encoded as 252"),
        ("audio_decoder", {"up_sample_rates": [7, 7, 6, 3]}, "a frame of 1764 samples comes back as 882"),
        ("audio_encoder", {"down_sample_rates": [1764, 1]}, "not a whole number from 2"),
        ("audio_encoder", {"resblock_kernel_sizes": 3}, "not a list of 1 to 16"),
        ("audio_encoder", {"resblock_kernel_sizes": [4]}, "a kernel of 4"),
        ("audio_encoder", {"pad_mode": "circular"}, "only zeros, reflect, replicate"),
        ("audio_encoder", {"activation": ["lrelu"]}, "has activation"),
        ("audio_encoder", {"dropout": 0.1}, "in its audio_encoder dropout"),
        ("audio_decoder", {"base_channels": 24}, "24 channels in its decoder, to be halved 5 times"),
        ("audio_decoder", {"n_groups_equal_to_out_channels": 1}, "neither true nor false"),
        ("vector_quantizer", {"num_levels_per_group": [8, 7, 6, 5]}, r"configuration says 3 of \[8, 7, 6, 5\]"),
        ("vector_quantizer", {"num_levels_per_group": [8, 7, 6]}, "3 groups of 3 scalars, but 12 of audio_encoder"),
        ("vector_quantizer", {"num_levels_per_group": [2**8] * 4}, "groups of 4294967296 codes"),
        ("vector_quantizer", {"eps": "small"}, "eps 'small'"),
        ("vector_quantizer", {"commit": 1}, "in its vector_quantizer commit"),
    ):
        write_archive(file, {**config, part: {**config[part], **change}}, state)
        refused(file, told)
    for change, told in (
        ({"output_sample_rate": 44_100}, "hears 22050 Hz and gives 44100"),
        ({"audio_encoder": None}, "no audio codec of NeMo: its model_config.yaml has no audio_encoder"),
        ({"sample_rate": None}, "has sample_rate None"),
    ):
        write_archive(file, {**config, **change}, state)
        refused(file, told)


def test_what_grows_without_end_is_refused(untrained: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, state = read_untrained(untrained)
    bomb: Any = "x"
    for _ in range(6):
        bomb = [bomb] * 10  # which YAML writes as one list and its aliases
    for part, name in (("audio_encoder", "_target_"), ("audio_decoder", "activation"), ("vector_quantizer", "eps")):
        write_archive(file, {**config, part: {**config[part], name: bomb}}, state)
        refused(file, r"\[\[\[\.\.\.")
    write_archive(file, {**config, "sample_rate": bomb}, state)
    refused(file, r"sample_rate \[\[\[\.\.\.")
    with monkeypatch.context() as patched:
        patched.setattr(yaml, "safe_dump", lambda _: "a: &a {b: 1}\n<<: *a")
        write_archive(file, config, state)
    refused(file, "no readable .nemo file: .*merge")
    write_archive(file, {"more": "x" * 2**20, **config}, state)
    refused(file, "its model_config.yaml would be")
    write_archive(file, config, torch.zeros(2**22), mode="w:gz")
    refused(file, "its model_weights.ckpt would be 1677")
