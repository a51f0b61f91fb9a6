"""Judges that are models, asked about speech: opinion scores, words, voices. One that is not here is absent, with what
brings it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from eval.judges.asr import SpeechRecognizer
from eval.judges.base import MissingJudgeError
from eval.judges.mos import MOS_JUDGES, MosJudge
from eval.judges.speaker import SpeakerJudge, speaker_judge
from eval.metrics.signals import SPEECH
from eval.metrics.similarity import cosine
from eval.metrics.texts import words_of
from eval.metrics.word_errors import edit_distance
from eval.reconstruction.scoring import Job
from eval.reconstruction.settings import Reconstruction
from slm.errors import UsageError, did_you_mean
from slm.types import AudioClip

T = TypeVar("T")
Values = dict[str, tuple[float, float]]
TRUTH = "_ground_truth"
"""Ends the name of a measure of the ground truth itself: what a perfect tokenizer would get."""


@dataclass(frozen=True)
class Opinion:
    """What tables say of one measure of a judge."""

    unit: str
    convention: str
    about: str
    higher_is_better: bool


class Opinions:
    """Loads what is asked for. The ground truth is judged once, whatever comes back of it."""

    def __init__(self, settings: Reconstruction, device: str):
        self.missing: dict[str, str] = {}
        self.measures: dict[str, Opinion] = {}
        self._truth: dict[tuple[str, str], object] = {}
        self.mos: list[MosJudge] = []
        for word in (word.strip() for word in settings.mos.split(",") if word.strip()):
            name, _, where = word.partition("=")
            if name not in MOS_JUDGES:
                raise UsageError(f"--reconstruction.mos: no predictor {name!r}{did_you_mean(name, MOS_JUDGES)}")
            kind = MOS_JUDGES[name]
            if made := self._load(name, lambda kind=kind, where=where: kind(where, device)):  # type: ignore[misc]
                self.mos.append(made)
        source, checkpoint = settings.speaker, settings.asr
        self.speaker: SpeakerJudge | None = (
            self._load("speaker_similarity", lambda: speaker_judge(source, device)) if source else None
        )
        self.asr = self._load("wer", lambda: SpeechRecognizer(checkpoint, device)) if checkpoint else None

    def _load(self, name: str, load: Callable[[], T]) -> T | None:
        try:
            return load()
        except MissingJudgeError as error:
            self.missing[name] = str(error).replace("--judges.utmos ", "--reconstruction.mos utmos=")
            return None

    def about(self, jobs: Sequence[Job], texts: Mapping[str, str]) -> dict[str, Values]:
        """Pair -> measure -> what it adds to both sums. Only speech is judged."""
        jobs = [job for job in jobs if job.domain == SPEECH]
        made: dict[str, Values] = {job.pair_id: {} for job in jobs}
        if jobs:
            self._rate(jobs, made)
            self._compare_voices(jobs, made)
            self._understand(jobs, texts, made)
        return made

    def _of_truth(self, judge: str, jobs: Sequence[Job], ask: Callable[[list[AudioClip]], Sequence[T]]) -> list[T]:
        """What is asked of the ground truth of each, which is remembered."""
        new = [job for job in jobs if (judge, job.pair_id) not in self._truth]
        for job, answer in zip(new, ask([_clip(job, job.reference) for job in new]) if new else (), strict=True):
            self._truth[judge, job.pair_id] = answer
        return [self._truth[judge, job.pair_id] for job in jobs]  # type: ignore[misc]

    def _rate(self, jobs: Sequence[Job], made: dict[str, Values]) -> None:
        for judge in self.mos:
            truth = self._of_truth(judge.name, jobs, judge.rate)
            for job, own, of_truth in zip(jobs, judge.rate([_clip(j, j.made) for j in jobs]), truth, strict=True):
                for end, found in (("", own), (TRUTH, of_truth)):
                    for name, value in (found or {}).items():
                        made[job.pair_id][name + end] = (value, 1.0)
                        what = "the ground truth itself" if end else "what came back"
                        self.measures.setdefault(
                            name + end,
                            Opinion("of 5", judge.record().sentence(), f"The opinion of {name} of {what}.", True),
                        )

    def _compare_voices(self, jobs: Sequence[Job], made: dict[str, Values]) -> None:
        if self.speaker is None:
            return
        about = "Cosine of speaker embeddings of both: is it the same voice?"
        self.measures["speaker_similarity"] = Opinion("cosine", self.speaker.record().sentence(), about, True)
        truth = self._of_truth("speaker", jobs, self.speaker.embed)
        for job, first, second in zip(jobs, truth, self.speaker.embed([_clip(j, j.made) for j in jobs]), strict=True):
            if first is not None and second is not None:
                made[job.pair_id]["speaker_similarity"] = (float(cosine(first, second)), 1.0)

    def _understand(self, jobs: Sequence[Job], texts: Mapping[str, str], made: dict[str, Values]) -> None:
        """WER where the words are known, dWER against what was understood of the ground truth."""
        if self.asr is None:
            return
        truth = self._of_truth("asr", jobs, self.asr.transcribe)
        judge = self.asr.record().sentence()
        for job, first, second in zip(jobs, truth, self.asr.transcribe([_clip(j, j.made) for j in jobs]), strict=True):
            known, heard, again = words_of(texts.get(job.pair_id, "")), words_of(first), words_of(second)
            asked = [("dwer", again, heard, "what is understood of the ground truth")]
            asked += [("wer", again, known, "the text"), ("wer" + TRUTH, heard, known, "the text")]
            for name, hypothesis, reference, against in asked:
                if reference:
                    made[job.pair_id][name] = (float(edit_distance(hypothesis, reference)), float(len(reference)))
                    what = "the ground truth itself" if name.endswith(TRUTH) else "what came back"
                    about = f"Words of {what} wrongly understood, against {against}."
                    self.measures[name] = Opinion("fraction", f"{judge}, edits over words", about, False)


def _clip(job: Job, samples: object) -> AudioClip:
    return AudioClip(job.pair_id, samples, job.sample_rate_hz)  # type: ignore[arg-type]
