"""FocalCodec's checkpoints, as either release of its authors' code wrote them: what configurations may say, and the
names of the weights in our network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.errors import UsageError
from slm.tokenizers._checkpoints import read_config

if TYPE_CHECKING:
    import torch

_FOCAL: Mapping[str, Any] = {"focal_window": 7, "focal_level": 2, "focal_factor": 2}
# Of each part of lucadellalib/focalcodec_50hz: the shapes of its weights, else the defaults of the first release.
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "encoder": {
        "hidden_dims": [512] * 7,
        "kernel_sizes": [10, 3, 3, 3, 3, 2, 2],
        "strides": [5, 2, 2, 2, 2, 2, 2],
        "num_layers": 6,
        "dim": 1024,
        "ffn_dim": 4096,
        "num_heads": 16,
        "num_buckets": 320,
        "max_distance": 800,
        "conv_pos": 128,
        "conv_pos_groups": 16,
    },
    "compressor": {
        "input_dim": 1024,
        "output_dim": 13,
        "hidden_dims": [1024, 512, 256],
        "downscale_factors": [1, 1, 1],
        **_FOCAL,
    },
    "quantizer": {"codebook_size": 8192},
    "decompressor": {
        "input_dim": 13,
        "output_dim": 1024,
        "hidden_dims": [256, 512, 1024],
        "upscale_factors": [1, 1, 1],
        **_FOCAL,
    },
    "decoder": {
        "input_dim": 1024,
        "num_layers": 8,
        "dim": 512,
        "ffn_dim": 1536,
        "kernel_size": 7,
        "n_fft": 1024,
        "hop_length": 320,
    },
}
CLASSES = {
    "encoder": "WavLM",
    "compressor": "FocalEncoder",
    "quantizer": "BinarySphericalQuantizer",
    "decompressor": "FocalDecoder",
    "decoder": "Vocos",
}
_FIXED = {"use_post_norm": False, "use_layerscale": False, "normalize_modulator": False, "kernel_size": 7}
# Of training, of causal networks, or of how the authors' code goes about it.
_WITHOUT_EFFECT = {
    *("dropout", "layerscale_init", "tanhscale_init", "store_hidden", "padding", "max_cached_steps"),
    *("window_size", "last_window_size", "lookahead_size", "use_flex_attention"),
}
# Where a name begins in a checkpoint (# is a number) -> in our network; of the first release, which the published ones
# are of, before the second. What is not here has one name.
_NAMES = (
    ("encoder.feature_extractor.layers.#.conv.", "encoder.wavlm.feature_extractor.conv_layers.#.conv."),
    ("encoder.feature_extractor.layers.#.norm.", "encoder.wavlm.feature_extractor.conv_layers.#.layer_norm."),
    ("encoder.norm.", "encoder.wavlm.feature_projection.layer_norm."),
    ("encoder.feature_proj.", "encoder.wavlm.feature_projection.projection."),
    ("encoder.encoder.positional_embedding.", "encoder.wavlm.encoder.pos_conv_embed."),
    ("encoder.encoder.relative_embedding.", "encoder.wavlm.encoder.layers.0.attention.rel_attn_embed."),
    ("encoder.encoder.layers.#.attention_norm.", "encoder.wavlm.encoder.layers.#.layer_norm."),
    ("encoder.encoder.layers.#.attention.", "encoder.wavlm.encoder.layers.#.attention."),
    ("encoder.encoder.layers.#.feed_forward_norm.", "encoder.wavlm.encoder.layers.#.final_layer_norm."),
    (
        "encoder.encoder.layers.#.feed_forward.in_proj.",
        "encoder.wavlm.encoder.layers.#.feed_forward.intermediate_dense.",
    ),
    ("encoder.encoder.layers.#.feed_forward.out_proj.", "encoder.wavlm.encoder.layers.#.feed_forward.output_dense."),
    ("compressor.layers.#.0.", "encoder.compressor.layers.#.downscale."),
    ("compressor.layers.#.1.", "encoder.compressor.layers.#.focal_block."),
    ("compressor.", "encoder.compressor."),
    ("decompressor.layers.#.0.", "decompressor.layers.#.focal_block."),
    ("decompressor.layers.#.1.", "decompressor.layers.#.upscale."),
    ("decoder.head.proj.", "decoder.head.out."),
)
_NOT_READ = {"encoder.encoder.norm.weight", "encoder.encoder.norm.bias", "quantizer.mask"}
"""Of the first release; neither computes with them."""
WINDOW = "decoder.head.istft.window"
"""Of our network, and of no checkpoint."""


def read_focal_config(path: Path) -> dict[str, dict[str, Any]]:
    """Part -> its fields."""
    given = read_config(path)
    if "compressor_config" not in given:
        raise UsageError(f"{path} is no configuration of FocalCodec: it has no compressor_config")
    fields = {part: given.get(f"{part}_config") or {} for part in PUBLISHED}
    if wrong := [part for part, values in fields.items() if not isinstance(values, dict)]:
        raise UsageError(f"{path} has {wrong[0]}_config {fields[wrong[0]]!r}, not fields")
    if any(values.get("causal") for values in fields.values()) or given.get("decoder_name") == "WaveNeXt":
        raise UsageError(f"{path} is of a causal FocalCodec, which is not read: take focalcodec_50hz, _25hz or _12_5hz")
    config = {part: _read_part(path, part, given, values) for part, values in fields.items()}
    _check_fit(path, **config)
    return config


def _read_part(path: Path, part: str, given: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    known, name = PUBLISHED[part], given.get(f"{part}_name", CLASSES[part])
    if name != CLASSES[part]:
        raise UsageError(f"{path} has {part}_name {name!r}: only {CLASSES[part]!r} is known")
    values = {"input_dim" if field == "input_channels" else field: value for field, value in values.items()}
    for field, value in values.items():
        where = f"{path} has {field} {value!r} in {part}_config"
        if field not in {*known, *_FIXED, *_WITHOUT_EFFECT, "causal"}:
            raise UsageError(f"{where}, which is not known")
        if field in _FIXED and value != _FIXED[field]:
            raise UsageError(f"{where}: only {_FIXED[field]!r} is known")
        if field in known and not _is_as(known[field], value):
            wanted = "a list of whole numbers" if isinstance(known[field], list) else "a whole number"
            raise UsageError(f"{where}, not {wanted} from 1 on")
    return {field: values.get(field, value) for field, value in known.items()}


def _is_as(published: Any, value: Any) -> bool:
    numbers = value if isinstance(published, list) else [value]
    return isinstance(numbers, list) and bool(numbers) and all(type(n) is int and n > 0 for n in numbers)


def _check_fit(
    path: Path,
    encoder: Mapping[str, Any],
    compressor: Mapping[str, Any],
    quantizer: Mapping[str, Any],
    decompressor: Mapping[str, Any],
    decoder: Mapping[str, Any],
) -> None:
    """UsageError for parts that do not fit one another."""
    bits, size, hop = compressor["output_dim"], quantizer["codebook_size"], prod(encoder["strides"])
    down, up = prod(compressor["downscale_factors"]), prod(decompressor["upscale_factors"])
    layers = [len(encoder[field]) for field in ("hidden_dims", "kernel_sizes", "strides")]
    halves = ((compressor, "downscale_factors"), (decompressor, "upscale_factors"))
    for fault, fits in {
        f"convolutions of {layers} layers": len(set(layers)) == 1,
        "hidden_dims and factors of different lengths": all(
            len(half["hidden_dims"]) == len(half[factors]) for half, factors in halves
        ),
        f"{encoder['num_heads']} heads for a dim of {encoder['dim']}": encoder["dim"] % encoder["num_heads"] == 0,
        f"{encoder['conv_pos_groups']} conv_pos_groups for a dim of {encoder['dim']}": (
            encoder["dim"] % encoder["conv_pos_groups"] == 0
        ),
        f"a max_distance of {encoder['max_distance']} for {encoder['num_buckets']} num_buckets": (
            encoder["max_distance"] > encoder["num_buckets"] // 4 > 0  # distances up to there have buckets of their own
        ),
        f"a compressor that reads {compressor['input_dim']} numbers of {encoder['dim']}": (
            compressor["input_dim"] == encoder["dim"]
        ),
        f"a codebook of {size} for {bits} bits, of which {decompressor['input_dim']} are read": (
            bits < 32 and size == 2**bits and decompressor["input_dim"] == bits
        ),
        f"a decoder that reads {decoder['input_dim']} numbers of {decompressor['output_dim']}": (
            decoder["input_dim"] == decompressor["output_dim"]
        ),
        f"a code of {down} frames that comes back as {up}": down == up,
        f"a frame of {hop} samples that comes back as {decoder['hop_length']}": hop == decoder["hop_length"],
        f"an n_fft of {decoder['n_fft']} for a hop of {hop}": decoder["n_fft"] % 2 == 0 and decoder["n_fft"] >= hop,
    }.items():
        if not fits:
            raise UsageError(f"{path} has {fault}")


def own_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a checkpoint by the names of our network, in fp32. In the second release queries, keys and values are
    projected together."""
    own: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if name in _NOT_READ:
            continue
        name = _renamed(name, _NAMES)
        if ".qkv_proj." in name and len(value) % 3 == 0:
            parts = value.float().chunk(3)
            own |= {name.replace("qkv_proj", f"{letter}_proj"): part for letter, part in zip("qkv", parts, strict=True)}
        else:
            own[name] = value.float()
    return own


def published_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse, as published."""
    inverse = [(ours, theirs) for theirs, ours in _NAMES]
    return {_renamed(name, inverse): value.contiguous() for name, value in state.items() if name != WINDOW}


def _renamed(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for old, new in pairs:
        if found := re.match(re.escape(old).replace(r"\#", r"(\d+)"), name):
            return new.replace("#", "".join(found.groups())) + name[found.end() :]
    return name
