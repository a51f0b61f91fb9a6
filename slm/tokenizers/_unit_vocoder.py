"""Unit vocoders: from discrete units back to audio, for tokenizers that have no decoder of their own.

Two formats of checkpoint are known, each a folder or a hub id:

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
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from slm.errors import UsageError
from slm.tokenizers._checkpoints import find_files, fold_weight_norm, load_strict, read_tensors
from slm.tokenizers.base import weight_digests

if TYPE_CHECKING:
    from slm.tokenizers.networks.hifigan import UnitGenerator

_FAIRSEQ = ("config.json", "model.pt")
_SPEECHBRAIN = ("hyperparams.yaml", "generator.ckpt")
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


@dataclass
class UnitVocoder:
    """Units of `num_codebooks` codebooks of `num_units` each, one frame every `hop_samples` -> audio.

    `layers` are the encoder layers that the codebooks belong to, where the checkpoint says so. `first_row` is where
    the units begin in the embedding table: SpeechBrain's row 0 stands for a codebook that is not given. `weights` are
    digests of the published tensors.
    """

    model: UnitGenerator
    sample_rate_hz: int
    num_units: int
    num_codebooks: int = 1
    layers: tuple[int, ...] = ()
    first_row: int = 0
    speaker: int = 0
    style: int = 0
    weights: Sequence[str] = ()
    piece_frames: int = 3000

    @property
    def hop_samples(self) -> int:
        return self.model.generator.hop_samples

    @property
    def predicts_durations(self) -> bool:
        return self.model.durations is not None

    def identity(self) -> dict[str, Any]:
        """What decides the audio, for a fingerprint."""
        settings = {"sample_rate_hz": self.sample_rate_hz, "num_units": self.num_units, "first_row": self.first_row}
        voice = {"speaker": self.speaker, "style": self.style, "reflects": self.model.generator.min_frames > 1}
        return {**settings, **voice, "weights": list(self.weights)}

    def predict_durations(self, units: np.ndarray) -> np.ndarray:
        """Units `[T, K]`, deduplicated, -> int64 frames that each lasts `[T]`, at least 1. UsageError without a
        predictor."""
        import torch

        if self.model.durations is None:
            raise UsageError("this vocoder predicts no durations: give them, or units that last one frame each")
        rows = self._rows(units)
        if not len(units):
            return np.zeros(0, np.int64)
        with torch.inference_mode():
            return self.model.durations(self.model.features(rows))[0].cpu().numpy()

    def decode(self, units: np.ndarray, durations: np.ndarray | Literal["predict"] | None = None) -> np.ndarray:
        """Units `[T, K]` -> samples in the precision of the model (fp32), `hop_samples` for each frame.

        Each unit lasts a frame, or as many as `durations [T]` says, or as the vocoder predicts. K may fall short of
        `num_codebooks` where the vocoder has a row for what is not given. Audio of more than `piece_frames` is made
        in pieces that overlap as far as a sample can see, which in exact arithmetic equals one pass. ValueError for
        units or durations out of range.
        """
        import torch

        from slm.tokenizers._codec import _exact_fp32

        if durations is not None:
            lasting = self.predict_durations(units) if isinstance(durations, str) else np.asarray(durations)
            if lasting.shape != (len(units),) or lasting.dtype.kind not in "iu" or (lasting < 0).any():
                raise ValueError(f"durations must be {len(units)} whole numbers of frames, none below 0")
            units = np.repeat(units, lasting, axis=0)
        rows, reach, hop = self._rows(units), self.model.generator.reach_frames, self.hop_samples
        made, frames = [np.zeros(0, np.float32)], len(units)
        with torch.inference_mode(), _exact_fp32():
            for first in range(0, frames, self.piece_frames):
                last, start = min(first + self.piece_frames, frames), max(0, first - reach)
                audio = self.model(rows[:, start : last + reach], self.speaker, self.style)[0]
                end = None if last == frames else (last - start) * hop
                made.append(audio[(first - start) * hop : end].cpu().numpy())
        return np.concatenate(made)

    def _rows(self, units: np.ndarray) -> Any:
        """Units `[T, K]` -> rows of the embedding table `[1, T, num_codebooks]`."""
        import torch

        least = 1 if self.first_row else self.num_codebooks
        if units.ndim != 2 or not least <= units.shape[1] <= self.num_codebooks:
            raise ValueError(f"units of shape {units.shape}, not [T, {self.num_codebooks}]")
        if len(units) and (units.min() < 0 or units.max() >= self.num_units):
            raise ValueError(f"units must lie within 0 and {self.num_units - 1}")
        rows = np.zeros((len(units), self.num_codebooks), np.int64)
        given = units.shape[1]
        rows[:, :given] = units.astype(np.int64) + np.arange(given) * self.num_units + self.first_row
        return torch.from_numpy(rows)[None].to(self.model.units.weight.device)


def load_unit_vocoder(
    source: str, device: str = "cpu", *, num_units: int | None = None, speaker: int = 0, style: int = 0
) -> UnitVocoder:
    """The unit vocoder of a folder or hub id, in fp32; see above for the two formats.

    `num_units` is the size of a codebook, for a checkpoint of SpeechBrain's that does not say it; `speaker` and
    `style` are numbers, as in the `speakers.txt` and `styles.txt` beside a checkpoint of several. UsageError where
    none can be had or it does not fit its configuration, and for a speaker or style that it does not have.
    """
    config_path, weights_path = _find(source)
    make = _speechbrain if config_path.suffix == ".yaml" else _fairseq
    state = read_tensors(weights_path)
    if make is _fairseq and isinstance(state, Mapping):
        state = state.get("generator", state)
    if not isinstance(state, Mapping) or not all(hasattr(value, "shape") for value in state.values()):
        raise UsageError(f"{weights_path} is no checkpoint of a unit vocoder")
    try:
        vocoder = make(config_path, num_units)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(f"{config_path} does not describe a unit vocoder: {type(error).__name__} {error}") from error
    load_strict(vocoder.model, {_our_name(key): value for key, value in fold_weight_norm(state).items()}, source)
    for what, table, chosen in (("speaker", vocoder.model.speaker, speaker), ("style", vocoder.model.style, style)):
        count = table.num_embeddings if table is not None else 1
        if not 0 <= chosen < count:
            raise UsageError(f"{source} has {count} {what}s, numbered from 0: there is no {chosen}")
    vocoder.model.to(device).eval().requires_grad_(False)
    return replace(vocoder, speaker=speaker, style=style, weights=weight_digests(state.values()))


def _find(source: str) -> tuple[Path, Path]:
    """Configuration and weights."""
    folder = Path(source).expanduser()
    if folder.is_dir() and not (folder / _SPEECHBRAIN[0]).is_file():
        # The names vary by publisher: config.json and model.pt, generator.pt or g_00400000; *_config.json and *.pt.
        configs = sorted(folder.glob("*config.json"))
        weights = sorted(p for pattern in ("*.pt", "*.pth", "g_*[0-9]", "*.safetensors") for p in folder.glob(pattern))
        if len(configs) == len(weights) == 1:
            return configs[0], weights[0]
        found = ", ".join(path.name for path in [*configs, *weights]) or "neither"
        raise UsageError(
            f"the folder {source} must hold one unit vocoder: one *config.json and one file of weights (found: "
            f"{found}), or {' and '.join(_SPEECHBRAIN)}"
        )
    complaints = []
    for names in (_SPEECHBRAIN,) if folder.is_dir() else (_FAIRSEQ, _SPEECHBRAIN):
        try:
            files = find_files(source, names)
            return files[names[0]], files[names[1]]
        except UsageError as error:
            complaints.append(str(error))
    raise UsageError("; or ".join(dict.fromkeys(complaints)))


def _our_name(key: str) -> str:
    module, dot, rest = key.replace(".conv.", ".").partition(".")
    return _MODULES.get(module, module) + dot + rest


def _fairseq(path: Path, num_units: int | None) -> UnitVocoder:
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
    return UnitVocoder(model, config.get("sampling_rate", 16_000), count)


def _speechbrain(path: Path, num_units: int | None) -> UnitVocoder:
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
    size = values.get("num_clusters", num_units or rows - 1)
    if (rows - 1) % size:
        raise UsageError(f"{path}: {rows - 1} units are no whole number of codebooks of {size}")
    layers = values.get("layer", [])
    layers = tuple(layers) if isinstance(layers, Sequence) and len(layers) == (rows - 1) // size else ()
    return UnitVocoder(model, values.get("sample_rate", 16_000), size, (rows - 1) // size, layers, first_row=1)


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
