"""The options of `train_lm.py`. Nothing here imports torch, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from slm.errors import UsageError


@dataclass(frozen=True)
class PatternConfig:
    name: str = "flat"
    """How codebooks become streams: flat (one stream), delay (one stream a codebook), or a plug-in's."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The pattern's own settings: --pattern.settings.delays [0,1,1] for delay (default 0, 1, 2, ..)."""


@dataclass(frozen=True)
class ModelConfig:
    backbone: dict[str, Any] = field(default_factory=dict)
    """A transformers configuration, for training from scratch: model_type, hidden_size, num_hidden_layers, .."""
    init_from: str | None = None
    """TWIST: keep the body of this text LM (hub id, folder, or installed package with a GGUF file)."""
    init_gguf_file: str | None = None
    """The GGUF file inside init_from, where its weights are in that format."""


@dataclass(frozen=True)
class OptimizerConfig:
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the rate falls after the warm-up."""
    final_lr_ratio: float = 0.1
    """The schedule ends at lr times this."""
    warmup_steps: int = 100
    """Linear warm-up from 0."""
    weight_decay: float = 0.1
    """On matrices only."""
    beta1: float = 0.9
    """AdamW's first beta."""
    beta2: float = 0.95
    """AdamW's second beta."""
    clip_norm: float = 1.0
    """Largest gradient norm; 0 turns clipping off."""

    def complaints(self) -> list[str]:
        at_least_0 = ("lr", "final_lr_ratio", "warmup_steps", "weight_decay", "clip_norm")
        made = [
            f"optimizer.{n} must not be below 0, but is {getattr(self, n)}" for n in at_least_0 if getattr(self, n) < 0
        ]
        betas = [f"optimizer.{n} must be in [0, 1), not {getattr(self, n)}" for n in ("beta1", "beta2")
                 if not 0 <= getattr(self, n) < 1]  # fmt: skip
        return made + betas


@dataclass(frozen=True)
class TrainConfig:
    """Train a decoder-only language model on a tokenized corpus (see tokenize_corpus.py). Stopped in any way, the
    same command goes on from the last checkpoint."""

    data: str
    """The tokenized corpus."""
    out: str
    """The run's folder: checkpoints/, metrics.jsonl, tensorboard/, and final/, which eval/run.py takes."""
    eval_data: str | None = None
    """A tokenized corpus to evaluate on; without it, eval_fraction of the clips of data is held out."""
    eval_fraction: float = 0.02
    """Share of clips held out (chosen by their ids) when there is no eval_data."""
    dedup: bool = False
    """Collapse runs of equal units (one codebook only); their mean durations are kept for the way back."""
    pattern: PatternConfig = field(default_factory=PatternConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    codebook_weights: list[float] | None = None
    """Weight of each codebook in the loss (weighted sum / sum of weights); default all 1."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 1000
    """Optimizer steps."""
    row_length: int = 1024
    """Length of a packed row in steps; longer documents are cut, nothing is dropped."""
    rows_per_batch: int = 8
    """Rows in a micro-batch of one process."""
    accumulation: int = 1
    """Micro-batches per optimizer step."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the accelerator has it, else fp32."""
    compile: bool = False
    """torch.compile the model."""
    seed: int = 0
    """Of the weights, the order of the data, and dropout."""
    log_every: int = 10
    """Steps between training metrics."""
    eval_every: int = 200
    """Steps between evaluations (there is always one at the end)."""
    save_every: int = 500
    """Steps between checkpoints, a multiple of log_every (there is always one at the end)."""
    keep_checkpoints: int = 2
    """How many of the newest to keep."""

    def __post_init__(self) -> None:
        positive = ("steps", "row_length", "rows_per_batch", "accumulation", "log_every", "eval_every", "save_every",
                    "keep_checkpoints")  # fmt: skip
        wrong = [
            f"{name} must be at least 1, not {getattr(self, name)}" for name in positive if getattr(self, name) < 1
        ]
        if not 0 <= self.eval_fraction < 1:
            wrong.append(f"eval_fraction must be in [0, 1), not {self.eval_fraction}")
        if bool(self.model.backbone) == bool(self.model.init_from):
            wrong.append("give either model.backbone (from scratch) or model.init_from (TWIST)")
        if self.save_every % self.log_every:
            wrong.append(f"save_every ({self.save_every}) must be a multiple of log_every ({self.log_every})")
        weights = self.codebook_weights
        if weights is not None and (min(weights, default=0) < 0 or sum(weights) <= 0):
            wrong.append(f"codebook_weights must not be below 0, nor all 0: {weights}")
        wrong += self.optimizer.complaints()
        if wrong:
            raise UsageError("; ".join(wrong))

    def identity(self) -> dict[str, Any]:
        """The options that must not change when a run is resumed: all but where things are, how often it reports, and
        how a step's rows are divided (their number is in `run.json` by itself)."""
        free = {"data", "eval_data", "out", "log_every", "eval_every", "save_every", "keep_checkpoints",
                "rows_per_batch", "accumulation", "precision"}  # fmt: skip
        return {key: value for key, value in asdict(self).items() if key not in free}
