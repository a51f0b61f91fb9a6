"""The judges of a run: each loaded once, when it is first asked for; those that are missing remembered with why.

What they say is kept below OUT/judged, and a later run asks only about what is new (`eval.judges.answers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.judges.answers import FOLDER
from eval.judges.asr import SpeechRecognizer
from eval.judges.base import MissingJudgeError
from eval.judges.config import Judges
from eval.judges.embedding import embedding_judge
from eval.judges.mos import MOS_JUDGES
from eval.judges.pool import Asked, JudgePool, Recipe
from eval.judges.sounds import Clap, SoundClassifier
from eval.judges.speaker import speaker_judge
from eval.judges.text_lm import TextModel

READ = ("gen_ppl", "gen_ppl_tokens", "gen_ppl_median", "text_lm_rating")
"""What takes a text model; and what takes a recognizer."""
HEARD = ("auto_bleu_2", "auto_bleu_2_geometric", "self_bleu_2", "vert", "distinct_1", "distinct_2", "words",
         "empty_transcripts", "overfull_transcripts", "wer", "cer", "dwer", "dcer")  # fmt: skip


class Panel:
    """`missing` maps what cannot be judged to the reason, `records` each judge that was loaded to who it is. Answers
    are kept below `out`, where it is given."""

    def __init__(self, judges: Judges, device: str = "cpu", out: Path | None = None):
        self.judges, self.device = judges, device
        self.folder = out / FOLDER if out else None
        self.judge_pool = JudgePool(judges.workers)
        self.missing: dict[str, str] = {}
        self._loaded: dict[str, Asked | None] = {}

    @property
    def records(self) -> dict[str, dict]:
        return {kind: {"name": j.name, **j.record().to_dict()} for kind, j in self._loaded.items() if j is not None}

    def asr(self) -> Asked | None:
        j = self.judges
        recipe = Recipe(SpeechRecognizer, (j.asr, self.device, j.asr_language, j.asr_beams, j.batch_size))
        return self._find("asr", j.asr, recipe, HEARD + READ)

    def text_lm(self) -> Asked | None:
        j = self.judges
        recipe = Recipe(TextModel, (j.text_lm, self.device, j.batch_size))
        return self._find("text_lm", j.text_lm, recipe, READ)

    def mos(self) -> list[Asked]:
        found = []
        for name in self.judges.mos_names:
            source = self.judges.utmos if name == "utmos" else ""
            judge = self._find(name, name, Recipe(MOS_JUDGES[name], (source, self.device)), (name,))
            found += [judge] if judge else []
        return found

    def speaker(self) -> Asked | None:
        source = self.judges.speaker
        return self._find("speaker", source, Recipe(speaker_judge, (source, self.device)), ("speaker_similarity",))

    def embedding(self) -> Asked | None:
        source = self.judges.embedding
        return self._find("embedding", source, Recipe(embedding_judge, (source, self.device)), ("fad", "fad_inf"))

    def classifier(self) -> Asked | None:
        source = self.judges.classifier
        return self._find("classifier", source, Recipe(SoundClassifier, (source, self.device)), ("kld",),
                          "--judges.classifier, such as MIT/ast-finetuned-audioset-10-10-0.4593")  # fmt: skip

    def clap(self) -> Asked | None:
        source = self.judges.clap
        return self._find("clap", source, Recipe(Clap, (source, self.device)), ("clap_score",),
                          "--judges.clap, such as laion/clap-htsat-unfused, and prompts with a caption")  # fmt: skip

    def lacks(self, metrics: Sequence[str], reason: str) -> None:
        """Note that these cannot be told, unless a reason is noted already."""
        for metric in metrics:
            self.missing.setdefault(metric, reason)

    def close(self) -> None:
        self.judge_pool.close()

    def _find(self, kind: str, source: str, recipe: Recipe, metrics: Sequence[str], option: str = "") -> Asked | None:
        """The judge; None where none is asked for or it is missing, which is noted for its metrics."""
        if kind not in self._loaded:
            self._loaded[kind] = None
            try:
                if source:
                    self._loaded[kind] = Asked(recipe.make(*recipe.arguments), self.judge_pool, recipe, self.folder)
                else:
                    self.lacks(metrics, f"needs {option or f'--judges.{kind}'}")
            except MissingJudgeError as error:
                self.lacks(metrics, str(error))
        return self._loaded[kind]
