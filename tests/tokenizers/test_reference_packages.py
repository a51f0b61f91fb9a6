"""The codecs against the packages of their authors, given the same weights: codes equal, audio close, clip by clip.

Weights are those of `write_untrained`, under the names that the packages have for them; in the thorough form, of the
published architecture. Float64 shows that both compute the same; what rounding does in float32 is no concern here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import EncodecModel

from slm.tokenizers import TOKENIZERS, load_tokenizer
from slm.types import AudioClip
from tests.tokenizers.light_codecs import DAC, ENCODEC, MIMI
from tests.tokenizers.references import reference
from tests.tokenizers.speech import real_clips

State = Mapping[str, torch.Tensor]


def load(name: str, folder: Path, **changes: Any) -> Any:
    """Our tokenizer with random weights, in float64."""
    TOKENIZERS.get(name).write_untrained(folder, **changes)  # type: ignore[attr-defined]
    tokenizer: Any = load_tokenizer(name, checkpoint=str(folder))
    tokenizer.model.double()
    return tokenizer


def check(
    tokenizer: Any, encode: Callable[[torch.Tensor], torch.Tensor], decode: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """`encode` of the package makes codes `[1, K, T]` of `[1, 1, N]`, `decode` audio `[1, 1, n]` of them."""
    rate, hop = tokenizer.spec.sample_rate_hz, tokenizer.spec.hop_samples
    is_light = sum(p.numel() for p in tokenizer.model.parameters()) < 5e6
    longest = int(1.3 * rate) if is_light else 24 * hop  # a second of DAC, in float64, takes a minute
    clips = [
        AudioClip(clip.id, clip.samples[rate // 2 :][: longest + 7 * i], rate)
        for i, clip in enumerate(real_clips(rate, 3 if is_light else 1))
    ]
    edges = [AudioClip(str(n), clips[0].samples[:n], rate) for n in (hop, hop + 1, 3 * hop - 1)]
    seen = []
    for clip, codes in zip([*clips, *edges], tokenizer.encode([*clips, *edges]), strict=True):
        with torch.no_grad():
            expected = encode(torch.from_numpy(clip.samples).double()[None, None])
            audio = decode(expected).numpy().flatten()[: len(clip.samples)]
        assert np.array_equal(codes.codes, expected[0].T.numpy())
        made = tokenizer.decode(codes).samples[: len(audio)]
        assert len(clip.samples) - len(audio) <= 8, "what the strided decoder of DAC leaves out"
        np.testing.assert_allclose(made, audio, atol=1e-6 * np.abs(audio).max())
        seen.append(codes.codes)
    assert all(len(np.unique(column)) >= 10 for column in np.concatenate(seen).T), "too few codes show nothing"


def forms(*light_and_true: Any) -> list[Any]:
    """What a test is called with: quickly for light forms, thoroughly for those of the published architecture."""
    return [pytest.param(*f[1:], id=f[0], marks=pytest.mark.thorough if "true" in f[0] else ()) for f in light_and_true]


def seanet_names(state: State, wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """From transformers' names of EnCodec to those of `encodec` and its descendants, which `wanted` lists."""
    made = {}
    for name, value in state.items():
        name = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", name)
        name = name.replace("quantizer.layers.", "quantizer.vq.layers.").replace(".codebook.", "._codebook.")
        name = name.replace(".parametrizations.weight.original0", ".weight_g")
        name = name.replace(".parametrizations.weight.original1", ".weight_v")
        plain, transposed = (name.replace(".conv.", f".{kind}.{kind}.") for kind in ("conv", "convtr"))
        made[plain if plain in wanted else transposed] = value
    return made


ENCODEC_32 = {
    "sampling_rate": 32_000,
    "upsampling_ratios": [8, 5, 4, 4],
    "use_causal_conv": False,
    "use_conv_shortcut": False,
}


@pytest.mark.parametrize(
    "changes",
    forms(
        ("light 24 kHz", ENCODEC),
        ("light 32 kHz", {**ENCODEC, **ENCODEC_32, "target_bandwidths": [1.2]}),
        ("true 24 kHz", {}),
    ),
)
def test_encodec_is_that_of_its_package(changes: dict[str, Any], tmp_path: Path) -> None:
    package = reference("encodec", "encodec.model", {"torchaudio": {}})
    tokenizer = load("encodec", tmp_path / "ours", **changes)
    config = tokenizer.model.config
    if changes:
        sizes = {
            "dimension": config.hidden_size,
            "n_filters": config.num_filters,
            "lstm": config.num_lstm_layers,
            "ratios": config.upsampling_ratios,
            "causal": config.use_causal_conv,
            "true_skip": not config.use_conv_shortcut,
            "norm": "weight_norm",
        }
        quantizer = package.qt.ResidualVectorQuantizer(config.hidden_size, n_q=4, bins=config.codebook_size)
        parts = (package.m.SEANetEncoder(**sizes), package.m.SEANetDecoder(**sizes), quantizer)
        model = package.EncodecModel(*parts, config.target_bandwidths, config.sampling_rate, 1)
    else:
        model = package.EncodecModel.encodec_model_24khz(pretrained=False)
    published = EncodecModel.from_pretrained(tmp_path / "ours").state_dict()
    model.load_state_dict(seanet_names(published, model.state_dict()))
    model.double().eval().set_target_bandwidth(max(config.target_bandwidths))
    check(tokenizer, lambda x: model.encode(x)[0][0], lambda codes: model.decode([(codes, None)]))


@pytest.mark.parametrize(
    "changes",
    forms(
        ("light", {"n_filters": 4, "dimension": 24, "codebook_size": 64, "n_q": 3}),
        ("light Snake", {"n_filters": 4, "dimension": 24, "codebook_size": 64, "n_q": 3, "activation": "Snake"}),
        ("true", {}),
    ),
)
def test_speechtokenizer_is_that_of_its_package(changes: dict[str, Any], tmp_path: Path) -> None:
    """The package reads the very files that ours does."""
    unused: dict[str, dict[str, Any]] = {"speechtokenizer.trainer": {}}
    package = reference("speechtokenizer", "speechtokenizer", unused)
    tokenizer = load("speechtokenizer", tmp_path / "ours", **changes)
    config = json.loads((tmp_path / "ours/config.json").read_text())
    model = package.SpeechTokenizer({**config, "semantic_dimension": config["dimension"]})
    state = torch.load(tmp_path / "ours/SpeechTokenizer.pt", weights_only=True)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert {name.rpartition(".")[2] for name in missing} <= {"inited", "cluster_size", "embed_avg"}, "training's own"
    for name, buffer in model.named_buffers():
        if name.endswith("inited"):
            buffer.fill_(1)
    model.double().eval()
    check(tokenizer, lambda x: model.encode(x).transpose(0, 1), lambda codes: model.decode(codes.transpose(0, 1)))


# DAC: from transformers' names to those of `descript-audio-codec`, where a network is one sequence of layers.
RESIDUAL = {"snake1": "block.0", "conv1": "block.1", "snake2": "block.2", "conv2": "block.3"}


def dac_names(state: State, blocks: int) -> dict[str, torch.Tensor]:
    """From transformers' names of DAC to those of `dac`, without its weight normalization."""
    made = {}
    for name, value in state.items():
        half, _, rest = name.partition(".")
        if half == "quantizer":
            made[name] = value
            continue
        ends = {"conv1": "0", "snake1": str(blocks + 1), "conv2": str(blocks + 2)}
        order = ["res_unit1", "res_unit2", "res_unit3", "snake1", "conv1"]
        if half == "decoder":
            order = ["snake1", "conv_t1", "res_unit1", "res_unit2", "res_unit3"]
        path = rest.split(".")
        if path[0] == "block":
            unit = [f"block.{order.index(path[2])}", *([RESIDUAL[path[3]]] if len(path) == 5 else [])]
            path = [str(int(path[1]) + 1), *unit, path[-1]]
        else:
            path = [ends[path[0]], path[-1]]
        made[".".join([half, "block" if half == "encoder" else "model", *path])] = value
    return made


DAC_16, DAC_44 = [2, 4, 5, 8], [2, 4, 8, 8]
DAC_24 = {"sampling_rate": 24_000, "n_codebooks": 32}
DAC_441 = {"sampling_rate": 44_100, "n_codebooks": 9, "downsampling_ratios": DAC_44}


@pytest.mark.parametrize(
    "changes",
    forms(
        ("light 16 kHz", DAC),
        ("light 24 kHz", {**DAC, **DAC_24}),
        ("light 44.1 kHz", {**DAC, **DAC_441}),
        ("true 16 kHz", {}),
        ("true 24 kHz", DAC_24),
        ("true 44.1 kHz", DAC_441),
    ),
)
def test_dac_is_that_of_its_package(changes: dict[str, Any], tmp_path: Path) -> None:
    base = type("BaseModel", (nn.Module,), {"INTERN": [], "EXTERN": []})
    unused: dict[str, dict[str, Any]] = {"audiotools": {}, "audiotools.ml": {"BaseModel": base}, "dac.utils": {}}
    dac = reference("descript-audio-codec", "dac", unused)
    tokenizer = load("dac", tmp_path / "ours", **changes)
    config = tokenizer.model.config
    model = dac.DAC(
        encoder_dim=config.encoder_hidden_size,
        encoder_rates=config.downsampling_ratios,
        decoder_dim=config.decoder_hidden_size,
        decoder_rates=config.downsampling_ratios[::-1],
        n_codebooks=config.n_codebooks,
        codebook_size=config.codebook_size,
        sample_rate=config.sampling_rate,
    )
    for module in model.modules():
        if hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
    model.load_state_dict(dac_names(tokenizer.model.state_dict(), len(config.downsampling_ratios)))
    model.double().eval()
    check(
        tokenizer,
        lambda x: model.encode(model.preprocess(x, config.sampling_rate))[1],
        lambda codes: model.decode(model.quantizer.from_codes(codes)[0]),
    )


def mimi_names(state: State, wanted: Collection[str], heads: int) -> dict[str, torch.Tensor]:
    """From transformers' names of Mimi to those of `moshi`, which keeps queries, keys and values in one matrix, and
    turns neighbouring features of a head where transformers turns those half a head apart."""
    made, parts = {}, {}
    for name, value in state.items():
        found = re.fullmatch(r"(?:\w+\.)?(\w+)_transformer\.layers\.(\d+)\.(.*)", name)
        if found:
            layer = f"{found[1]}_transformer.transformer.layers.{found[2]}"
            if matrix := re.fullmatch(r"self_attn\.([qkv])_proj\.weight", found[3]):
                width = value.shape[1]
                turned = value.view(heads, 2, -1, width).transpose(1, 2).reshape(-1, width)
                parts.setdefault(layer, {})[matrix[1]] = value if matrix[1] == "v" else turned
            else:
                made[f"{layer}.{MIMI_LAYER[found[3].rpartition('.')[0]]}.{found[3].rpartition('.')[2]}"] = value
        elif name.startswith("quantizer."):
            name = name.replace("semantic_residual_vector_quantizer", "rvq_first").replace(
                ".embed_sum", ".embedding_sum"
            )
            name = name.replace("acoustic_residual_vector_quantizer", "rvq_rest").replace(
                ".initialized", "._initialized"
            )
            made[name.replace(".layers.", ".vq.layers.").replace(".codebook.", "._codebook.")] = value
        elif "sample.conv" in name:
            up = "upsample" in name
            made["upsample.convtr.convtr.convtr.weight" if up else "downsample.conv.conv.conv.weight"] = value
        else:
            name = re.sub(r".*(encoder|decoder)_seanet\.", r"\1.", name)
            made |= seanet_names({name: value}, wanted)
    for layer, three in parts.items():
        made[f"{layer}.self_attn.in_projs.0.weight"] = torch.cat([three[which] for which in "qkv"])
    return made


MIMI_LAYER = {
    "self_attn.o_proj": "self_attn.out_projs.0",
    "input_layernorm": "norm1",
    "post_attention_layernorm": "norm2",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
    "self_attn_layer_scale": "layer_scale_1",
    "mlp_layer_scale": "layer_scale_2",
}


def moshi_mimi(tokenizer: Any) -> Any:
    """The codec of the package `moshi` with the weights of ours, in float64."""
    loaders = reference("moshi", "moshi.models.loaders", {"sphn": {}, "bitsandbytes": {}, "sounddevice": {}})
    config = tokenizer.model.config
    seanet, layers = loaders._seanet_kwargs, loaders._transformer_kwargs
    sizes = {
        "seanet": {**seanet, "dimension": config.hidden_size, "n_filters": config.num_filters},
        "transformer": {
            **layers,
            "d_model": config.hidden_size,
            "input_dimension": config.hidden_size,
            "output_dimensions": [config.hidden_size],
            "num_layers": config.num_hidden_layers,
            "num_heads": config.num_attention_heads,
            "dim_feedforward": config.intermediate_size,
            "context": config.sliding_window,
        },
        "quantizer": {
            "dimension": config.vector_quantization_hidden_dimension,
            "n_q": config.num_quantizers,
            "bins": config.codebook_size,
            "input_dimension": config.hidden_size,
            "output_dimension": config.hidden_size,
        },
    }
    made = loaders.get_mimi(None, {**loaders._mimi_config, **sizes}, num_codebooks=config.num_quantizers)
    made.load_state_dict(mimi_names(tokenizer.model.state_dict(), made.state_dict(), config.num_attention_heads))
    return made.double()


@pytest.fixture
def _moshi_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """moshi turns queries and keys in float32 whatever they are in, and compiles what does so when it is called."""
    to_float32 = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else to_float32(x))
    monkeypatch.setenv("NO_TORCH_COMPILE", "1")


@pytest.mark.usefixtures("_moshi_in_float64")
@pytest.mark.parametrize("changes", forms(("light", MIMI), ("true", {})))
def test_mimi_is_that_of_moshi(changes: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = load("mimi", tmp_path / "ours", **changes)
    model = moshi_mimi(tokenizer)
    check(tokenizer, model.encode, model.decode)


@pytest.mark.usefixtures("_moshi_in_float64")
def test_a_stream_of_mimi_is_that_of_moshi(tmp_path: Path) -> None:
    """Frame by frame, past the window of attention: moshi's own streams, ours, and ours at once."""
    tokenizer = load("mimi", tmp_path / "ours", **MIMI)
    model, clip = moshi_mimi(tokenizer), real_clips(24_000)[0]
    clip = AudioClip("whole frames", clip.samples[: 24 * 1920], 24_000)
    frames = torch.from_numpy(clip.samples).double().view(1, 1, -1).split(1920, dim=-1)
    with torch.no_grad(), model.streaming(1):
        expected = torch.cat([model.encode(frame) for frame in frames], dim=-1)
        audio = torch.cat([model.decode(codes) for codes in expected.split(1, dim=-1)], dim=-1).flatten().numpy()
    stream, back = tokenizer.stream_encoder(), tokenizer.stream_decoder()
    made = np.concatenate([*(stream.feed(part) for part in np.split(clip.samples, 24)), stream.finish()])
    assert np.array_equal(made, expected[0].T.numpy())
    assert np.array_equal(tokenizer.encode([clip])[0].codes, made)
    heard = np.concatenate([*(back.feed(frame[None]) for frame in made), back.finish()])
    # Two steps of the decoder enter moshi's cache at once, which is as long as its window: the first of them misses the
    # oldest step that it may see. Ours sees it, as moshi does when it decodes at once.
    np.testing.assert_allclose(heard[: 4 * 1920], audio[: 4 * 1920], atol=1e-6 * np.abs(audio).max())
    np.testing.assert_allclose(heard, audio, atol=1e-5 * np.abs(audio).max())
    assert len(np.unique(made, axis=0)) > 10
