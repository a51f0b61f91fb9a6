"""Judges that are models, asked about speech: opinion scores, words, voices. One that is not here is absent, with what
brings it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.judges.answers import identity_of
from eval.judges.asr import SpeechRecognizer
from eval.judges.base import MissingJudgeError
from eval.judges.mos import MOS_JUDGES
from eval.judges.pool import Asked, JudgePool, Recipe
from eval.judges.speaker import speaker_judge
from eval.metrics.signals import SPEECH
from eval.metrics.similarity import cosine
from eval.metrics.texts import words_of
from eval.metrics.word_errors import edit_distance
from eval.reconstruction.scoring import Job
from eval.reconstruction.settings import Reconstruction
from slm.errors import UsageError, did_you_mean
from slm.types import AudioClip

Values = dict[str, tuple[float, float]]
Answers = tuple[Sequence[Any], Sequence[Any]]
"""About the ground truth of each, and about what came back of it."""
TRUTH = "_ground_truth"
"""Ends the name of a measure of the ground truth itself: what a perfect tokenizer would get."""
SPEAKER = "speaker_similarity"


@dataclass(frozen=True)
class Opinion:
    """What tables say of one measure of a judge."""

    unit: str
    convention: str
    about: str
    higher_is_better: bool


class Opinions:
    """Loads what is asked for. The ground truth is judged once, whatever comes back of it, and nothing is judged again
    whose answer is kept in `folder`. The work is the pool's."""

    def __init__(
        self, settings: Reconstruction, device: str, folder: Path | None = None, judges: JudgePool | None = None
    ):
        self.judges, self.folder = judges or JudgePool(), folder
        self.missing: dict[str, str] = {}
        self.measures: dict[str, Opinion] = {}
        self.mos: list[Asked] = []
        for word in (word.strip() for word in settings.mos.split(",") if word.strip()):
            name, _, where = word.partition("=")
            if name not in MOS_JUDGES:
                raise UsageError(f"--reconstruction.mos: no predictor {name!r}{did_you_mean(name, MOS_JUDGES)}")
            if made := self._load(name, Recipe(MOS_JUDGES[name], (where, device))):
                self.mos.append(made)
        source, checkpoint = settings.speaker, settings.asr
        self.speaker = self._load(SPEAKER, Recipe(speaker_judge, (source, device))) if source else None
        self.asr = self._load("wer", Recipe(SpeechRecognizer, (checkpoint, device))) if checkpoint else None

    def _load(self, name: str, recipe: Recipe) -> Asked | None:
        try:
            return Asked(recipe.make(*recipe.arguments), self.judges, recipe, self.folder)
        except MissingJudgeError as error:
            self.missing[name] = str(error).replace("--judges.utmos ", "--reconstruction.mos utmos=")
            return None

    @property
    def identities(self) -> list[Any]:
        """Of everybody who is asked."""
        return [identity_of(judge) for judge in (*self.mos, self.speaker, self.asr) if judge]

    def begin(self, jobs: Sequence[Job], texts: Mapping[str, str]) -> Callable[[], dict[str, Values]]:
        """Ask about speech; what is returned waits for: pair -> measure -> what it adds to both sums."""
        jobs = [job for job in jobs if job.domain == SPEECH]
        clips = [_clip(job, job.reference) for job in jobs] + [_clip(job, job.made) for job in jobs]
        asked = [judge.begin("rate", clips) for judge in self.mos]
        voices = self.speaker.begin("embed", clips) if self.speaker else None
        words = self.asr.begin("transcribe", clips) if self.asr else None

        def finish() -> dict[str, Values]:
            made: dict[str, Values] = {job.pair_id: {} for job in jobs}
            for wait in asked:
                _rate(jobs, _halves(wait()), made)
            if voices is not None:
                _compare_voices(jobs, _halves(voices()), made)
            if words is not None:
                _understand(jobs, _halves(words()), texts, made)
            self.learn(name for values in made.values() for name in values)
            return made

        return finish

    def about(self, jobs: Sequence[Job], texts: Mapping[str, str]) -> dict[str, Values]:
        return self.begin(jobs, texts)()

    def learn(self, names: Iterable[str]) -> None:
        """Note what these measures are; names that are no judge's are passed over."""
        for name in set(names) - set(self.measures):
            if found := self._opinion(name):
                self.measures[name] = found

    def _opinion(self, name: str) -> Opinion | None:
        base, what = name.removesuffix(TRUTH), "the ground truth itself" if name.endswith(TRUTH) else "what came back"
        if base in ("wer", "dwer") and self.asr:
            against = "the text" if base == "wer" else "what is understood of the ground truth"
            about = f"Words of {what} wrongly understood, against {against}."
            return Opinion("fraction", f"{self.asr.record().sentence()}, edits over words", about, False)
        if base == SPEAKER and self.speaker:
            about = "Cosine of speaker embeddings of both: is it the same voice?"
            return Opinion("cosine", self.speaker.record().sentence(), about, True)
        judge = next((j for j in self.mos if base.startswith(j.name)), None)
        if judge is None:
            return None
        return Opinion("of 5", judge.record().sentence(), f"The opinion of {base} of {what}.", True)


def _rate(jobs: Sequence[Job], answers: Answers, made: dict[str, Values]) -> None:
    for end, found in zip((TRUTH, ""), answers, strict=True):
        for job, rated in zip(jobs, found, strict=True):
            made[job.pair_id].update({name + end: (value, 1.0) for name, value in (rated or {}).items()})


def _compare_voices(jobs: Sequence[Job], answers: Answers, made: dict[str, Values]) -> None:
    for job, first, second in zip(jobs, *answers, strict=True):
        if first is not None and second is not None:
            made[job.pair_id][SPEAKER] = (float(cosine(first, second)), 1.0)


def _understand(jobs: Sequence[Job], answers: Answers, texts: Mapping[str, str], made: dict[str, Values]) -> None:
    """WER where the words are known, dWER against what was understood of the ground truth."""
    for job, first, second in zip(jobs, *answers, strict=True):
        known, heard, again = words_of(texts.get(job.pair_id, "")), words_of(first), words_of(second)
        asked = [("dwer", again, heard), ("wer", again, known), ("wer" + TRUTH, heard, known)]
        for name, hypothesis, reference in asked:
            if reference:
                made[job.pair_id][name] = (float(edit_distance(hypothesis, reference)), float(len(reference)))


def _halves(answers: Sequence[Any]) -> Answers:
    return answers[: len(answers) // 2], answers[len(answers) // 2 :]


def _clip(job: Job, samples: object) -> AudioClip:
    return AudioClip(job.pair_id, samples, job.sample_rate_hz)  # type: ignore[arg-type]
