"""Every judge on what a model said, and on how the recordings really go on, which is what to hold it against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.benchmarks._judged import Judged
from eval.benchmarks._sheet import Sheet
from eval.benchmarks.base import MODEL
from eval.benchmarks.continuation import describe_clip
from eval.judges.panel import Panel
from eval.metrics.class_divergence import ClassPair
from eval.metrics.frechet import REFERENCE, Embeddings
from eval.metrics.rating import Rating
from eval.metrics.similarity import CaptionPair, VoicePair
from slm.types import AudioClip

RECORDINGS = "recordings"
CONTINUATION, WHOLE, GIVEN = "continuation", "prompt and continuation", "continuation, given the prompt"
_SOUND = (("duration_s", "s"), ("level_dbfs", "dBFS"), ("silence_share", "fraction"))


@dataclass(frozen=True)
class Bench:
    """What a judgement works with. `setting` says how the continuations were made; `notes` gathers what each judge
    said of each prompt, and `unheard` how many clips a judge could not tell about."""

    judged: Sequence[Judged]
    references: Sequence[AudioClip]
    panel: Panel
    sheet: Sheet
    setting: str
    notes: dict[str, dict[str, Any]]
    unheard: dict[str, int]

    def convention(self, judge: Any, *more: str) -> str:
        return "; ".join([self.setting, judge.record().sentence(), *more])

    def note(self, ids: Iterable[str], name: str, values: Iterable[Any]) -> None:
        for id, value in zip(ids, values, strict=True):
            self.notes.setdefault(id, {})[name] = value

    def miss(self, name: str, found: Sequence[Any]) -> None:
        if count := sum(f is None for f in found):
            self.unheard[name] = self.unheard.get(name, 0) + count


def judge_sound(bench: Bench) -> None:
    """Lengths, levels and silence, needing no judge."""
    sides = {MODEL: [j.added for j in bench.judged], RECORDINGS: list(bench.references)}
    for scorer, clips in sides.items():
        described = [describe_clip(clip) for clip in clips]
        for name, unit in _SOUND:
            values = [d[name] for d in described if d[name] is not None]
            if values:
                mean = float(np.mean(np.array(values, np.float64)))
                bench.sheet.number(CONTINUATION, name, mean, unit, bench.setting, len(values), scorer)


def judge_quality(bench: Bench) -> None:
    """Predicted opinion scores, each its own metric."""
    for judge in bench.panel.mos():
        for scorer, clips in ((MODEL, [j.added for j in bench.judged]), (RECORDINGS, list(bench.references))):
            rated = judge.rate(clips)
            bench.miss(f"{judge.name} of {scorer}", rated)
            for name in sorted({name for r in rated if r for name in r}):
                items = [Rating(clip.id, r[name]) for clip, r in zip(clips, rated, strict=True) if r]
                bench.sheet.add(CONTINUATION, items, bench.convention(judge), scorer, name)
            if clips and not any(rated):
                bench.sheet.undefined.append(f"{judge.name} of {scorer}, {CONTINUATION}")
            if scorer == MODEL:
                bench.note([c.id for c in clips], judge.name, rated)


def judge_voice(bench: Bench) -> None:
    """Is what was added in the voice of the prompt? Recordings: is the rest of each?"""
    judge = bench.panel.speaker()
    if judge is None:
        return
    prompts = dict(zip([j.id for j in bench.judged], judge.embed([j.prompt for j in bench.judged]), strict=True))
    sides = {MODEL: [j.added for j in bench.judged], RECORDINGS: [j.rest for j in bench.judged if j.rest]}
    for scorer, clips in sides.items():
        voices = judge.embed(clips)
        pairs = [_voices(clip.id, prompts[clip.id], voice) for clip, voice in zip(clips, voices, strict=True)]
        bench.miss(f"speaker similarity of {scorer}", pairs)
        convention = bench.convention(judge, "with the recorded prompt")
        if clips:
            bench.sheet.add(CONTINUATION, [p for p in pairs if p], convention, scorer, kind=VoicePair)


def _voices(id: str, prompt: np.ndarray | None, other: np.ndarray | None) -> VoicePair | None:
    return None if prompt is None or other is None else VoicePair(id, prompt, other)


def judge_distribution(bench: Bench) -> None:
    """How far all continuations are from all recordings."""
    if not bench.references:
        bench.panel.lacks(("fad", "fad_inf"), "needs recordings longer than the prompt, or --judges.reference")
        return
    judge = bench.panel.embedding()
    if judge is None:
        return
    sides = {REFERENCE: list(bench.references), MODEL: [j.added for j in bench.judged]}
    items = [
        Embeddings(clip.id, which, vectors)
        for which, clips in sides.items()
        for clip, vectors in zip(clips, judge.embed(clips), strict=True)
        if len(vectors)
    ]
    counts = {which: [len(e.vectors) for e in items if e.which == which] for which in sides}
    words = {REFERENCE: "recordings", MODEL: "continuations"}
    sizes = [f"{sum(counts[which])} embeddings of {len(counts[which])} {word}" for which, word in words.items()]
    for which, clips in sides.items():
        if missed := len(clips) - len(counts[which]):
            bench.unheard[f"embedding of {words[which]}"] = missed
    bench.sheet.add(CONTINUATION, items, bench.convention(judge, *sizes), about=len(counts[MODEL]), kind=Embeddings)


def judge_sounds(bench: Bench) -> None:
    """What a classifier hears, beside the recording's rest; and whether it sounds like its caption."""
    pairs = [(j.id, j.rest, j.added) for j in bench.judged if j.rest]
    if (classifier := bench.panel.classifier()) and pairs:
        heard = [
            classifier.classify([clip for _, _, clip in pairs]),
            classifier.classify([rest for _, rest, _ in pairs]),
        ]
        items = [ClassPair(id, rest, added) for (id, _, _), added, rest in zip(pairs, *heard, strict=True)
                 if added is not None and rest is not None]  # fmt: skip
        bench.sheet.add(
            CONTINUATION, items, bench.convention(classifier, "KL(recording || continuation)"), kind=ClassPair
        )
    elif not pairs:
        bench.panel.lacks(("kld",), "needs recordings longer than the prompt")
    captioned = [j for j in bench.judged if j.caption]
    if not captioned:
        bench.panel.lacks(("clap_score",), "needs prompts with a caption, in a manifest's column of that name, and "
                          "--judges.clap, such as laion/clap-htsat-unfused")  # fmt: skip
    elif clap := bench.panel.clap():
        sounds, words = clap.embed([j.added for j in captioned]), clap.embed_texts([j.caption or "" for j in captioned])
        found = [CaptionPair(j.id, s, w) for j, s, w in zip(captioned, sounds, words, strict=True) if s is not None]
        bench.sheet.add(CONTINUATION, found, bench.convention(clap), kind=CaptionPair)
