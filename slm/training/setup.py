"""From a configuration to the things that are trained and trained on, with every complaint before any work starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slm.data.documents import Documents, hold_out
from slm.data.store import CodeStore
from slm.errors import UsageError
from slm.model.acoustic_lm import AcousticLM, check_attention
from slm.model.backbone import build_causal_lm, twist_causal_lm
from slm.model.checkpoint import ModelRecord
from slm.model.statistics import CodeStatistics
from slm.patterns import PATTERNS, Pattern
from slm.tokenizers.base import check_same_spec
from slm.training.config import TrainConfig
from slm.units import Units


@dataclass(frozen=True)
class TrainingData:
    """The documents of a run; `evaluation` is None where nothing is held out."""

    train: Documents
    evaluation: Documents | None
    statistics: CodeStatistics

    @property
    def codes_per_audio_s(self) -> float:
        codes = self.train.num_frames.sum() * self.train.store.spec.num_codebooks
        return float(codes) / max(self.train.duration_s, 1e-9)


def load_data(config: TrainConfig) -> TrainingData:
    store = CodeStore(config.data)
    if config.dedup and store.spec.num_codebooks != 1:
        raise UsageError(f"dedup takes one codebook, but {store.spec.describe()} has {store.spec.num_codebooks}")
    evaluation: Documents | None = None
    if config.eval_data is not None:
        other = CodeStore(config.eval_data)
        check_same_spec(store.spec, other.spec)
        train, evaluation = Documents(store, config.dedup), Documents(other, config.dedup)
    else:
        kept, held = hold_out(store.ids, config.eval_fraction)
        train = Documents(store, config.dedup, kept)
        if config.eval_fraction > 0 and not len(held):
            raise UsageError(f"eval_fraction {config.eval_fraction} of {len(store)} clips is none: raise it, or give 0")
        evaluation = Documents(store, config.dedup, held) if len(held) else None
    if not len(train):
        raise UsageError(f"{config.data} leaves no clip to train on")
    pairs = ((train.codes(i), store.codes(int(index))) for i, index in enumerate(train.indices))
    return TrainingData(
        train, evaluation, CodeStatistics.measure(Units(store.spec.codebook_sizes, config.dedup), pairs)
    )


def make_pattern(config: TrainConfig, store: CodeStore) -> Pattern:
    return PATTERNS.create(config.pattern.name, codebook_sizes=store.spec.codebook_sizes, **config.pattern.settings)


def make_model(config: TrainConfig, pattern: Pattern) -> AcousticLM:
    weights = config.codebook_weights
    if weights is not None and len(weights) != pattern.num_codebooks:
        raise UsageError(f"codebook_weights: {len(weights)} given for {pattern.num_codebooks} codebooks")
    if config.model.init_from:
        body = twist_causal_lm(config.model.init_from, pattern, config.seed, config.model.init_gguf_file)
    else:
        body = build_causal_lm(config.model.backbone, pattern, config.seed)
    longest = getattr(body.config, "max_position_embeddings", None)
    if longest is not None and longest < config.row_length:
        raise UsageError(f"row_length {config.row_length} is beyond the model's max_position_embeddings, {longest}")
    model = AcousticLM(body, pattern, weights)
    check_attention(model, pattern, config.row_length)
    return model


def make_record(config: TrainConfig, store: CodeStore, pattern: Pattern) -> ModelRecord:
    training = {key: value for key, value in asdict(config).items() if key != "out"}
    training["data"] = Path(config.data).name
    return ModelRecord(
        tokenizer=store.spec,
        pattern_name=config.pattern.name,
        pattern_settings=pattern.settings(),
        dedup=config.dedup,
        codebook_weights=None if config.codebook_weights is None else tuple(config.codebook_weights),
        training=training,
    )


def run_identity(config: TrainConfig, data: TrainingData, rows_per_step: int, precision: str) -> dict[str, Any]:
    """What makes a run this run: options, the clips it sees, the rows of a step however divided, the precision."""
    sides = {"train": data.train, "evaluation": data.evaluation}
    return {
        **config.identity(),
        "rows_per_step": rows_per_step,
        "precision": precision,
        "tokenizer": data.train.store.spec.fingerprint,
        **{f"{name} clips": None if documents is None else documents.digest() for name, documents in sides.items()},
    }
