"""Cross-modal StoryCloze, as slamkit reads it: the beginning of a story (`*_mutual`) and its two endings (`*_correct`,
`*_incorrect`), each as .wav and as .txt. A form says which of them are spoken.

Where all are spoken, the beginning and an ending are joined into one recording, so that they are tokenized together.
The other forms need a model that reads text beside audio codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from eval.benchmarks._archives import find_set
from eval.benchmarks._cache import made_once
from eval.benchmarks.base import BENCHMARKS, LeftOut, Result, Run, Setup
from eval.benchmarks.pairs import PairBenchmark, Subset
from slm.audio import probe, read_audio, write_wav
from slm.errors import AudioError, UsageError
from slm.types import AudioClip, MinimalPair, stable_hash

if TYPE_CHECKING:
    from slm.spoken_lm import SpokenLM

SPEECH, TEXT = "speech", "text"
ENDINGS = ("correct", "incorrect")
SUFFIX = {SPEECH: ".wav", TEXT: ".txt"}


class CrossStoryCloze(PairBenchmark):
    """One set in one form: `prompt` and `ending` are each speech or text."""

    views = ("normalized",)
    folders: ClassVar[tuple[str, ...]]
    prompt: ClassVar[str]
    ending: ClassVar[str]

    def __init__(self, setup: Setup):
        folder = find_set(setup, self.folders)
        if folder is None:
            raise UsageError(
                f"no {self.folders[0]}: put its *_mutual, *_correct and *_incorrect files (.wav and .txt) into "
                f"{setup.data / self.folders[0]}; https://github.com/slp-rl/slamkit tells where they are"
            )
        self.split = "stories"
        found = {_stem(p) for p in folder.rglob("*") if p.suffix in SUFFIX.values()}
        wanted = sorted(stem for stem in found if stem is not None)
        names = {stem: stem.relative_to(folder).as_posix() for stem in wanted}
        whole = [stem for stem in wanted if not _lacking(stem, self.prompt, self.ending)]
        if not whole:
            raise UsageError(f"{folder} holds no whole pair of {self.prompt} and {self.ending}; fetch it again")
        self.unpaired = [
            LeftOut(names[stem], f"no {lacking}")
            for stem in wanted
            if (lacking := _lacking(stem, self.prompt, self.ending))
        ]
        self.lost = len(self.unpaired)
        self.all_pairs = [MinimalPair(f"{names[s]}_correct", f"{names[s]}_incorrect", group=names[s]) for s in whole]
        sources = {f"{names[s]}_{e}": self._parts(s, e) for s in whole for e in ENDINGS}
        if self.needs_text:
            self.files = {item: parts[1] for item, parts in sources.items()}
        else:
            self.files = join_recordings(sources, setup.cache / self.name)

    @property
    def needs_text(self) -> bool:
        return TEXT in (self.prompt, self.ending)

    def _parts(self, stem: Path, ending: str) -> tuple[Path, Path]:
        return _file(stem, "mutual", self.prompt), _file(stem, ending, self.ending)

    def check(self, lm: SpokenLM) -> None:
        if self.needs_text:
            raise UsageError(
                f"{self.name} needs a model that reads text, and this one knows the codes of {lm.spec.name} only: "
                f"score {self.name.rsplit('_', 2)[0]}_speech_speech, where all is spoken"
            )

    def run(self, run: Run) -> Result:
        self.check(run.lm)
        return super().run(run)

    def subsets(self, pairs: Sequence[MinimalPair]) -> list[Subset]:
        return [Subset("all", "all stories, each counted once", (tuple(pairs),))]


def _stem(path: Path) -> Path | None:
    """The path without `_mutual.wav` and the like."""
    head, _, part = path.stem.rpartition("_")
    return path.with_name(head) if part in ("mutual", *ENDINGS) else None


def _file(stem: Path, part: str, form: str) -> Path:
    return stem.with_name(f"{stem.name}_{part}{SUFFIX[form]}")


def _lacking(stem: Path, prompt: str, ending: str) -> str:
    """The first file of a pair that is not there, or nothing."""
    needed = [_file(stem, "mutual", prompt), *(_file(stem, e, ending) for e in ENDINGS)]
    return next((p.name for p in needed if not p.is_file()), "")


def join_recordings(sources: dict[str, tuple[Path, Path]], cache: Path) -> dict[str, Path]:
    """Item -> the recording of both its parts, one after the other at the rate of the first, written once. Of parts
    that cannot be read: the first that cannot, which the tokenizer will refuse by the same reason."""
    about = sorted(
        (item, [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in ps]) for item, ps in sources.items()
    )
    folder = cache / stable_hash(about)[:12]

    def make(place: Path) -> dict[str, str]:
        return {item: _join(item, sources[item], place / f"{i:05d}.wav") for i, item in enumerate(sorted(sources))}

    return {item: folder / path for item, path in made_once(folder, make).items()}


def _join(item: str, parts: tuple[Path, Path], path: Path) -> str:
    rate_hz, samples = 0, []
    for part in parts:
        try:
            rate_hz = rate_hz or probe(part).sample_rate_hz
            samples.append(read_audio(part, rate_hz))
        except AudioError:
            return str(part.resolve())
    write_wav(path, AudioClip(item, np.concatenate(samples), rate_hz))
    return path.name


def _register(story: str, set_name: str) -> None:
    """The four forms of a set, each a benchmark by its name."""
    for prompt in (SPEECH, TEXT):
        for ending in (SPEECH, TEXT):
            name = f"cross_{story}_{prompt}_{ending}"
            about = f"Stories of {set_name}, begun in {prompt}, with their own ending against a wrong one in {ending}."
            members = {
                "name": name, "about": about, "prompt": prompt, "ending": ending, "__module__": __name__,
                "folders": (f"cross_ms_{set_name}", f"cross_{set_name}"),
            }  # fmt: skip
            BENCHMARKS.register(name)(type(f"Cross{set_name}{prompt}{ending}", (CrossStoryCloze,), members))


_register("ssc", "sSC")
_register("tsc", "tSC")
