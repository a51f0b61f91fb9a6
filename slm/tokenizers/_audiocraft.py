"""EnCodec as audiocraft publishes it (github.com/facebookresearch/audiocraft): beside AudioGen, MusicGen and others.

`compression_state_dict.bin` holds the training configuration as YAML text (`xp.cfg`) and the weights (`best_state`), or
only the name of a checkpoint of transformers (`pretrained`). The network is that of `transformers.EncodecModel` under
other names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slm.errors import UsageError
from slm.tokenizers._bounded import loaded
from slm.tokenizers._checkpoints import find_files, read_tensors

FILE_NAME = "compression_state_dict.bin"

# What transformers' network cannot be: (key of xp.cfg, the value it must have).
_REQUIRED: tuple[tuple[str, Any], ...] = (
    ("compression_model", "encodec"),
    ("encodec.autoencoder", "seanet"),
    ("encodec.quantizer", "rvq"),
    ("seanet.activation", "ELU"),
    ("seanet.activation_params.alpha", 1.0),
    ("seanet.disable_norm_outer_blocks", 0),
    ("seanet.decoder.final_activation", None),
    ("seanet.encoder", {}),
)
# Field of EncodecConfig: key of xp.cfg.
_FIELDS = {
    "sampling_rate": "encodec.sample_rate",
    "audio_channels": "encodec.channels",
    "normalize": "encodec.renormalize",
    "use_causal_conv": "seanet.causal",
    "hidden_size": "seanet.dimension",
    "codebook_dim": "seanet.dimension",
    "num_filters": "seanet.n_filters",
    "num_residual_layers": "seanet.n_residual_layers",
    "upsampling_ratios": "seanet.ratios",
    "norm_type": "seanet.norm",
    "kernel_size": "seanet.kernel_size",
    "residual_kernel_size": "seanet.residual_kernel_size",
    "last_kernel_size": "seanet.last_kernel_size",
    "dilation_growth_rate": "seanet.dilation_base",
    "pad_mode": "seanet.pad_mode",
    "compress": "seanet.compress",
    "num_lstm_layers": "seanet.lstm",
    "trim_right_ratio": "seanet.decoder.trim_right_ratio",
    "codebook_size": "rvq.bins",
}


def find_package(checkpoint: str, otherwise: Callable[[], Any]) -> dict[str, Any] | None:
    """What the `compression_state_dict.bin` of a folder or hub id holds; None for a checkpoint of another form.

    A hub id is asked for that file only where `otherwise`, which looks for the other form, raises UsageError; where
    neither is there, that error stands.
    """
    if (file := Path(checkpoint).expanduser() / FILE_NAME).is_file():
        return _read(file)
    try:
        otherwise()
    except UsageError as error:
        try:
            file = find_files(checkpoint, [FILE_NAME])[FILE_NAME]
        except UsageError:
            raise error from None
        return _read(file)
    return None


def _read(path: Path) -> dict[str, Any]:
    package = read_tensors(path)
    if isinstance(package, dict) and isinstance(package.get("pretrained"), str):
        return package
    if not isinstance(package, dict) or not isinstance(package.get("xp.cfg"), str) or "best_state" not in package:
        raise UsageError(f"{path} is no compression model of audiocraft: it needs `xp.cfg` (YAML) and `best_state`")
    return package


def encodec_config(text: str, checkpoint: str) -> Any:
    """The `EncodecConfig` of a training configuration. UsageError for what that network cannot be."""
    import yaml
    from transformers import EncodecConfig

    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{checkpoint}: xp.cfg is no YAML: {' '.join(str(error).split())}") from error
    for key, wanted in _REQUIRED:
        if (found := _look_up(settings, key, checkpoint)) != wanted:
            raise UsageError(f"{checkpoint}: {key} is {found!r}; only {wanted!r} is supported")
    fields = {field: _look_up(settings, key, checkpoint) for field, key in _FIELDS.items()}
    fields["use_conv_shortcut"] = not _look_up(settings, "seanet.true_skip", checkpoint)
    config = EncodecConfig(**fields)
    # transformers counts codebooks by the kbit/s that they cost; a little more, so that rounding takes none away.
    config.target_bandwidths = [
        count * config.codebook_nbits * config.frame_rate / 1000 + 1e-6
        for count in range(1, _look_up(settings, "rvq.n_q", checkpoint) + 1)
    ]
    return config


def _look_up(settings: Mapping[str, Any], key: str, checkpoint: str) -> Any:
    """The value at a dotted key; `${other.key}` stands for another's value."""
    value: Any = settings
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise UsageError(f"{checkpoint}: xp.cfg lacks {key}")
        value = value[part]
    reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    return _look_up(settings, reference[1], checkpoint) if reference else value


def encodec_model(config: Any, state: Mapping[str, Any], checkpoint: str) -> Any:
    """`transformers.EncodecModel` in fp32 for inference with audiocraft's weights. UsageError when they do not fit."""
    from transformers import EncodecModel

    model = loaded(lambda: EncodecModel(config), {_renamed(name): value for name, value in state.items()}, checkpoint)
    return model.float().eval().requires_grad_(False)


def _renamed(name: str) -> str:
    """A weight's name in audiocraft -> in transformers."""
    name = re.sub(r"^(encoder|decoder)\.model\.", r"\1.layers.", name)
    name = name.replace(".conv.conv.", ".conv.").replace(".convtr.convtr.", ".conv.").replace(".conv.norm.", ".norm.")
    name = name.replace("quantizer.vq.layers.", "quantizer.layers.").replace("._codebook.", ".codebook.")
    name = re.sub(r"\.weight_g$", ".parametrizations.weight.original0", name)
    return re.sub(r"\.weight_v$", ".parametrizations.weight.original1", name)
