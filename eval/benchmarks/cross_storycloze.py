"""Cross-modal StoryCloze, as slamkit reads it: the beginning of a story (`*_mutual`) and its two endings (`*_correct`,
`*_incorrect`), each as a recording (.wav, or any ending that `slm.audio` reads) and as .txt. A form says which of them
are spoken.

Where all are spoken, the beginning and an ending are joined into one recording, so that they are tokenized together.
The other forms need a model that reads text beside units (`slm.interleaved_lm`), which reads the spoken form too with
its markers, as slamkit does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from eval.benchmarks._archives import find_set
from eval.benchmarks._cache import made_once
from eval.benchmarks.base import BENCHMARKS, LeftOut, Result, Run, Setup
from eval.benchmarks.pairs import PairBenchmark, Subset
from eval.conventions import Convention
from eval.tokens import Tokens, tokenize_items
from slm.audio import AUDIO_SUFFIXES, probe, read_audio, write_wav
from slm.errors import AudioError, UsageError
from slm.model import interleaved
from slm.types import AudioClip, Codes, MinimalPair, stable_hash

if TYPE_CHECKING:
    from slm.spoken_lm import SpokenLM

SPEECH, TEXT = "speech", "text"
ENDINGS = ("correct", "incorrect")
PARTS = ("mutual", *ENDINGS)
CALLED = {SPEECH: "recording", TEXT: "text"}
MARKERS = {SPEECH: interleaved.SPEECH, TEXT: interleaved.TEXT}


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
                f"no {self.folders[0]}: put its *_mutual, *_correct and *_incorrect files (recordings and .txt) into "
                f"{setup.data / self.folders[0]}; https://github.com/slp-rl/slamkit tells where they are"
            )
        self.split, self.folder = "stories", folder
        self.parts = find_parts(folder)
        wanted = sorted({story for story, _, _ in self.parts})
        lacking = {story: self._lacking(story) for story in wanted}
        names = {story: story.relative_to(folder).as_posix() for story in wanted}
        whole = [story for story in wanted if not lacking[story]]
        if not whole:
            raise UsageError(f"{folder} holds no whole pair of {self.prompt} and {self.ending}; fetch it again")
        self.unpaired = [LeftOut(names[story], f"no {lacking[story]}") for story in wanted if lacking[story]]
        self.lost = len(self.unpaired)
        self.all_pairs = [MinimalPair(f"{names[s]}_correct", f"{names[s]}_incorrect", group=names[s]) for s in whole]
        self.sources = {f"{names[s]}_{e}": self._parts(s, e) for s in whole for e in ENDINGS}
        if self.needs_text:
            self.files = {item: parts[1] for item, parts in self.sources.items()}
        else:
            self.files = join_recordings(self.sources, setup.cache / self.name)

    @property
    def needs_text(self) -> bool:
        return TEXT in (self.prompt, self.ending)

    def _parts(self, story: Path, ending: str) -> tuple[Path, Path]:
        return self.parts[story, "mutual", self.prompt], self.parts[story, ending, self.ending]

    def _lacking(self, story: Path) -> str:
        """The first part that this form has no file of, or nothing."""
        needed = [("mutual", self.prompt), *((ending, self.ending) for ending in ENDINGS)]
        gone = (f"{CALLED[form]} {story.name}_{part}" for part, form in needed if (story, part, form) not in self.parts)
        return next(gone, "")

    def check(self, lm: SpokenLM) -> None:
        if self.needs_text and not hasattr(lm, "mix"):
            raise UsageError(
                f"{self.name} needs a model that reads text, and this one knows the codes of {lm.spec.name} only: "
                f"score {self.name.rsplit('_', 2)[0]}_speech_speech, where all is spoken"
            )

    def run(self, run: Run) -> Result:
        self.check(run.lm)
        self.lasts = not hasattr(run.lm, "mix")
        asked = [c.name for c in (run.convention, *run.views) if c.is_of_pairs]
        if asked and not self.lasts:
            raise UsageError(
                f"{self.name}: {', '.join(asked)} is about units of speech, and this model reads text too: leave it out"
            )
        return super().run(run)

    def _conventions(self, run: Run) -> list[Convention]:
        return [c for c in super()._conventions(run) if self.lasts or not c.is_of_pairs]

    def tokenized(self, run: Run) -> Tokens:
        """For a model that reads text, what is spoken as codes and what is written as text, in one document each."""
        lm = run.lm
        if not hasattr(lm, "mix"):
            return super().tokenized(run)
        pieces = {item: self._pieces(item) for item in self.sources}
        spoken = {name: path for parts in pieces.values() for kind, name, path in parts if kind == SPEECH}
        heard = Tokens(run.tokens, {}, (), "")
        if spoken:
            heard = tokenize_items(spoken, lm, run.tokens, f"{self.name}-{self.split}", run.processes)
        reasons = {left.item: left.reason for left in heard.left_out}
        written = dict[Path, str]()
        for name, path in {(n, p) for parts in pieces.values() for kind, n, p in parts if kind == TEXT}:
            try:
                written[path] = read_text(path)
            except UnusableText as fault:
                reasons[name] = str(fault)
        codes, left_out, texts = dict[str, Codes](), list[LeftOut](), list[str]()
        for item, parts in pieces.items():
            if missing := [name for _, name, _ in parts if name in reasons]:
                left_out.append(LeftOut(item, f"{missing[0]}: {reasons[missing[0]]}"))
                continue
            read = [(k, heard.codes[name] if k == SPEECH else written[path]) for k, name, path in parts]
            texts += [content for _, content in read if isinstance(content, str)]
            codes[item] = lm.mix(item, [(MARKERS[kind], content) for kind, content in read])
        return Tokens(heard.folder, codes, tuple(left_out), stable_hash([heard.audio_sha256, texts]))

    def _starts(self, lm: SpokenLM, codes: Codes) -> np.ndarray:
        """In what is mixed of text and speech nothing has a time: each id is a frame, and the first is only given."""
        return super()._starts(lm, codes) if self.lasts else np.arange(1, len(codes.codes) + 1)

    def _pieces(self, item: str) -> list[tuple[str, str, Path]]:
        """Its parts: form, name and file. Two that are spoken are one recording."""
        if not self.needs_text:
            return [(SPEECH, item, self.files[item])]
        both = zip((self.prompt, self.ending), self.sources[item], strict=True)
        return [(kind, path.relative_to(self.folder).as_posix(), path) for kind, path in both]

    def subsets(self, pairs: Sequence[MinimalPair]) -> list[Subset]:
        return [Subset("all", "all stories, each counted once", (tuple(pairs),))]


class UnusableText(ValueError):
    """Why a text cannot be scored: its item is left out by this reason."""


def read_text(path: Path) -> str:
    """Without the blanks around it. UnusableText where there is none."""
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        raise UnusableText("not UTF-8 text") from None
    if not text:
        raise UnusableText("an empty text")
    return text


def find_parts(folder: Path) -> Mapping[tuple[Path, str, str], Path]:
    """(story, part, form) -> its file below `folder`. A story is the path without `_mutual.wav` and the like; endings
    in any case. UsageError for two files of one part and form."""
    found: dict[tuple[Path, str, str], Path] = {}
    for path in sorted(folder.rglob("*")):
        story, _, part = path.stem.rpartition("_")
        suffix = path.suffix.lower()
        form = SPEECH if suffix in AUDIO_SUFFIXES else TEXT if suffix == ".txt" else None
        if form is None or part not in PARTS or path.name.startswith(".") or not path.is_file():
            continue
        key = path.with_name(story), part, form
        if other := found.get(key):
            raise UsageError(f"{path.parent} has {other.name} and {path.name}: keep one of them")
        found[key] = path
    return found


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
