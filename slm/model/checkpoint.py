"""The folder that evaluation needs: a transformers model plus what its ids mean.

config.json, model.safetensors   opens with AutoModelForCausalLM (several streams: once slm.model.multi_stream is there)
README.md                        the model card
slm.json                         tokenizer spec, pattern, units, loss weights, training configuration
unit_bpe.model                   the sentencepiece model of its units, where it has one
statistics.safetensors           code counts of the training corpus (the unigram baseline, unit durations)

Folders that slamkit published are read as well (`slm.model.slamkit`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from slm import __version__
from slm.errors import UsageError, is_out_of_memory
from slm.files import read_json, write_json, write_text
from slm.hub import download, is_hub_id
from slm.load_report import refused_in_a_line
from slm.model.card import model_card
from slm.model.interleaved import is_interleaved, load_interleaved, read_text_settings
from slm.model.slamkit import is_slamkit, load_slamkit, no_statistics, read_settings
from slm.model.statistics import CodeStatistics
from slm.patterns import PATTERNS, Pattern
from slm.types import TokenizerSpec
from slm.units import UnitBPE, Units

FORMAT = 1
UNIT_BPE = "unit_bpe.model"


@dataclass(frozen=True)
class ModelRecord:
    """What the ids of a model mean, and how it was trained (`training` is for people: nothing is computed from it)."""

    tokenizer: TokenizerSpec
    pattern_name: str
    pattern_settings: Mapping[str, Any] = field(default_factory=dict)
    dedup: bool = False
    bpe: UnitBPE | None = None
    codebook_weights: tuple[float, ...] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def units(self) -> Units:
        """How the tokenizer's codes become what the pattern lays out."""
        return Units(self.tokenizer.codebook_sizes, self.dedup, self.bpe)

    def make_pattern(self) -> Pattern:
        return PATTERNS.create(self.pattern_name, codebook_sizes=self.units.sizes, **self.pattern_settings)

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "slm_version": __version__,
            "tokenizer": self.tokenizer.to_dict(),
            "pattern": {"name": self.pattern_name, **self.pattern_settings},
            "dedup": self.dedup,
            "bpe": None if self.bpe is None else self.bpe.fingerprint,
            "codebook_weights": self.codebook_weights,
            "training": self.training,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], bpe: UnitBPE | None = None) -> ModelRecord:
        pattern = dict(values["pattern"])
        weights = values["codebook_weights"]
        return cls(
            tokenizer=TokenizerSpec.from_dict(values["tokenizer"]),
            pattern_name=pattern.pop("name"),
            pattern_settings=pattern,
            dedup=values["dedup"],
            bpe=bpe,
            codebook_weights=None if weights is None else tuple(weights),
            training=values["training"],
        )


def save_model(
    folder: Path,
    causal_lm: Any,
    record: ModelRecord,
    statistics: CodeStatistics,
    weights: Mapping[str, Any] | None = None,
    figures: Mapping[str, float] | None = None,
) -> None:
    """Write a checkpoint into an existing folder. `weights` overrides the model's own (a gathered state dict);
    `figures` are held-out ones for the model card."""
    from safetensors.numpy import save_file

    state = dict(weights) if weights is not None else causal_lm.state_dict()
    num_parameters = sum(w.numel() for name, w in state.items() if name not in causal_lm.all_tied_weights_keys)
    causal_lm.save_pretrained(folder, state_dict=state)
    write_text(folder / "README.md", model_card(record, causal_lm.config, num_parameters, figures or {}))
    arrays = {f"counts.{k}": c for k, c in enumerate(statistics.counts)}
    arrays["frames"] = statistics.frames
    if statistics.runs is not None:
        arrays["runs"] = statistics.runs
    arrays["num_documents"] = np.array([statistics.num_documents], np.int64)
    save_file(arrays, folder / "statistics.safetensors")
    if record.bpe is not None:
        record.bpe.save(folder / UNIT_BPE)
    write_json(folder / "slm.json", record.to_dict())
    for file in folder.glob("*.safetensors"):  # written readable to their owner only
        shutil.copymode(folder / "slm.json", file)


def find_model(source: str | Path) -> Path:
    """A folder as it is; a hub id (USER/NAME) as the folder that it is downloaded to. UsageError where that fails."""
    try:
        is_here = Path(source).exists() or Path(source).parent.exists()
    except OSError as error:  # a name that no disk can hold
        raise UsageError(f"no model at {source}: {error.strerror}") from error
    if is_here or not is_hub_id(str(source)):
        return Path(source)
    folder = download(str(source), ("*.json", "*.safetensors", "*.model"))
    return folder if any(folder.glob("*.safetensors")) else download(str(source), ("*.json", "*.bin", "*.model"))


def load_record(folder: str | Path) -> ModelRecord:
    """Read `slm.json`, or what slamkit wrote; UsageError for a folder that is no checkpoint, a damaged one, or one of a
    newer format."""
    folder = Path(folder)
    file = folder / "slm.json"
    if not file.is_file() and is_interleaved(folder):
        return ModelRecord(**read_text_settings(folder))
    if not file.is_file() and is_slamkit(folder):
        return ModelRecord(**read_settings(folder))
    if not file.is_file():
        hint = _hint(folder)
        raise UsageError(f"no model at {folder}: it has no slm.json{hint}")
    try:
        values = read_json(file)
        if (found := values.get("format")) != FORMAT:
            raise UsageError(f"{file} has format {found}; this slm ({__version__}) reads format {FORMAT}")
        return ModelRecord.from_dict(values, _load_bpe(folder, values.get("bpe")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> UsageError:
    return UsageError(f"{file} is damaged ({error}): copy the folder anew")


def _load_bpe(folder: Path, fingerprint: str | None) -> UnitBPE | None:
    if fingerprint is None:
        return None
    bpe = UnitBPE.load(folder / UNIT_BPE)
    if bpe.fingerprint != fingerprint:
        raise UsageError(f"{folder / UNIT_BPE} is not the one that the model was trained with: copy the folder anew")
    return bpe


def _hint(folder: Path) -> str:
    found: Sequence[Path] = sorted(folder.glob("**/slm.json"))[:3] if folder.is_dir() else []
    try:
        config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    except ValueError as error:
        return f", and its config.json is not JSON ({error}): fetch it again"
    if "offset" in config:
        return ": a TWIST model as first published is not read; docs/evaluation.md tells how to convert it"
    if found:
        return "; did you mean " + " or ".join(str(f.parent) for f in found) + "?"
    return " (train one with train_lm.py; its checkpoint is the folder OUT/final)"


def load_statistics(folder: str | Path) -> CodeStatistics:
    """Those of the training corpus; for a model published without them, none at all. UsageError where they are damaged
    or not there."""
    if is_slamkit(Path(folder)):
        return no_statistics(load_record(folder).tokenizer)
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    file = Path(folder) / "statistics.safetensors"
    try:
        arrays = load_file(file)
    except (OSError, SafetensorError) as error:
        raise _damaged(file, error) from error
    counts = tuple(arrays[f"counts.{k}"] for k in range(sum(name.startswith("counts.") for name in arrays)))
    return CodeStatistics(counts, arrays["frames"], int(arrays["num_documents"][0]), arrays.get("runs"))


@refused_in_a_line(UsageError)
def load_causal_lm(folder: str | Path) -> Any:
    """The transformers model of a checkpoint, in float32, for evaluation."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    import slm.model.multi_stream  # noqa: F401  (registers the class of models of several streams)

    logging.disable_progress_bar()
    if is_interleaved(Path(folder)):
        return load_interleaved(Path(folder))
    if is_slamkit(Path(folder)):
        return load_slamkit(Path(folder))
    _check_layers(Path(folder))
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype="float32", use_safetensors=True, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UsageError(f"{folder}: its weights cannot be read ({str(error).splitlines()[0]})") from error
    except Exception as error:  # transformers raises whatever its validation and its layers raise
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"{folder}: config.json is not that of its weights: copy the folder anew ({reason})"
        ) from error
    if missing := sorted(loading["missing_keys"]):  # which transformers draws at random, and goes on
        raise UsageError(f"{folder} lacks {len(missing)} of its weights, such as {missing[0]}: copy the folder anew")
    return model.eval()


def _check_layers(folder: Path) -> None:
    """UsageError for a configuration of more layers than there are weights: a thousand million would be made first, and
    take all memory."""
    from safetensors import SafetensorError, safe_open

    try:
        found = 0
        for file in folder.glob("model*.safetensors"):
            with safe_open(file, "np") as weights:
                found += len(weights.keys())
        layers = read_json(folder / "config.json").get("num_hidden_layers")
    except (OSError, ValueError, AttributeError, SafetensorError):
        return  # transformers says what is wrong
    if found and isinstance(layers, int) and layers > found:
        raise UsageError(f"{folder}: config.json tells of {layers:,} layers, its weights are {found:,}: copy it anew")
