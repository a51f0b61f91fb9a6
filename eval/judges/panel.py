"""The judges of a run: each loaded once, when it is first asked for; those that are missing remembered with why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from eval.judges.asr import SpeechRecognizer
from eval.judges.base import Judge, MissingJudgeError
from eval.judges.config import Judges
from eval.judges.embedding import EmbeddingJudge, embedding_judge
from eval.judges.mos import MOS_JUDGES, MosJudge
from eval.judges.sounds import Clap, SoundClassifier
from eval.judges.speaker import SpeakerJudge, speaker_judge
from eval.judges.text_lm import TextModel

J = TypeVar("J", bound=Judge)


class Panel:
    """`missing` maps what cannot be judged to the reason, `records` each judge that was loaded to who it is."""

    def __init__(self, judges: Judges, device: str = "cpu"):
        self.judges, self.device = judges, device
        self.missing: dict[str, str] = {}
        self._loaded: dict[str, Judge | None] = {}

    @property
    def records(self) -> dict[str, dict]:
        return {kind: {"name": j.name, **j.record().to_dict()} for kind, j in self._loaded.items() if j is not None}

    def asr(self) -> SpeechRecognizer | None:
        j = self.judges
        make = lambda: SpeechRecognizer(j.asr, self.device, j.asr_language, j.asr_beams, j.batch_size)  # noqa: E731
        return self._find("asr", j.asr, make, ("gen_ppl", "auto_bleu_2", "self_bleu_2", "vert", "distinct_2", "wer"))

    def text_lm(self) -> TextModel | None:
        j = self.judges
        make = lambda: TextModel(j.text_lm, self.device, j.batch_size)  # noqa: E731
        return self._find("text_lm", j.text_lm, make, ("gen_ppl", "text_lm_rating"))

    def mos(self) -> list[MosJudge]:
        device, found = self.device, []
        for name in self.judges.mos_names:
            source = self.judges.utmos if name == "utmos" else ""
            kind = MOS_JUDGES[name]
            judge = self._find(name, name, lambda kind=kind, source=source: kind(source, device), (name,))  # type: ignore[misc]
            found += [cast(MosJudge, judge)] if judge else []
        return found

    def speaker(self) -> SpeakerJudge | None:
        source = self.judges.speaker
        return self._find("speaker", source, lambda: speaker_judge(source, self.device), ("speaker_similarity",))

    def embedding(self) -> EmbeddingJudge | None:
        source = self.judges.embedding
        return self._find("embedding", source, lambda: embedding_judge(source, self.device), ("fad", "fad_inf"))

    def classifier(self) -> SoundClassifier | None:
        source, device = self.judges.classifier, self.device
        return self._find("classifier", source, lambda: SoundClassifier(source, device), ("kld",),
                          "--judges.classifier, such as MIT/ast-finetuned-audioset-10-10-0.4593")  # fmt: skip

    def clap(self) -> Clap | None:
        source, device = self.judges.clap, self.device
        return self._find("clap", source, lambda: Clap(source, device), ("clap_score",),
                          "--judges.clap, such as laion/clap-htsat-unfused, and prompts with a caption")  # fmt: skip

    def lacks(self, metrics: Sequence[str], reason: str) -> None:
        """Note that these cannot be told, unless a reason is noted already."""
        for metric in metrics:
            self.missing.setdefault(metric, reason)

    def _find(
        self, kind: str, source: str, make: Callable[[], J], metrics: Sequence[str], option: str = ""
    ) -> J | None:
        """The judge; None where none is asked for or it is missing, which is noted for its metrics."""
        if kind not in self._loaded:
            self._loaded[kind] = None
            try:
                if source:
                    self._loaded[kind] = make()
                else:
                    self.lacks(metrics, f"needs {option or f'--judges.{kind}'}")
            except MissingJudgeError as error:
                self.lacks(metrics, str(error))
        return cast("J | None", self._loaded[kind])
