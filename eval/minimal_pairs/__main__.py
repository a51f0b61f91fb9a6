"""python -m eval.minimal_pairs --out DIR: the command. See the README beside this file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slm.config import run_command
from slm.errors import UsageError


@dataclass(frozen=True)
class MinimalPairsConfig:
    """Make synthetic speech to train on and minimal pairs to test with, by neural text-to-speech, with no network."""

    out: str
    """Folder to write: corpus/, lexical/dev/, syntactic/dev/, generated.json. The same command continues it."""
    seed: int = 0
    """The same seed gives the same files, byte for byte."""
    minutes: float = 45.0
    """About how much speech to train on."""
    pairs: int = 250
    """Pairs of the lexical task (four fifths of them of words in the corpus), and pairs of the syntactic task."""
    tokenizer: str = ""
    """Also keep the deduplicated units of this tokenizer (a name, or a YAML file) from telling words from pseudo-words
    by their number or frequency. Without it pairs depend on no tokenizer, and such baselines are near 50 % only."""
    workers: int = 0
    """Processes; 0 for one for each core."""

    def __post_init__(self) -> None:
        if self.minutes <= 0 or self.pairs < 1 or self.workers < 0:
            raise UsageError("--minutes and --pairs must be above 0, and --workers 0 or more")


def main(config: MinimalPairsConfig, make_voice: Callable | None = None) -> None:
    """Plan, synthesize, describe. `make_voice()` gives another Voice than hibari-tts (it is called in each process)."""
    from eval.minimal_pairs.dataset import GENERATOR_VERSION, load_plan, make_plan, write_descriptions
    from eval.minimal_pairs.synthesis import open_studio
    from eval.minimal_pairs.voice import HibariVoice
    from slm.tokenizers import load_tokenizer

    out, start = Path(config.out), time.perf_counter()
    make_voice = make_voice or HibariVoice
    voice = make_voice()
    spec = load_tokenizer(config.tokenizer).spec.describe() if config.tokenizer else None
    settings = {
        "generator_version": GENERATOR_VERSION,
        "tts": voice.engine,
        "seed": config.seed,
        "minutes": config.minutes,
        "pairs": config.pairs,
        "balanced_for_tokenizer": spec,
    }
    plan = load_plan(out, settings)
    if plan and (out / "generated.json").is_file():
        print(f"{out} is complete: nothing to do")
        return
    with open_studio(make_voice, config.workers or os.cpu_count() or 1, config.tokenizer) as studio:
        plan = plan or make_plan(out, settings, voice, studio)
        lengths = studio.write(out, plan.utterances())
    summary = write_descriptions(out, settings, voice, plan, lengths)
    print(f"{summary} in {out}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    run_command(main, MinimalPairsConfig, prog="python -m eval.minimal_pairs")
