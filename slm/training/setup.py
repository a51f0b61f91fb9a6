"""From a configuration to the things that are trained and trained on, with every complaint before any work starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from slm.data.documents import Documents, hold_out
from slm.data.loader import TrainLoader
from slm.data.mixture import Mixture
from slm.data.store import CodeStore
from slm.errors import UsageError
from slm.model.acoustic_lm import AcousticLM
from slm.model.attention import choose_attention, is_flattened
from slm.model.backbone import build_causal_lm, checkpoint_activations, twist_causal_lm, use_liger
from slm.model.check import check_attention
from slm.model.checkpoint import ModelRecord
from slm.model.statistics import CodeStatistics
from slm.patterns import PATTERNS, Pattern
from slm.tokenizers.base import check_same_spec
from slm.training.config import TrainConfig
from slm.types import TokenizerSpec
from slm.units import UnitBPE, Units


@dataclass(frozen=True)
class TrainingData:
    """The documents of a run, a `Documents` for each corpus; `evaluation` is empty where nothing is held out."""

    spec: TokenizerSpec
    units: Units
    train: list[Documents]
    evaluation: list[Documents]

    @property
    def num_clips(self) -> int:
        return sum(len(documents) for documents in self.train)

    @property
    def duration_s(self) -> float:
        return sum(documents.duration_s for documents in self.train)

    def statistics(self) -> CodeStatistics:
        """Counts over all that is trained on: read once, when first asked for, since that takes a corpus' time."""
        return self._statistics

    @cached_property
    def _statistics(self) -> CodeStatistics:
        pairs = (
            (documents.codes(i), documents.store.codes(int(index)))
            for documents in self.train
            for i, index in enumerate(documents.indices)
        )
        return CodeStatistics.measure(self.units, pairs)


def load_data(config: TrainConfig) -> TrainingData:
    stores = [CodeStore(path) for path in config.corpora]
    eval_stores = [CodeStore(path) for path in config.eval_corpora]
    spec = stores[0].spec
    for other in (*stores[1:], *eval_stores):
        check_same_spec(spec, other.spec)
    bpe = UnitBPE.load(Path(config.bpe)) if config.bpe else None
    if bpe is not None and bpe.tokenizer not in (None, spec.fingerprint):
        raise UsageError(
            f"{config.bpe} was learned from codes of another tokenizer than {spec.describe()}: make one from these "
            f"with python -m slm.units train --data {config.corpora[0]}"
        )
    units = Units(spec.codebook_sizes, config.dedup, bpe)
    if eval_stores:
        train = [Documents(store, units) for store in stores]
        evaluation = [Documents(store, units) for store in eval_stores]
    else:
        sides = [hold_out(store.ids, config.eval_fraction) for store in stores]
        train = [Documents(store, units, kept) for store, (kept, _) in zip(stores, sides, strict=True)]
        held = [Documents(store, units, held) for store, (_, held) in zip(stores, sides, strict=True)]
        evaluation = [documents for documents in held if documents.num_frames.any()]
        if config.eval_fraction > 0 and not evaluation:
            clips = sum(map(len, stores))
            raise UsageError(f"eval_fraction {config.eval_fraction} of {clips} clips is none: raise it, or give 0")
    for purpose, chosen in (("train", train), ("evaluate", evaluation)):
        for documents in chosen:
            if not documents.num_frames.any():
                raise UsageError(f"{documents.store.path} leaves no clip to {purpose} on")
    return TrainingData(spec, units, train, evaluation)


def make_pattern(config: TrainConfig, data: TrainingData) -> Pattern:
    """UsageError where a row cannot hold one frame of it, whole: as it is evaluated, though training may cut it."""
    pattern = PATTERNS.create(config.pattern.name, {"codebook_sizes": data.units.sizes}, **config.pattern.settings)
    if (needed := pattern.full().num_steps(1)) > config.row_length:
        name = config.pattern.name
        raise UsageError(f"row_length {config.row_length} cannot hold one frame of pattern {name!r}: it takes {needed}")
    return pattern


def make_loader(config: TrainConfig, data: TrainingData, pattern: Pattern, rank: int, world_size: int) -> TrainLoader:
    shares = config.mixture
    mixture = Mixture(data.train, shares.weights, shares.epochs, shares.temperature)
    return TrainLoader(mixture, pattern, config.row_length, config.rows_per_batch, config.accumulation,
                       rank, world_size, config.seed, config.packing)  # fmt: skip


def computes_in_bf16(precision: str) -> bool:
    """Whether a run of this precision does here; auto: on a GPU that has it."""
    if precision == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def make_model(config: TrainConfig, pattern: Pattern) -> AcousticLM:
    weights = config.codebook_weights
    if weights is not None and len(weights) != pattern.num_codebooks:
        raise UsageError(f"codebook_weights: {len(weights)} given for {pattern.num_codebooks} codebooks")
    cuda, asked = torch.cuda.is_available(), config.model.attention
    backend = choose_attention(asked, cuda, config.compile, bf16=computes_in_bf16(config.precision))
    try:
        return _make_model(config, pattern, backend)
    except UsageError:  # of a family, perhaps, that does not hand on where documents begin
        if asked != "auto" or not is_flattened(backend):
            raise
        return _make_model(config, pattern, "auto")


def _make_model(config: TrainConfig, pattern: Pattern, backend: str) -> AcousticLM:
    options = config.model
    if options.init_from:
        source, file = options.init_from, options.init_gguf_file
        body = twist_causal_lm(source, pattern, config.seed, file, attention=backend, depth=options.depth)
    else:
        body = build_causal_lm(options.backbone, pattern, config.seed, attention=backend, depth=options.depth)
    longest = getattr(body.config, "max_position_embeddings", None)
    if longest is not None and 0 < longest < config.row_length:  # -1: as many as one likes
        raise UsageError(f"row_length {config.row_length} is beyond the model's max_position_embeddings, {longest}")
    model = AcousticLM(body, pattern, config.codebook_weights)
    check_attention(model, pattern, config.row_length)
    if options.activation_checkpointing:
        checkpoint_activations(body)
    if options.kernels == "liger":  # now, since its kernels run on CUDA only
        use_liger(body)
    return model


def make_record(config: TrainConfig, data: TrainingData, pattern: Pattern, rows_per_step: int) -> ModelRecord:
    training = {key: value for key, value in asdict(config).items() if key not in ("out", "eval_data", "bpe")}
    training["data"] = [Path(path).name for path in config.corpora]
    training["rows_per_step"] = rows_per_step  # of all processes
    return ModelRecord(
        tokenizer=data.spec,
        pattern_name=config.pattern.name,
        pattern_settings=pattern.settings(),
        dedup=config.dedup,
        codebook_weights=None if config.codebook_weights is None else tuple(config.codebook_weights),
        training=training,
        bpe=data.units.bpe,
    )


def run_identity(config: TrainConfig, data: TrainingData, rows_per_step: int, precision: str) -> dict[str, Any]:
    """What makes a run this run: options, the clips it sees, the rows of a step however divided, the precision."""
    return {
        **config.identity(),
        "rows_per_step": rows_per_step,
        "precision": precision,
        "tokenizer": data.spec.fingerprint,
        "units": data.units.fingerprint,
        "train clips": [documents.digest() for documents in data.train],
        "evaluation clips": [documents.digest() for documents in data.evaluation],
    }
