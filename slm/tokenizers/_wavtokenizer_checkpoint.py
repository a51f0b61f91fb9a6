"""WavTokenizer's checkpoints: its authors' Lightning files, and those of transformers (from its 5.24 on).

Either way the weights come out under the names that the authors publish them by, and the configuration as their YAML
has it: the same weights have one fingerprint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.errors import UsageError
from slm.tokenizers._checkpoints import find_files, read_config, read_tensors
from slm.tokenizers._seanet import pick

if TYPE_CHECKING:
    import torch

# The authors' two configurations lie beside the small models; the medium and large ones are built alike.
_HUB_CONFIG = "novateur/WavTokenizer/wavtokenizer_smalldata_frame{}_3s_nq1_code4096_dim512_kmeans200_attn.yaml"
_SECTIONS = {
    "feature_extractor": ("dowmsamples", "vq_bins", "num_quantizers"),  # spelled like this
    "backbone": ("input_channels", "dim", "intermediate_dim", "num_layers", "adanorm_num_embeddings"),
    "head": ("n_fft", "hop_length", "padding"),
}
ENCODER = "feature_extractor.encodec."
FIRST = f"{ENCODER}encoder.model.0.conv.conv.weight_v"

SAMPLE_RATE_HZ = 24_000
_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")  # of transformers
_WIDTHS = {
    "upsampling_ratios": [6, 5, 5, 4],
    "hidden_size": 512,
    "codebook_size": 4096,
    "decoder_hidden_size": 768,
    "decoder_intermediate_size": 2304,
    "decoder_num_layers": 12,
    "adanorm_num_embeddings": 4,
}
_FIXED = {
    "sampling_rate": SAMPLE_RATE_HZ,
    "audio_channels": 1,
    "num_residual_layers": 1,
    "compress": 2,
    "use_conv_shortcut": True,
    "use_causal_conv": False,
    "pad_mode": "reflect",
    "norm_type": "weight_norm",
    "kernel_size": 7,
    "last_kernel_size": 7,
    "residual_kernel_size": 3,
    "num_lstm_layers": 2,
    "decoder_attention_num_groups": 32,
    "norm_eps": 1e-6,
}
# Parts of names in transformers -> those of the authors'.
_NAMES = (
    (r"^encoder_model\.encoder\.layers\.", f"{ENCODER}encoder.model."),
    (r"^encoder_model\.quantizer\.codebook\.", f"{ENCODER}quantizer.vq.layers.0._codebook."),
    (r"^head\.linear\.", "head.out."),
    (r"(?<=\d|t)\.conv\.(?=parametrizations|weight|bias)", ".conv.conv."),
    (r"parametrizations\.weight\.original0$", "weight_g"),
    (r"parametrizations\.weight\.original1$", "weight_v"),
)


@dataclass(frozen=True)
class Release:
    """`form`: the sections of the authors' YAML that say how the network is built; `state`: its weights by their names;
    `weights`: where they lie; `peak`: what the loudest sample of every clip is brought to before it is coded, if it
    is."""

    form: Mapping[str, Mapping[str, Any]]
    state: Mapping[str, torch.Tensor]
    weights: Path
    peak: float | None = None


def read_release(checkpoint: str, config: str | None) -> Release:
    """A checkpoint by its path or its place on the hub. UsageError where it cannot be had, or its files do not fit."""
    if _is_of_transformers(checkpoint):
        if config is not None:
            raise UsageError(
                f"`config` goes with a .ckpt file, and {checkpoint} names none: leave it out where the checkpoint is a "
                "folder or hub id of transformers"
            )
        return _of_transformers(checkpoint)
    weights_path, config_path = _find(checkpoint, config)
    form = _read_yaml(config_path)
    return Release(form, _inference_weights(read_tensors(weights_path), weights_path), weights_path)


def _is_of_transformers(checkpoint: str) -> bool:
    """A folder with a config.json and no .ckpt, or the hub id of such a repository; those of the authors hold several
    checkpoints: one is named."""
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return (folder / _FILES[0]).is_file() and not any(folder.glob("*.ckpt"))
    own = checkpoint.startswith((".", "~", "/", "novateur/")) or checkpoint.endswith(".ckpt")
    return checkpoint.count("/") == 1 and not own and not Path(checkpoint).exists()


def _find(checkpoint: str, config: str | None) -> tuple[Path, Path]:
    """The authors' files of weights and configuration."""
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return _only(folder, ".ckpt"), _at(config) if config else _only(folder, ".yaml")
    if not checkpoint.endswith(".ckpt"):
        raise UsageError(
            f"{checkpoint} names no .ckpt file: give a folder with a .ckpt and a .yaml, a folder or hub id of "
            "transformers, or one file, such as novateur/WavTokenizer/WavTokenizer_small_600_24k_4096.ckpt"
        )
    weights = _at(checkpoint)
    if config:
        return weights, _at(config)
    if folder.is_file():
        return weights, _only(folder.parent, ".yaml")
    return weights, _at(_HUB_CONFIG.format(40 if "_600_" in folder.name else 75))


def _at(address: str) -> Path:
    """One file by its path, or by its place on the hub."""
    place, _, name = address.rpartition("/")
    return find_files(place or ".", [name])[name]


def _only(folder: Path, suffix: str) -> Path:
    found = sorted(folder.glob(f"*{suffix}"))
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        setting = "checkpoint" if suffix == ".ckpt" else "config"
        raise UsageError(f"{folder} must hold one {suffix} file, not {listed}: name the file by `{setting}`")
    return found[0]


def _read_yaml(path: Path) -> dict[str, dict[str, Any]]:
    """The fields of each section that say how the network is built."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    model = pick(pick(values, ["model"], str(path))["model"], ["init_args"], f"{path}: model")["init_args"]
    form = {}
    for section, names in _SECTIONS.items():
        where = f"{path}: {section}"
        arguments = pick(pick(model, [section], str(path))[section], ["init_args"], where)["init_args"]
        form[section] = pick(arguments, names, where)
    extractor, head = form["feature_extractor"], form["head"]
    if extractor["num_quantizers"] != 1 or head["padding"] != "same":
        raise UsageError(
            f"{path}: WavTokenizer has one quantizer and a head with padding 'same'; nothing else is known"
        )
    if prod(extractor["dowmsamples"]) != head["hop_length"]:
        raise UsageError(
            f"{path}: the encoder's strides make a hop of {prod(extractor['dowmsamples'])} samples, the head's is "
            f"{head['hop_length']}"
        )
    return form


def _inference_weights(loaded: Any, path: Path) -> dict[str, torch.Tensor]:
    """What codes and decodes, by published names: a Lightning checkpoint also holds discriminators, the optimizer and
    the decoder of an EnCodec that nothing uses."""
    state = loaded.get("state_dict") if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or FIRST not in state:
        raise UsageError(f"{path} holds no WavTokenizer: it must be the authors' Lightning checkpoint")
    quantizer = f"{ENCODER}quantizer."
    return {
        name: value
        for name, value in state.items()
        if name.startswith(("backbone.", "head.", f"{ENCODER}encoder."))
        or (name.startswith(quantizer) and name.endswith(".embed"))
    }


def _of_transformers(checkpoint: str) -> Release:
    config, preprocessor, weights = find_files(checkpoint, _FILES).values()
    return Release(_form_of(config), _published_state(weights), weights, _peak_of(preprocessor))


def _form_of(path: Path) -> dict[str, dict[str, Any]]:
    """A config.json as the sections of the authors' YAML."""
    given = read_config(path)
    if given.get("model_type") != "wavtokenizer":
        raise UsageError(f"{path} is no configuration of WavTokenizer: it has model_type {given.get('model_type')!r}")
    for field, value in _FIXED.items():
        if given.get(field, value) != value:
            raise UsageError(f"{path} has {field} {given[field]!r}: only {value!r} is known")
    width = {field: given.get(field, value) for field, value in _WIDTHS.items()}
    for field, value in width.items():
        numbers = value if field == "upsampling_ratios" else [value]
        if not isinstance(numbers, list) or not numbers or not all(type(n) is int and n > 0 for n in numbers):
            raise UsageError(f"{path} has {field} {value!r}, which is not of whole numbers from 1 on")
    hop = prod(width["upsampling_ratios"])
    return {
        "feature_extractor": {
            "dowmsamples": width["upsampling_ratios"],
            "vq_bins": width["codebook_size"],
            "num_quantizers": 1,
        },
        "backbone": {
            "input_channels": width["hidden_size"],
            "dim": width["decoder_hidden_size"],
            "intermediate_dim": width["decoder_intermediate_size"],
            "num_layers": width["decoder_num_layers"],
            "adanorm_num_embeddings": width["adanorm_num_embeddings"],
        },
        "head": {"n_fft": 4 * hop, "hop_length": hop, "padding": "same"},
    }


def _published_state(path: Path) -> dict[str, torch.Tensor]:
    """The weights by the authors' names, with the window that transformers does not store."""
    import torch

    state = {}
    for name, value in read_tensors(path).items():
        if name.startswith("encoder_model.quantizer.") and not name.endswith(".embed"):
            continue  # statistics of training
        for own, published in _NAMES:
            name = re.sub(own, published, name)
        state[name] = value
    if FIRST not in state or "head.out.weight" not in state:
        raise UsageError(f"{path} holds no WavTokenizer with its decoder, as transformers saves it")
    return {**state, "head.istft.window": torch.hann_window(max(1, len(state["head.out.weight"]) - 2))}


def _peak_of(path: Path) -> float | None:
    given = read_config(path)
    if not given.get("normalize_audio", False):
        return None
    peak_db = given.get("target_peak_dB_FS", -3.0)
    if type(peak_db) not in (int, float) or not -120 <= peak_db <= 0:
        raise UsageError(f"{path} has target_peak_dB_FS {peak_db!r}, not a level in dB from -120 to 0")
    return float(10.0 ** (peak_db / 20.0))
