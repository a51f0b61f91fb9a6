"""Unit vocoders as their authors publish them: a folder or hub id -> the network with its weights.

Two formats are known:

- `config.json` and weights with an entry `generator`: the unit HiFi-GAN of speech-resynthesis, fairseq
  (`CodeHiFiGANVocoder`) and textlesslib, with or without duration prediction (Lee et al., 2021, arXiv 2107.05604),
  speakers and styles (Expresso). Those that want pitch besides units are refused.
- `hyperparams.yaml` and `generator.ckpt`: SpeechBrain's `UnitHifiganGenerator` (arXiv 2406.10735), such as
  `speechbrain/hifigan-wavlm-k1000-LibriTTS`, whose one embedding table holds the units of several layers of an encoder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.errors import UsageError
from slm.tokenizers._bounded import check_size
from slm.tokenizers._checkpoints import find_files, fold_weight_norm, load_strict, read_tensors
from slm.tokenizers.base import weight_digests

if TYPE_CHECKING:
    from slm.tokenizers.networks.hifigan import UnitGenerator

_FAIRSEQ = ("config.json", "model.pt")
_SPEECHBRAIN = ("hyperparams.yaml", "generator.ckpt")
# What SpeechBrain's published vocoders of six layers are over (WavLM, HuBERT and wav2vec 2.0, each large).
_SPEECHBRAIN_LAYERS = (1, 3, 7, 12, 18, 23)
_NOT_WEIGHTS = (".json", ".txt", ".md", ".yaml")
# The modules of both formats, as the network calls them.
_MODULES = {
    "dict": "units",
    "spkr": "speaker",
    "dur_predictor": "durations",
    "unit_embedding": "units",
    "attn_pooling": "attention",
    "var_predictor": "durations",
    **{name: f"generator.{name}" for name in ("conv_pre", "ups", "resblocks", "conv_post")},
}


@dataclass(frozen=True)
class Published:
    """A network over `num_codebooks` codebooks of `num_units` each, one after the other in its embedding table.

    The first stands at `first_row`: SpeechBrain's row 0 is for a codebook that is not given. `layers` are the encoder
    layers that the codebooks are of, where that is known; `weights`, digests of the tensors as they are published.
    """

    model: UnitGenerator
    sample_rate_hz: int
    num_units: int
    num_codebooks: int = 1
    first_row: int = 0
    layers: tuple[int, ...] = ()
    weights: Sequence[str] = ()


def read_published(source: str, num_units: int | None) -> Published:
    """The network of a folder or hub id, in fp32 on the CPU. UsageError where there is none or weights do not fit.

    `num_units` is the size of a codebook, for a checkpoint of SpeechBrain's that does not say it.
    """
    config_path, weights_path = _find(source)
    is_speechbrain = config_path.suffix == ".yaml"
    state = read_tensors(weights_path)
    if not is_speechbrain and isinstance(state, Mapping):
        state = state.get("generator", state)
    if not isinstance(state, Mapping) or not all(hasattr(value, "shape") for value in state.values()):
        raise UsageError(f"{weights_path} is no checkpoint of a unit vocoder")
    own = {_our_name(key): value for key, value in fold_weight_norm(state).items()}

    def describe() -> Published:
        return _speechbrain(config_path, num_units) if is_speechbrain else _fairseq(config_path)

    try:
        check_size(lambda: describe().model, own, source)
        made = describe()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(f"{config_path} does not describe a unit vocoder: {type(error).__name__} {error}") from error
    load_strict(made.model, own, source)
    return replace(made, weights=weight_digests(state.values()))


def _find(source: str) -> tuple[Path, Path]:
    """Configuration and weights."""
    folder = Path(source).expanduser()
    if folder.is_dir() and not (folder / _SPEECHBRAIN[0]).is_file():
        # Names vary by publisher: config.json and model.pt, generator.pt, g_00400000 or hifigan_vocoder; X_config.json
        # and X.pt; besides them speakers.txt and the like.
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        configs = [path for path in files if path.name.endswith("config.json")]
        weights = [path for path in files if path.suffix not in _NOT_WEIGHTS]
        if len(configs) == len(weights) == 1:
            return configs[0], weights[0]
        there = ", ".join(path.name for path in [*configs, *weights]) or "neither"
        raise UsageError(
            f"the folder {source} must hold one unit vocoder: one *config.json and one file of weights (found: "
            f"{there}), or {' and '.join(_SPEECHBRAIN)}"
        )
    complaints = []
    for names in (_SPEECHBRAIN,) if folder.is_dir() else (_FAIRSEQ, _SPEECHBRAIN):
        try:
            found = find_files(source, names)
            return found[names[0]], found[names[1]]
        except UsageError as error:
            complaints.append(str(error))
    raise UsageError("; or ".join(dict.fromkeys(complaints)))


def _our_name(key: str) -> str:
    module, dot, rest = key.replace(".conv.", ".").partition(".")
    return _MODULES.get(module, module) + dot + rest


def _fairseq(path: Path) -> Published:
    from slm.tokenizers.networks.hifigan import DurationPredictor, Generator, UnitGenerator

    config = json.loads(path.read_text(encoding="utf-8"))
    width = config["embedding_dim"]
    speakers = config.get("num_speakers", 200) if config.get("multispkr") else 0
    styles = config.get("num_styles", 100) if config.get("multistyle") else 0
    inputs = config.get("model_in_dim", width)
    more = [key for key in ("f0", "embedder_params", "lambda_commit_code") if config.get(key)]
    _check_blocks(path, config.get("resblock", "1"))
    if more or inputs != width * (1 + bool(speakers) + bool(styles)):
        raise UsageError(f"{path} wants more than units ({', '.join(more) or f'{inputs} inputs'}): not supported")
    generator = Generator(
        inputs,
        config["upsample_initial_channel"],
        config["upsample_rates"],
        config["upsample_kernel_sizes"],
        config["resblock_kernel_sizes"],
        config["resblock_dilation_sizes"],
        padding_mode="zeros",
    )
    durations = None
    if predictor := config.get("dur_predictor_params"):
        hidden, kernel = predictor["var_pred_hidden_dim"], predictor["var_pred_kernel_size"]
        durations = DurationPredictor(width, hidden, kernel, norm=True, padding_mode="zeros")
    count = config["num_embeddings"]
    model = UnitGenerator(generator, count, width, num_speakers=speakers, num_styles=styles, durations=durations)
    return Published(model, config.get("sampling_rate", 16_000), count)


def _speechbrain(path: Path, num_units: int | None) -> Published:
    from slm.tokenizers.networks.hifigan import DurationPredictor, Generator, UnitGenerator

    values, given = _hyperparams(path)
    width = given.get("embedding_dim", 128)
    more = [key for key in ("multi_speaker", "skip_token_embedding", "cond_channels") if given.get(key)]
    _check_blocks(path, given["resblock_type"])
    if more:
        raise UsageError(f"{path} wants more than units ({', '.join(more)}): not supported")
    generator = Generator(
        given["in_channels"],
        given["upsample_initial_channel"],
        given["upsample_factors"],
        given["upsample_kernel_sizes"],
        given["resblock_kernel_sizes"],
        given["resblock_dilation_sizes"],
        padding_mode="reflect",
    )
    durations = None
    if given.get("duration_predictor"):
        hidden, kernel = given.get("var_pred_hidden_dim", 128), given.get("var_pred_kernel_size", 3)
        durations = DurationPredictor(width, hidden, kernel, norm=False, padding_mode="reflect")
    pools = given.get("pooling_type", "attention") == "attention"
    rows = given.get("vocab_size", 100)
    model = UnitGenerator(
        generator, rows, width, attention_width=given.get("attn_dim", 128) if pools else 0, durations=durations
    )
    units, layers = rows - 1, values.get("layer")
    layers = tuple(layers) if isinstance(layers, Sequence) else ()
    size = values.get("num_clusters", units // len(layers) if layers else num_units or units)
    if units % size or len(layers) not in (0, units // size):
        raise UsageError(
            f"{path}: {units} units are no whole number of codebooks of {size}, or not one for each of its layers "
            f"{list(layers)}"
        )
    if not layers and units // size == len(_SPEECHBRAIN_LAYERS):
        layers = _SPEECHBRAIN_LAYERS
    return Published(model, values.get("sample_rate", 16_000), size, units // size, first_row=1, layers=layers)


def _check_blocks(path: Path, kind: object) -> None:
    if str(kind) != "1":
        raise UsageError(f"{path} has residual blocks of type {kind}; only type 1 is supported")


def _hyperparams(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a `hyperparams.yaml` and the arguments of its generator. No tag builds or calls anything."""
    import yaml

    class Inert(yaml.SafeLoader):
        pass

    def construct(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return {"!": tag, **loader.construct_mapping(node, deep=True)}
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return f"!{tag} {node.value}"

    Inert.add_multi_constructor("!", construct)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Inert)
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    made = [v for v in values.values() if isinstance(v, dict) and str(v.get("!", "")).endswith("UnitHifiganGenerator")]
    if len(made) != 1:
        raise UsageError(f"{path} holds {len(made)} UnitHifiganGenerator: it is not the one of a unit vocoder")
    given = {}
    for key, value in made[0].items():
        if isinstance(value, str) and value.startswith("!ref <") and value.endswith(">"):
            value = values[value.removeprefix("!ref <").removesuffix(">")]
        given[key] = value
    return values, given
