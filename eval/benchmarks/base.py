"""The contract of a benchmark: it checks its material when built, and gives a `Result` when run.

A benchmark is one file beside this one. Most are minimal pairs and need only say what their pairs and subsets are:
see `eval.benchmarks.pairs`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from eval.judges.config import Judges
from eval.likelihoods import Convention
from eval.processes import ALONE, Processes
from slm.errors import UsageError
from slm.registry import Registry
from slm.types import Score, Scorer

if TYPE_CHECKING:
    from slm.spoken_lm import SpokenLM

MODEL = "model"  # the name under which the model itself stands among the scorers


@dataclass(frozen=True)
class Generation:
    """How prompts are continued."""

    prompt_s: float = 2.0
    """Seconds of each prompt that the model hears (a shorter prompt is taken whole)."""
    continue_s: float = 3.0
    """Seconds that it adds."""
    max_prompts: int = 10
    """The first so many prompts, in the order of their ids; 0 for all."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the likeliest code."""
    top_k: int | None = None
    """Draw among the k likeliest codes only."""
    may_stop: bool = False
    """Let the model end before the time is up."""
    top_p: float | None = None
    """Draw among the fewest codes that hold this share of the probability together."""
    min_p: float | None = None
    """Draw among codes at least so likely as this share of the likeliest."""
    repetition_penalty: float = 1.0
    """Above 1: codes that the stream holds already, the prompt included, become less likely."""
    guidance: float = 1.0
    """Above 1: what the prompt makes of the document is strengthened, by what the model says without it."""
    batch_size: int = 32
    """Prompts continued at a time; it changes none of them, but for rounding."""
    compile: bool = False
    """Compile the step, on CUDA as graphs: takes a minute, and pays for many or long continuations."""
    temperatures: str = ""
    """For generation, with commas between, such as 0.3,0.7,1.0: perplexity and diversity at each of them, and where
    they are those of recordings."""

    def __post_init__(self) -> None:
        if not (self.prompt_s > 0 and 0 < self.continue_s < float("inf")):
            raise UsageError("generation.prompt_s and generation.continue_s must be above 0")
        if self.temperature < 0 or self.max_prompts < 0 or (self.top_k is not None and self.top_k < 1):
            raise UsageError("generation: temperature and max_prompts must be 0 or more, top_k 1 or more")
        _ = self.sweep

    @property
    def sweep(self) -> list[float]:
        """The temperatures to go through, lowest first. UsageError for what is no number of 0 or more."""
        try:
            made = sorted({float(part) for part in self.temperatures.split(",") if part.strip()})
        except ValueError:
            made = [-1.0]
        if any(not 0 <= t < float("inf") for t in made):
            raise UsageError(
                f"generation.temperatures {self.temperatures!r}: give numbers of 0 or more, such as 0.3,0.7,1.0"
            )
        return made


@dataclass(frozen=True)
class Setup:
    """Where a benchmark finds its material, and what is asked of it."""

    data: Path
    split: str = "dev"
    prompts: str | None = None
    generation: Generation = field(default_factory=Generation)
    cache: Path = Path("benchmark-audio")
    """Where a benchmark whose audio comes as bytes inside a data set may write files, under its own name. Kept between
    runs; made when it is first needed."""
    judges: Judges = field(default_factory=Judges)
    """Who judges what is heard."""


@dataclass(frozen=True)
class Run:
    """What a benchmark is run with. `scorers` holds the model (under `MODEL`) and the baselines, `fingerprints` says
    who each of them is."""

    lm: SpokenLM
    scorers: Mapping[str, Scorer]
    fingerprints: Mapping[str, str]
    out: Path
    convention: Convention
    resamples: int
    seed: int
    tokens: Path
    """Where tokenized audio is kept, for other models of the same tokenizer too."""
    processes: Processes = ALONE
    """Those that share the work: each runs the benchmark, the main one writes what it finds."""
    views: tuple[Convention, ...] = ()
    """Conventions to derive beside the primary one and those that every result has."""
    per_frame: bool = False
    """Keep what each unit got, beside the sums."""


@dataclass(frozen=True)
class LeftOut:
    """An item of a benchmark that was not scored, and why."""

    item: str
    reason: str


@dataclass(frozen=True)
class Result:
    """What one benchmark found. `scores` are by scorer; `counts` and `files` say how many and where on disk."""

    benchmark: str
    split: str
    about: str
    item_list_sha256: str
    counts: Mapping[str, int]
    scores: Mapping[str, list[Score]]
    left_out: tuple[LeftOut, ...] = ()
    headline: str = ""
    """The `item` of the score to look at first."""
    meanings: Mapping[str, str] = field(default_factory=dict)
    """What each `item` of the scores is, in a sentence."""
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.headline and self.headline not in {score.item for score in self.scores[MODEL]}:
            raise ValueError(f"{self.benchmark}: no score of the model is about its headline {self.headline!r}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Benchmark(ABC):
    """Built from a `Setup`: raises UsageError, with what to fetch and where to put it, before any model is loaded."""

    name: ClassVar[str]
    about: ClassVar[str]
    """One plain sentence for tables and reports."""

    @abstractmethod
    def __init__(self, setup: Setup): ...

    def check(self, lm: SpokenLM) -> None:  # noqa: B027 - most can score any model
        """UsageError, before any work, for a model that this benchmark cannot score."""

    @abstractmethod
    def run(self, run: Run) -> Result: ...


BENCHMARKS: Registry[Benchmark] = Registry(
    "benchmark", package="eval.benchmarks", group="slm.benchmarks", base=Benchmark
)
