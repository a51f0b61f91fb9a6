"""NeMo's checkpoints: what a `.nemo` file says of an audio codec, of which what inference uses is taken."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Mapping, Set
from math import prod
from pathlib import Path
from reprlib import Repr
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from slm.errors import UsageError
from slm.tokenizers._checkpoints import find_files, fold_weight_norm, load_strict, read_tensors

if TYPE_CHECKING:
    import torch

    from slm.tokenizers.networks.nemo_audio_codec import Form, GroupedScalars, NemoAudioCodec

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
_PARTS = ("audio_encoder", "audio_decoder", "vector_quantizer")
_LARGEST, _MOST_CODES = 2**20, 2**31
_SHORT = Repr()
"""Of values in errors: what YAML's aliases say in a line may be longer than memory."""
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxstring = 2, 16, 60
# What NeMo takes where a configuration does not say; of what is causal, zeros and groups of their own channels.
_BLOCKS: Mapping[str, Any] = {
    "in_kernel_size": 7,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [1, 3, 5],
    "activation": "lrelu",
    "pad_mode": "reflect",
}
_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "audio_encoder": {
        "encoded_dim": None,
        "down_sample_rates": [2, 2, 8, 8],
        "base_channels": 32,
        "out_kernel_size": 7,
        **_BLOCKS,
    },
    "audio_decoder": {
        "input_dim": None,
        "up_sample_rates": [8, 8, 2, 2],
        "base_channels": 512,
        "out_kernel_size": 3,
        **_BLOCKS,
        "output_activation": "tanh",
        "n_groups_equal_to_out_channels": False,
    },
}
_WORDS = {
    "activation": ("elu", "lrelu", "snake", "half_snake"),
    "output_activation": ("tanh", "clamp"),
    "pad_mode": ("zeros", "reflect", "replicate"),
}


class NemoConfig:
    """What a configuration says of inference; UsageError where it is of another codec, or none. `what` it is of."""

    def __init__(self, config: Mapping[str, Any], what: str):
        self.sample_rate_hz: int = _whole(config, "sample_rate", what)
        output_rate_hz = config.get("output_sample_rate", self.sample_rate_hz)
        if output_rate_hz != self.sample_rate_hz:
            raise UsageError(
                f"{what} hears {self.sample_rate_hz} Hz and gives {_SHORT.repr(output_rate_hz)}: that is not read here"
            )
        self.encoder, self.decoder = (_form(config, name, what) for name in _FIELDS)
        self.hop_samples = _whole(config, "samples_per_frame", what)
        for form, told in ((self.encoder, "is encoded as"), (self.decoder, "comes back as")):
            if prod(form.rates) != self.hop_samples:
                raise UsageError(f"{what}: a frame of {self.hop_samples} samples {told} {prod(form.rates)}")
        quantizer = _part(config, "vector_quantizer", "GroupFiniteScalarQuantizer", what)
        _refuse_unknown(quantizer.keys() - {"num_groups", "num_levels_per_group", "eps"}, "vector_quantizer", what)
        self.groups = _whole(quantizer, "num_groups", what)
        self.levels = _wholes(quantizer, "num_levels_per_group", what, least=2)
        if prod(self.levels) > _MOST_CODES:
            raise UsageError(f"{what} has groups of {prod(self.levels)} codes: more than {_MOST_CODES} are no codebook")
        self.eps = quantizer.get("eps", 1e-3)
        if type(self.eps) not in (int, float) or not 0 <= self.eps < 1:
            raise UsageError(f"{what} has eps {_SHORT.repr(self.eps)}, not a number from 0 to 1")
        width = self.groups * len(self.levels)
        for form, name in ((self.encoder, "audio_encoder"), (self.decoder, "audio_decoder")):
            if form.width != width:
                raise UsageError(
                    f"{what}: {self.groups} groups of {len(self.levels)} scalars, but {form.width} of {name}"
                )

    def quantizer(self) -> GroupedScalars:
        from slm.tokenizers.networks.nemo_audio_codec import GroupedScalars

        return GroupedScalars(self.groups, self.levels, self.eps)


def _form(config: Mapping[str, Any], name: str, what: str) -> Form:
    from slm.tokenizers.networks.nemo_audio_codec import Form

    half = "Encoder" if name == "audio_encoder" else "Decoder"
    given = _part(config, name, f"HiFiGAN{half}", what, causal=True)
    causal = str(given["_target_"]).rpartition(".")[2].startswith("Causal")
    _refuse_unknown(given.keys() - _FIELDS[name], name, what)
    fields = {**_FIELDS[name], "n_groups_equal_to_out_channels": causal, **given}
    width, rates = ("encoded_dim", "down_sample_rates") if half == "Encoder" else ("input_dim", "up_sample_rates")
    for word in _WORDS.keys() & fields:
        if fields[word] not in _WORDS[word]:
            raise UsageError(f"{what} has {word} {_SHORT.repr(fields[word])}: only {', '.join(_WORDS[word])} are known")
    grouped = fields["n_groups_equal_to_out_channels"]
    if not isinstance(grouped, bool):
        raise UsageError(f"{what} has n_groups_equal_to_out_channels {_SHORT.repr(grouped)}, neither true nor false")
    form = Form(
        width=_whole(fields, width, what),
        rates=_wholes(fields, rates, what, least=2),
        channels=_whole(fields, "base_channels", what),
        first_kernel=_whole(fields, "in_kernel_size", what),
        last_kernel=_whole(fields, "out_kernel_size", what),
        block_kernels=_wholes(fields, "resblock_kernel_sizes", what),
        block_dilations=_wholes(fields, "resblock_dilation_sizes", what),
        activation=fields["activation"],
        padding="zeros" if causal else fields["pad_mode"],
        causal=causal,
        grouped=grouped and half == "Decoder",
        clamp=fields.get("output_activation") == "clamp",
    )
    if even := [kernel for kernel in (form.first_kernel, form.last_kernel, *form.block_kernels) if kernel % 2 == 0]:
        raise UsageError(f"{what} has a kernel of {even[0]}: about its middle, it must be odd")
    if half == "Decoder" and form.channels % 2 ** len(form.rates):
        raise UsageError(f"{what} has {form.channels} channels in its decoder, to be halved {len(form.rates)} times")
    return form


def _refuse_unknown(names: Set[Any], part: str, what: str) -> None:
    if unknown := sorted(str(name) for name in names if name != "_target_"):
        raise UsageError(f"{what} has in its {part} {unknown[0]}, of which nothing is known here")


def _part(config: Mapping[str, Any], name: str, kind: str, what: str, causal: bool = False) -> Mapping[str, Any]:
    """A part of the configuration, which must be of a class of NeMo's."""
    part = config.get(name)
    if not isinstance(part, Mapping):
        raise UsageError(f"{what} is no audio codec of NeMo: its {CONFIG} has no {name}")
    target = part.get("_target_")
    given = target.rpartition(".")[2] if isinstance(target, str) else _SHORT.repr(target)
    if (given.removeprefix("Causal") if causal else given) != kind:
        raise UsageError(
            f"{what} has a {given} as its {name}, not a {kind}: of NeMo's codecs, those of samples with groups of "
            "scalars are read here, none of spectra (mel-codec) or with residual codebooks"
        )
    return part


def _whole(values: Mapping[str, Any], name: str, what: str, least: int = 1) -> int:
    value = values.get(name)
    if type(value) is not int or not least <= value <= _LARGEST:
        raise UsageError(f"{what} has {name} {_SHORT.repr(value)}, not a whole number from {least} to {_LARGEST}")
    return value


def _wholes(values: Mapping[str, Any], name: str, what: str, least: int = 1) -> list[int]:
    given = values.get(name)
    if not isinstance(given, list) or not 1 <= len(given) <= 16:
        raise UsageError(f"{what} has {name} {_SHORT.repr(given)}, not a list of 1 to 16 whole numbers")
    return [_whole({name: value}, name, what, least) for value in given]


def find_archive(checkpoint: str) -> Path:
    path = Path(checkpoint).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        found = sorted(path.glob("*.nemo"))
        if len(found) != 1:
            raise UsageError(f"{checkpoint} holds {len(found)} .nemo files, not one: give the file itself")
        return found[0]
    if checkpoint.endswith(".nemo"):
        raise UsageError(f"no such checkpoint: {checkpoint}")
    name = f"{path.name}.nemo"
    return find_files(checkpoint, [name])[name]


def read_archive(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The configuration and the weights for inference of a `.nemo` file, a tar, by their names in NeMo. Nothing is
    unpacked where it says, nor executed."""
    import torch
    import yaml

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            """Nothing for `<<`, which NeMo never writes: merged again and again, fields grow without bound."""

    try:
        packed_size = path.stat().st_size
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with tarfile.open(path, "r:gz" if packed else "r:") as archive, TemporaryDirectory() as folder:
            config: Any = None
            for member in archive:
                name = member.name.removeprefix("./")
                content = archive.extractfile(member) if name in (CONFIG, WEIGHTS) and member.isfile() else None
                if content is None:
                    continue
                if member.size > (2**20 if name == CONFIG else 64 * packed_size):
                    raise UsageError(f"{path} is no checkpoint of NeMo: its {name} would be {member.size} bytes")
                if name == CONFIG:
                    config = yaml.load(content.read().decode(), Loader)
                else:
                    with (Path(folder) / WEIGHTS).open("wb") as copy:
                        copyfileobj(content, copy)
            if not isinstance(config, dict) or not (Path(folder) / WEIGHTS).is_file():
                raise UsageError(f"{path} is no checkpoint of NeMo: it must hold {CONFIG} and {WEIGHTS}")
            state = read_tensors(Path(folder) / WEIGHTS, f"{WEIGHTS} of {path}")
    except (OSError, EOFError, ValueError, RecursionError, tarfile.TarError, zlib.error, yaml.YAMLError) as error:
        raise UsageError(f"{path} is no readable .nemo file: {' '.join(str(error).split())}") from error
    if not isinstance(state, Mapping):
        raise UsageError(f"{WEIGHTS} of {path} holds {type(state).__name__}, not weights by name")
    kept = {name: value for name, value in state.items() if str(name).partition(".")[0] in _PARTS}
    if others := [name for name, value in kept.items() if not isinstance(value, torch.Tensor)]:
        raise UsageError(f"{WEIGHTS} of {path} holds {type(kept[others[0]]).__name__} as {others[0]}, not a tensor")
    return config, {name: value.float() for name, value in kept.items()}


def build(config: NemoConfig, state: Mapping[str, torch.Tensor], what: str) -> NemoAudioCodec:
    """The network with these weights (names of NeMo), in their precision."""
    import torch

    from slm.tokenizers.networks.nemo_audio_codec import NemoAudioCodec, published_name

    levels = [value.flatten().tolist() for name, value in sorted(state.items()) if name.endswith(".num_levels")]
    if levels != [config.levels] * config.groups:
        raise UsageError(
            f"{what} has weights of {len(levels)} groups of {_SHORT.repr(levels[0]) if levels else 'no'} levels, where "
            f"its configuration says {config.groups} of {config.levels}"
        )
    try:
        with torch.device("meta"):  # what is to be filled needs neither memory nor values before
            network = NemoAudioCodec(config.encoder, config.decoder, torch.nn.Module())
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{what} is of no network that can be: {' '.join(str(error).split())}") from error
    own = {published_name(name): name for name in network.state_dict()}
    folded = fold_weight_norm(
        {name: value for name, value in state.items() if not name.startswith("vector_quantizer.")}
    )
    load_strict(network, {own.get(name, name): value for name, value in folded.items()}, what, assign=True)
    network.quantizer = config.quantizer()
    return network.eval().requires_grad_(False)
