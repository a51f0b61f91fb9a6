"""The options of `eval/run.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from eval.benchmarks.base import Generation
from eval.judges.config import Judges
from eval.reconstruction.settings import Reconstruction
from slm.errors import UsageError


@dataclass(frozen=True)
class EvalConfig:
    """Score a checkpoint on benchmarks, let it continue prompts, and write one page about it."""

    benchmarks: str
    """Names with commas between, such as swuggy,sblimp,tsc,salmon,continuation (docs/benchmarks.md lists them), or a
    plug-in's."""
    out: str
    """Folder to write. Other benchmarks of the same model may be added to it later."""
    model: list[str] | str = ""
    """The checkpoint folder (RUN/final), or that of a published model (slamkit's UnitLM), or a hub id. Several may
    follow each other (--model A B C): each gets a folder in OUT, and a comparison. `reconstruction` needs none."""
    data: str = "."
    """Folder of the benchmarks, each below it as it is distributed (docs/benchmarks.md): lexical/SPLIT for swuggy."""
    split: str = "dev"
    """The split of the pair benchmarks: dev or test."""
    convention: str = "mean+eos"
    """What becomes the score of an item first of all; every convention is recorded. The mean does not favour short
    items as the sum does, and the end tells whether a word or sentence is complete."""
    conventions: str = ""
    """Further ones, with commas between, such as llama-mimi, weighted-100:1:1-mean, first-sum-strict, local-0.5s or
    normalized; docs/conventions.md tells what a name can say."""
    per_frame: bool = False
    """Keep what each frame got too: likelihoods/*-frames.parquet."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of scoring. bf16 is faster on a GPU, and near ties may fall otherwise."""
    batch_steps: int | None = None
    """Steps that are scored at a time; fewer take less memory, and change the last bits only. 32,768 on a GPU and 1,024
    on a CPU when not given."""
    compile: bool = False
    """Compile the layers of the model for scoring, on a GPU: seconds more at first; last digits change. Of
    continuations, --generation.compile compiles the steps."""
    baselines: Literal["auto", "yes", "no"] = "auto"
    """Score an untrained model and a unigram model too; auto: where ROOT/generated.json says that the benchmark is
    synthetic, so that its shortcuts show."""
    bootstrap: int = 1000
    """Resamples behind each 95 % interval."""
    seed: int = 0
    """Of resampling, of the untrained baseline's weights, and (with each prompt's id) of continuations."""
    device: str = "auto"
    """auto (cuda where there is one, else cpu), cpu, cuda, cuda:1, mps."""
    prompts: str | None = None
    """Folder or manifest of recordings to continue; ROOT/prompts when not given."""
    generation: Generation = field(default_factory=Generation)
    """How prompts are continued."""
    judges: Judges = field(default_factory=Judges)
    """Who judges what is heard, for generation (docs/metrics.md)."""
    vocoder: str | None = None
    """Unit vocoder (folder or hub id) with which continuations can be heard where the model's tokenizer has no decoder
    of its own, or instead of the vocoder that its tokenizer names."""
    tokenizer: str | None = None
    """What a published model's units are made by, where it does not say so: a name, a YAML file (--model then reads
    audio through it) or a tokenized corpus. For `reconstruction`, the tokenizers to judge, with commas between."""
    reconstruction: Reconstruction = field(default_factory=Reconstruction)
    """How the benchmark `reconstruction` judges what comes back of recordings (docs/reconstruction.md)."""
    cache: str | None = None
    """Folder of tokenized benchmarks, which later runs and other models of the same tokenizer use again; OUT/tokens
    when not given."""
    corpus: str | None = None
    """A tokenized corpus to describe on the page, such as the one that the model was trained on."""

    def __post_init__(self) -> None:
        if self.bootstrap < 1:
            raise UsageError("--bootstrap must be 1 or more")
        if not 0 <= self.seed < 2**63:
            raise UsageError("--seed must be in [0, 2^63)")
        if not self.split.strip():
            raise UsageError("--split is empty: give the name of a split, such as dev or test")
        if self.batch_steps is not None and self.batch_steps < 1:
            raise UsageError("--batch_steps must be 1 or more")

    @property
    def models(self) -> list[str]:
        return [self.model] if isinstance(self.model, str) else list(self.model)
