"""The options of `train_lm.py`. Nothing here imports torch, so that `--help` is instant."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from slm.data.mixture import complaints
from slm.errors import UsageError
from slm.training.budget import Budget


@dataclass(frozen=True)
class MixtureConfig:
    """Shares of several corpora; at most one of these. Default: each in proportion to its size."""

    weights: list[float] | None = None
    """Share of the rows that each corpus gets, in the order of --data."""
    epochs: list[float] | None = None
    """How often each corpus is heard for once of the others: shares in proportion to size times this."""
    temperature: float | None = None
    """Shares in proportion to size to the power of 1 / temperature: above 1, small corpora are heard more."""

    def complaints(self, num_corpora: int) -> list[str]:
        return complaints(self.weights, self.epochs, self.temperature, num_corpora)


@dataclass(frozen=True)
class PatternConfig:
    name: str = "flat"
    """How codebooks become streams: flat, delay, parallel, coarse-first, unrolled, musiclm."""
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
    depth: dict[str, Any] = field(default_factory=dict)
    """A transformers configuration for a depth transformer over the codebooks of a step (as in Moshi)."""
    attention: str = "auto"
    """auto, sdpa, eager, by_document (what a CPU takes), varlen (PyTorch's flash attention), flash_attention_2,
    flash_attention_3 or flex_attention (never taken by auto); none lets documents see each other."""
    activation_checkpointing: bool = False
    """The backward pass makes what is inside a layer again instead of keeping it: less memory, more time."""
    kernels: Literal["torch", "liger"] = "torch"
    """liger: Triton kernels for norms, rotary positions and gated layers (pip install liger-kernel; CUDA)."""


@dataclass(frozen=True)
class OptimizerConfig:
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "linear", "wsd"] = "cosine"
    """How the rate falls after the warm-up; wsd: not at all until the last decay_ratio of the budget."""
    final_lr_ratio: float = 0.1
    """The schedule ends at lr times this."""
    warmup_steps: int = 100
    """Linear warm-up from 0."""
    warmup_ratio: float | None = None
    """The warm-up as a share of the budget, instead of warmup_steps."""
    decay_ratio: float = 0.2
    """Of wsd: the share of the budget over which the rate falls."""
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
        made += [f"optimizer.{n} must be in [0, 1), not {getattr(self, n)}" for n in ("beta1", "beta2")
                 if not 0 <= getattr(self, n) < 1]  # fmt: skip
        if self.warmup_ratio is not None and not 0 < self.warmup_ratio < 1:
            made.append(f"optimizer.warmup_ratio must be between 0 and 1, not {self.warmup_ratio}")
        if not 0 < self.decay_ratio <= 1:
            made.append(f"optimizer.decay_ratio must be above 0 and at most 1, not {self.decay_ratio}")
        return made


@dataclass(frozen=True)
class SamplesConfig:
    """Continuations of held-out clips while training, in OUT/samples: as audio where the tokenizer has a decoder."""

    every: int = 0
    """Steps between them; 0 makes none."""
    count: int = 4
    """How many clips are continued."""
    prompt_s: float = 3.0
    """Seconds of each clip that are given."""
    seconds: float = 5.0
    """Seconds that are added."""
    temperature: float = 0.8
    """Of the sampling."""

    def complaints(self) -> list[str]:
        made = [f"samples.{n} must not be below 0, but is {getattr(self, n)}" for n in ("every", "temperature")
                if getattr(self, n) < 0]  # fmt: skip
        return made + [f"samples.{n} must be above 0, not {getattr(self, n)}" for n in ("count", "prompt_s", "seconds")
                       if getattr(self, n) <= 0]  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """Train a decoder-only language model on tokenized corpora (see tokenize_corpus.py). Stopped in any way, the
    same command goes on from the last checkpoint."""

    data: str | list[str]
    """The tokenized corpus, or several: [A, B, C]."""
    out: str
    """The run's folder: checkpoints/, metrics.jsonl, tensorboard/, and final/, which eval/run.py takes."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    eval_data: str | list[str] | None = None
    """Tokenized corpora to evaluate on; without them, eval_fraction of the clips of data is held out."""
    eval_fraction: float = 0.02
    """Share of clips held out (chosen by their ids) when there is no eval_data."""
    dedup: bool = False
    """Collapse runs of equal units (one codebook only); their mean durations are kept for the way back."""
    bpe: str | None = None
    """Unit BPE: the model file that `python -m slm.units train` made."""
    pattern: PatternConfig = field(default_factory=PatternConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    codebook_weights: list[float] | None = None
    """Weight of each codebook in the loss (weighted sum / sum of weights); default all 1."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 1000
    """Optimizer steps."""
    budget: str | None = None
    """When training ends, instead of steps: 24h (wall-clock: s, min, h, d), 1.4G tokens, 145k audio-h, 2.6 epochs,
    1e19 flops. The schedule of the learning rate ends with it."""
    row_length: int = 1024
    """Length of a packed row in steps; longer documents are cut, nothing is dropped."""
    rows_per_batch: int = 8
    """Rows in a micro-batch of one process."""
    accumulation: int = 1
    """Micro-batches per optimizer step."""
    packing: Literal["best-fit", "greedy"] = "best-fit"
    """How documents fill rows: best-fit leaves fewest gaps; greedy takes them as they come."""
    ema_decay: float = 0.0
    """Above 0: evaluate and save an exponential moving average of the weights (0.999, say)."""
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
    save_every: int | None = None
    """Steps between checkpoints, a multiple of log_every (default: after 2 minutes, then as often as costs less than
    2 % of the time; there is always one at the end)."""
    keep_checkpoints: int = 2
    """How many of the newest to keep."""
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Where metrics go beside metrics.jsonl: tensorboard, wandb, trackio (through Accelerate)."""
    project: str = "slm"
    """The project under which trackers file the run."""
    divergence_nats: float = 3.0
    """Stop when the loss stays this far above its best; 0 never stops for that. NaN always stops."""
    dry_run: bool = False
    """Print parameters, steps, tokens, memory and time, and stop before any model or run is made."""

    def __post_init__(self) -> None:
        positive = ("steps", "row_length", "rows_per_batch", "accumulation", "log_every", "eval_every", "save_every",
                    "keep_checkpoints")  # fmt: skip
        given = {name: value for name in positive if (value := getattr(self, name)) is not None}
        wrong = [f"{name} must be at least 1, not {value}" for name, value in given.items() if value < 1]
        wrong += [f"{name} must be a finite number, not {value}" for name, value in _not_finite(asdict(self))]
        if not 0 <= self.seed < 2**31:  # each process adds its number, and numpy ends at 2^32
            wrong.append(f"seed must be in [0, 2^31), not {self.seed}")
        if not 0 <= self.eval_fraction < 1:
            wrong.append(f"eval_fraction must be in [0, 1), not {self.eval_fraction}")
        if not 0 <= self.ema_decay < 1:
            wrong.append(f"ema_decay must be in [0, 1), not {self.ema_decay}")
        if bool(self.model.backbone) == bool(self.model.init_from):
            wrong.append("give either model.backbone (from scratch) or model.init_from (TWIST)")
        if self.save_every is not None and self.save_every % self.log_every:
            wrong.append(f"save_every ({self.save_every}) must be a multiple of log_every ({self.log_every})")
        weights = self.codebook_weights
        if weights is not None and (min(weights, default=0) < 0 or sum(weights) <= 0):
            wrong.append(f"codebook_weights must not be below 0, nor all 0: {weights}")
        unknown = sorted({*self.trackers} - {"tensorboard", "wandb", "trackio"})
        if unknown:
            wrong.append(f"trackers: {', '.join(unknown)} is none of tensorboard, wandb, trackio")
        if not self.corpora:
            wrong.append("data names no corpus")
        if self.divergence_nats < 0:
            wrong.append(f"divergence_nats must not be below 0, but is {self.divergence_nats}")
        if self.samples.every and not self.eval_corpora and not self.eval_fraction:
            wrong.append("samples.every continues held-out clips, of which eval_fraction 0 leaves none")
        wrong += self.optimizer.complaints() + self.samples.complaints() + self.mixture.complaints(len(self.corpora))
        try:
            self.run_budget()
        except UsageError as error:
            wrong.append(str(error))
        if wrong:
            raise UsageError("; ".join(wrong))

    @property
    def corpora(self) -> list[str]:
        return [self.data] if isinstance(self.data, str) else list(self.data)

    @property
    def eval_corpora(self) -> list[str]:
        return [] if self.eval_data is None else [self.eval_data] if isinstance(self.eval_data, str) else self.eval_data

    def run_budget(self) -> Budget:
        return Budget(self.steps, "steps") if self.budget is None else Budget.parse(self.budget)

    def identity(self) -> dict[str, Any]:
        """The options that must not change when a run is resumed: all but where things are, how often it reports, and
        how a step's rows are divided (their number is in `run.json` by itself)."""
        elsewhere = ("data", "eval_data", "bpe", "out", "precision")
        return without_manner({key: value for key, value in asdict(self).items() if key not in elsewhere})


def without_manner(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a run without those that leave its model as it is, but for rounding: how often it reports, how a
    step's rows are divided, how its network computes."""
    manner = {"log_every", "eval_every", "save_every", "keep_checkpoints", "rows_per_batch", "accumulation", "samples",
              "trackers", "project", "divergence_nats", "dry_run"}  # fmt: skip
    kept = {key: value for key, value in options.items() if key not in manner}
    computes = ("attention", "activation_checkpointing", "kernels")
    return {**kept, "model": {k: v for k, v in kept.get("model", {}).items() if k not in computes}}


def _not_finite(options: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Names and values of all options, however deep, that no comparison would catch (NaN) or no run end (infinity)."""
    if isinstance(options, dict):
        for key, value in options.items():
            yield from _not_finite(value, f"{name}.{key}" if name else key)
    elif isinstance(options, list):
        for value in options:
            yield from _not_finite(value, name)
    elif isinstance(options, float) and not math.isfinite(options):
        yield name, options
