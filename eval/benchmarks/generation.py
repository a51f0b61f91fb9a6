"""Generation: what the model says after each prompt, judged by models that hear and read it.

Continuations are those of `continuation` (the same prompts, settings and seeds), read from OUT/continuation where they
are there, else made. Beside each number of the model stands that of how the recordings really go on: the same clips'
length, rate and judges, so it is the one to hold the model's against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.benchmarks import _judgement
from eval.benchmarks._continuations import find_or_make
from eval.benchmarks._heard import judge_texts
from eval.benchmarks._judged import Judged, read_judged, read_references
from eval.benchmarks._judgement import CONTINUATION, GIVEN, RECORDINGS, WHOLE, Bench
from eval.benchmarks._sheet import Sheet
from eval.benchmarks._sweep import sweep
from eval.benchmarks.base import BENCHMARKS, Benchmark, LeftOut, Result, Run, Setup
from eval.benchmarks.continuation import Continuation, hash_of_prompts
from eval.judges.panel import Panel
from eval.tokens import item_list_hash
from slm.errors import UsageError
from slm.types import AudioClip

if TYPE_CHECKING:
    from slm.spoken_lm import SpokenLM

_JUDGEMENTS = (_judgement.judge_sound, judge_texts, _judgement.judge_quality, _judgement.judge_voice,
               _judgement.judge_distribution, _judgement.judge_sounds)  # fmt: skip


@BENCHMARKS.register("generation")
class JudgedGeneration(Benchmark):
    name = "generation"
    about = "What the model says after the start of a recording, judged by models that hear and read it."

    def __init__(self, setup: Setup):
        self.setup = setup
        self.temperatures = setup.generation.sweep
        self.continuation = Continuation(setup)
        reference = setup.judges.reference
        if reference and not Path(reference).exists():
            raise UsageError(f"--judges.reference {reference} does not exist; give a folder or manifest of recordings")

    def check(self, lm: SpokenLM) -> None:
        if not lm.spec.has_decoder:
            raise UsageError(
                f"generation: tokenizer {lm.spec.name} has no decoder, so there is nothing to hear; give a --vocoder"
            )

    def run(self, run: Run) -> Result:
        generation = self.setup.generation
        sheet = Sheet(self.name, "prompts", run.resamples, run.seed)
        judged, left_out, samples = self._continued(run, generation.temperature)
        if not judged:
            raise UsageError(f"generation: nothing to judge; {left_out[0].item}: {left_out[0].reason}")
        references = self._references(judged, run.lm.spec.sample_rate_hz)
        panel = Panel(self.setup.judges, getattr(run.lm, "device", "cpu"), run.out)
        bench = Bench(judged, references, panel, sheet, self.continuation._convention(run.seed), {}, {})
        try:
            with run.processes.main_first():  # the others find what was said
                for judge in _JUDGEMENTS:
                    judge(bench)
            swept = sweep(bench, self.temperatures, lambda t: self._at(run, t)) if self.temperatures else {}
        finally:
            panel.close()
        return self._result(bench, left_out, run.seed, swept, samples)

    def _continued(self, run: Run, temperature: float) -> tuple[list[Judged], list[LeftOut], list[dict[str, Any]]]:
        """What to judge, what not and why, and where to listen to it if `continuation` does not say so already."""
        made, out, left_out = find_or_make(self.setup, run, temperature)
        g = self.setup.generation
        rate_hz = run.lm.spec.sample_rate_hz
        judged, silent = read_judged(made, out, self.continuation.prompts, g.prompt_s, g.continue_s, rate_hz)
        below = out.relative_to(run.out).as_posix()
        samples = [{**one, "folder": f"{below}/{one['folder']}"} for one in made] if below != "." else []
        return judged, [*left_out, *silent], samples

    def _at(self, run: Run, temperature: float) -> tuple[str, list[AudioClip]]:
        generation = replace(self.setup.generation, temperature=temperature)
        setting = Continuation(replace(self.setup, generation=generation))._convention(run.seed)
        return setting, [j.added for j in self._continued(run, temperature)[0]]

    def _references(self, judged: Sequence[Judged], rate_hz: int) -> list[AudioClip]:
        if location := self.setup.judges.reference:
            return read_references(location, self.setup.generation.continue_s, rate_hz)
        return [j.rest for j in judged if j.rest]

    def _result(self, bench: Bench, left_out: Sequence[LeftOut], seed: int, swept: dict[str, Any],
                samples: Sequence[Mapping[str, Any]]) -> Result:  # fmt: skip
        prompts = self.continuation.prompts
        texts = [bench.notes.get(j.id, {}).get("texts") for j in bench.judged]
        counts = {"prompts": len(prompts), "prompts_continued": len(bench.judged), "references": len(bench.references)}
        if any(t is not None for t in texts):
            counts["empty_transcripts"] = sum(not t["continuation"] for t in texts if t)
        return Result(
            benchmark=self.name,
            split="prompts",
            about=self.about,
            item_list_sha256=item_list_hash(entry.id for entry in prompts),
            counts=counts,
            scores=bench.sheet.scores,
            left_out=tuple(left_out),
            meanings=meanings(),
            details={
                "generation": asdict(self.setup.generation),
                "seed": seed,
                "judges": bench.panel.records,
                "absent": bench.panel.missing,
                "undefined": bench.sheet.undefined,
                "not_told": bench.unheard,
                "prompt_audio_sha256": hash_of_prompts(j.prompt for j in bench.judged),
                "sweep": swept,
                "samples": samples,
                "judged": [{"id": j.id, **bench.notes.get(j.id, {})} for j in bench.judged],
                "note": note_of(bench),
            },
        )


def meanings() -> dict[str, str]:
    return {
        f"generation/prompts/{CONTINUATION}": "What the model added, heard and read alone.",
        f"generation/prompts/{WHOLE}": "The prompt and what the model added, heard and read as one.",
        f"generation/prompts/{GIVEN}": "What the model added, read by the text model after the prompt.",
    }


def note_of(bench: Bench) -> str:
    """What could not be told of some clips, or has nothing beside it, in one sentence each."""
    parts = []
    if bench.unheard:
        parts += [
            "Clips that a judge could not tell about: "
            + ", ".join(f"{n} ({name})" for name, n in bench.unheard.items())
        ]
    if bench.sheet.undefined:
        parts.append(f"Without a value, for want of clips that tell: {'; '.join(bench.sheet.undefined)}")
    if RECORDINGS not in bench.sheet.scores:
        parts.append("No recording goes on for half a second after its prompt, so nothing stands beside the model")
    return ". ".join(parts)
