"""python -m eval.minimal_pairs --out DIR: the command. See docs/minimal_pairs.md, and the README beside this file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from slm.config import join_list, run_command
from slm.devices import available_cores
from slm.errors import UsageError

FIRST_VOICE = "hibari:heart"
MINUTES = 45.0


@dataclass(frozen=True)
class MinimalPairsConfig:
    """Make minimal pairs to test with, and synthetic speech to train on, by text-to-speech, with no network.

    Without --lexicon, --transcripts, --grammar and --voices: a small closed world of English, by one neural voice.
    """

    out: str
    """Folder to write: corpus/, lexical/dev/, syntactic/dev/, generated.json. The same command continues it."""
    seed: int = 0
    """The same seed gives the same files, byte for byte."""
    minutes: float | None = None
    """About how much speech to train on; 45, or none where --lexicon or --transcripts is given."""
    pairs: int = 250
    """Pairs of the lexical task (a fifth of them of words that are never trained on), and of the syntactic task."""
    voices: list[str] = field(default_factory=lambda: [FIRST_VOICE])
    """ENGINE:VOICE, several one after the other, of one language: each pair is read by each. The first one says how
    words without a pronunciation are pronounced. Engines: hibari (heart), espeak (LANGUAGE or LANGUAGE+VARIANT)."""
    lexicon: str = ""
    """The words to ask for: a .csv or .tsv with columns word, frequency (optional), pronunciation (optional: IPA, or
    phonemes apart by blanks)."""
    transcripts: str = ""
    """What is trained on, to count words in: a text file, a folder of them, a tokenized corpus or a manifest with a
    column text. Without --lexicon, also the words to ask for."""
    grammar: str = ""
    """Sentences: a YAML file, or english, french; none for words alone. Unless given, that of the voices' language."""
    tokenizer: list[str] | str = ""
    """Also keep the units of these tokenizers (names, or YAML files, several one after the other) from telling words
    from pseudo-words by their number or frequency. Without it pairs depend on no tokenizer, and such baselines are near
    50 % only."""
    workers: int = 0
    """Processes; 0 for one for each core."""

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.workers < 0 or (self.minutes is not None and self.minutes < 0):
            raise UsageError("--minutes must not be below 0, --pairs at least 1, and --workers 0 or more")
        if self.seed < 0:
            raise UsageError("--seed must be 0 or more")
        if wrong := [voice for voice in self.voices if "," in voice]:
            raise UsageError(f"--voices {wrong[0]}: give several with blanks between them, and no commas")
        if self.is_closed_world and self.minutes == 0:
            raise UsageError(
                "--minutes must be above 0: the words of the closed world are counted in what is trained on"
            )

    @property
    def is_closed_world(self) -> bool:
        return not (self.lexicon or self.transcripts or self.grammar) and self.voices == [FIRST_VOICE]

    @property
    def tokenizers(self) -> list[str]:
        names = [self.tokenizer] if isinstance(self.tokenizer, str) else self.tokenizer
        return [name for name in names if name]

    @property
    def processes(self) -> int:
        return self.workers or available_cores()


def main(
    config: MinimalPairsConfig, make_voice: Callable | None = None, make_voices: Callable[[], Mapping] | None = None
) -> None:
    """Plan, synthesize, describe. `make_voice()` gives another Voice of the closed world than hibari-tts,
    `make_voices()` others than --voices names (they are called in each process)."""
    from eval.minimal_pairs.engines import Voices
    from slm.run_lock import held

    start = time.perf_counter()
    with held(Path(config.out)):
        if make_voices is None and config.is_closed_world:
            done = make_closed_world(config, make_voice)
        else:
            done = make_benchmark(config, make_voices or Voices(tuple(config.voices)))
    print(f"{done}: {time.perf_counter() - start:.0f} s" if done else f"{config.out} is complete: nothing to do")


def make_closed_world(config: MinimalPairsConfig, make_voice: Callable | None) -> str:
    """The closed world of `grammar.py`, by one voice. Returns what there is now; empty where there was all of it."""
    from eval.minimal_pairs.dataset import GENERATOR_VERSION, load_plan, make_plan, write_descriptions
    from eval.minimal_pairs.engines.hibari import HibariVoice
    from eval.minimal_pairs.synthesis import alone, open_studio

    out, make_voice = Path(config.out), make_voice or HibariVoice
    voice = make_voice()
    settings = {
        "generator_version": GENERATOR_VERSION,
        "tts": voice.engine,
        **common_settings(config, MINUTES),
    }
    plan = load_plan(out, settings)
    if plan and is_whole(out, plan):
        return ""
    with open_studio(partial(alone, make_voice), config.processes, config.tokenizers) as studio:
        plan = plan or make_plan(out, settings, voice, studio)
        lengths = studio.write(out, plan.utterances())
    return f"{write_descriptions(out, settings, voice, plan, lengths)} in {out}"


def make_benchmark(config: MinimalPairsConfig, make_voices: Callable[[], Mapping]) -> str:
    """Any lexicon, grammar and voices. Returns what there is now; empty where there was all of it."""
    from eval.minimal_pairs.benchmark import describe, gather, make
    from eval.minimal_pairs.dataset import load_plan, stored_settings
    from eval.minimal_pairs.synthesis import open_studio

    out = Path(config.out)
    materials = gather(make_voices(), config.lexicon, config.transcripts, config.grammar)
    default = MINUTES if materials.makes_its_corpus else 0.0
    settings = {**materials.fingerprint(), **common_settings(config, default)}
    plan = load_plan(out, settings)
    if plan and is_whole(out, plan):
        return ""
    with open_studio(make_voices, config.processes, config.tokenizers) as studio:
        plan = plan or make(out, settings, materials, studio)
        lengths = studio.write(out, plan.utterances())
    return f"{describe(out, stored_settings(out), plan, lengths)} in {out}"


def is_whole(out: Path, plan: Any) -> bool:
    """Whether all that is planned is there: a recording that was lost since is made again."""
    return (out / "generated.json").is_file() and all((out / u.path).is_file() for u in plan.utterances())


def common_settings(config: MinimalPairsConfig, minutes: float) -> dict[str, Any]:
    from slm.tokenizers import load_tokenizer

    described = [load_tokenizer(name).spec.describe() for name in config.tokenizers]
    return {
        "seed": config.seed,
        "minutes": minutes if config.minutes is None else config.minutes,
        "pairs": config.pairs,
        "balanced_for_tokenizer": described if len(described) > 1 else described[0] if described else None,
    }


if __name__ == "__main__":
    arguments = join_list(join_list(sys.argv[1:], "--voices", fewest=1), "--tokenizer")
    run_command(main, MinimalPairsConfig, arguments, prog="python -m eval.minimal_pairs")
