"""Continuation: the model hears the start of a recording and goes on by itself.

Nothing is judged here: what came out is written as audio (as codes in any case), with a few plain statistics, so that
it can be listened to and so that generation metrics have something to read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.benchmarks.base import BENCHMARKS, MODEL, Benchmark, Generation, LeftOut, Result, Run, Setup
from eval.likelihoods import Likelihoods
from eval.tokens import item_list_hash
from slm.audio import write_wav
from slm.corpus.reading import probe_clip, read_clip
from slm.corpus.sources import SourceClip, list_clips
from slm.errors import AudioError, UsageError
from slm.files import atomic_directory, write_json
from slm.types import AudioClip, Codes, Score, stable_hash

if TYPE_CHECKING:
    from slm.generation import Sampling
    from slm.spoken_lm import SpokenLM

SILENCE_DBFS = -50.0
FRAME_S = 0.02
Heard = tuple[dict[int, AudioClip], dict[int, str]]


@BENCHMARKS.register("continuation")
class Continuation(Benchmark):
    name = "continuation"
    about = "The model hears the start of a recording and goes on by itself. Listen: there is no score."

    def __init__(self, setup: Setup):
        self.generation = setup.generation
        _sampling(self.generation)  # what makes no sense is refused now
        source = Path(setup.prompts) if setup.prompts else setup.data / "prompts"
        if not source.exists():
            raise UsageError(
                f"no prompts: {source} does not exist; put recordings there, or give a folder or manifest as --prompts"
            )
        found = sorted(list_clips(source), key=lambda clip: clip.id)
        self.prompts = found[: self.generation.max_prompts or None]

    def run(self, run: Run, prompts_heard: Heard | None = None) -> Result:
        """Continue every prompt; OUT/continuation holds one folder each, replaced as a whole once all are made.
        `prompts_heard` is what `read_prompts` gave, where it was asked already."""
        made: list[dict[str, Any]] = []
        clips, unfit = prompts_heard or self.read_prompts(run.lm)
        prompts, left_out = self._usable(run.lm, clips, unfit)
        codes = [heard for _, heard in prompts.values()]
        seeds = [prompt_seed(run.seed, prompt.id) for prompt in codes]
        wholes = continue_prompts(codes, run.lm, self.generation, seeds)
        with atomic_directory(run.out / self.name) as folder:
            for (number, (prompt, heard)), whole, seed in zip(prompts.items(), wholes, seeds, strict=True):
                record = write_continuation(prompt, heard, whole, run.lm, folder / f"{number:03d}")
                made.append({**record, "seed": seed, "folder": f"{self.name}/{number:03d}"})
            write_json(folder / "prompts.json", made)
        notes = [_heard(run.lm)]
        if not run.lm.spec.has_decoder:
            notes.append(f"Tokenizer {run.lm.spec.name} has no decoder: codes only, nothing to listen to")
        return Result(
            benchmark=self.name,
            split="prompts",
            about=self.about,
            item_list_sha256=item_list_hash(entry.id for entry in self.prompts),
            counts={"prompts": len(self.prompts), "prompts_continued": len(made)},
            scores={MODEL: summarize(made, self._convention(run.seed))},
            left_out=tuple(left_out),
            details={
                "generation": asdict(self.generation),
                "seed": run.seed,
                "prompt_audio_sha256": hash_of_prompts(clips.values()),
                "note": ". ".join(n[0].upper() + n[1:] for n in notes),
                "prompts": made,
            },
        )

    def read_prompts(self, lm: SpokenLM) -> Heard:
        """Number -> what the model hears of a recording, and of those that cannot be read, why."""
        clips: dict[int, AudioClip] = {}
        unfit: dict[int, str] = {}
        for number, entry in enumerate(self.prompts):
            try:
                clips[number] = self._read(entry, lm)
            except AudioError as error:
                unfit[number] = str(error)
        return clips, unfit

    def _usable(
        self, lm: SpokenLM, clips: Mapping[int, AudioClip], unfit: Mapping[int, str]
    ) -> tuple[dict[int, tuple[AudioClip, Codes]], list[LeftOut]]:
        """Number -> recording and codes of the prompts that can be continued; UsageError where none can."""
        codes = dict(zip(clips, lm.tokenizer.encode(list(clips.values())), strict=True))
        unfit = {**unfit, **find_without_room(lm, codes, self.generation.continue_s)}
        left_out = [LeftOut(self.prompts[number].id, unfit[number]) for number in sorted(unfit)]
        if len(unfit) == len(self.prompts):
            first = left_out[0]
            raise UsageError(f"continuation: no prompt can be used; the first: {first.item} {first.reason}")
        return {n: (clip, codes[n]) for n, clip in clips.items() if n not in unfit}, left_out

    def _read(self, source: SourceClip, lm: SpokenLM) -> AudioClip:
        """The first `prompt_s` seconds, as the tokenizer wants them. AudioError for what gives no code."""
        end_s = probe_clip(source).duration_s if source.end_s is None else source.end_s
        end_s = min(end_s, source.start_s + self.generation.prompt_s)
        samples = read_clip(replace(source, end_s=end_s), lm.spec.sample_rate_hz)
        if lm.spec.num_frames(len(samples)) == 0:
            heard, asked = len(samples) / lm.spec.sample_rate_hz, self.generation.prompt_s
            raise AudioError(f"gives no frame in the {heard:.2g} s that are heard (generation.prompt_s {asked:g})")
        return AudioClip(source.id, samples, lm.spec.sample_rate_hz, source.metadata)

    def _convention(self, seed: int) -> str:
        g = self.generation
        kept = [f"top {g.top_k}" if g.top_k else "", f"top-p {g.top_p:g}" if g.top_p else "",
                f"min-p {g.min_p:g}" if g.min_p else ""]  # fmt: skip
        parts = [f"prompts of up to {g.prompt_s:g} s", f"{'up to ' if g.may_stop else ''}{g.continue_s:g} s more"]
        parts += [f"temperature {g.temperature:g}"]
        parts += [k for k in kept if k] or ["all codes"]
        parts += [f"repetition penalty {g.repetition_penalty:g}"] if g.repetition_penalty != 1 else []
        parts += [f"guidance {g.guidance:g}"] if g.guidance != 1 else []
        return ", ".join([*parts, f"seed {seed}"])


def _heard(lm: SpokenLM) -> str:
    if not lm.statistics.num_documents:
        return "How much audio the model heard is not said where it was published"
    hours = float(lm.statistics.frames.sum()) / lm.spec.frame_rate_hz / 3600
    expect = ": expect babble" if hours < 10 else ""
    others = "those whose continuations make sense were trained on thousands"
    return f"The model was trained on {hours:.2f} hours of audio (repetitions not counted), where {others}{expect}"


def prompt_seed(seed: int, prompt_id: str) -> int:
    """A prompt's own seed: the same whatever other prompts are continued with it."""
    return int(stable_hash([seed, prompt_id])[:8], 16)


def hash_of_prompts(clips: Iterable[AudioClip]) -> str:
    """Of their ids and samples (16 bit): equal only where the same audio was heard."""
    pcm = {clip.id: np.rint(clip.samples.astype(np.float64) * 32768).astype("<i4").tobytes() for clip in clips}
    return stable_hash(sorted((id, hashlib.sha256(samples).hexdigest()) for id, samples in pcm.items()))


def _sampling(g: Generation) -> Sampling:
    from slm.generation import Sampling

    return Sampling(g.temperature, g.top_k, g.may_stop, g.top_p, g.min_p, g.repetition_penalty, g.guidance)


def find_without_room(lm: SpokenLM, prompts: Mapping[int, Codes], seconds: float) -> dict[int, str]:
    """The prompts that leave no room for what is to come in the positions of the model, and why. Models that name no
    limit have none."""
    made: dict[int, str] = {}
    if (continuer := getattr(lm, "continuer", None)) is None:
        return made
    for number, prompt in prompts.items():
        try:
            continuer.check_room(prompt, seconds)
        except UsageError as error:
            made[number] = str(error).removeprefix(f"{prompt.id} ")
    return made


def continue_prompts(prompts: Sequence[Codes], lm: SpokenLM, g: Generation, seeds: Sequence[int]) -> list[Codes]:
    """Each prompt and what the model adds, batched: each is as if it were continued alone."""
    from slm.generation import Speed

    Likelihoods.measure(lm, prompts)  # refuses a model that gives NaN, from which nothing can be drawn
    return lm.continue_many(prompts, g.continue_s, seeds, _sampling(g), Speed(g.batch_size, g.compile))


def write_continuation(prompt: AudioClip, codes: Codes, whole: Codes, lm: SpokenLM, folder: Path) -> dict[str, Any]:
    """Write prompt.wav (the recording), codes.npy (prompt and continuation, `[T, K]`) and, where the tokenizer can
    decode, whole.wav (both, as the tokenizer renders them) and continuation.wav (what the model added)."""
    folder.mkdir()
    np.save(folder / "codes.npy", whole.codes, allow_pickle=False)
    write_wav(folder / "prompt.wav", prompt)
    files = {"codes": "codes.npy", "prompt": "prompt.wav"}
    record: dict[str, Any] = {
        "id": prompt.id,
        "text": prompt.metadata.get("text"),
        "files": files,
        "prompt_frames": len(codes.codes),
        "prompt": describe_clip(prompt),
        "codes": describe_codes(codes, whole),
    }
    if lm.spec.has_decoder:
        audio = lm.tokenizer.decode(whole)
        added = replace(audio, samples=audio.samples[len(codes.codes) * lm.spec.hop_samples :])
        write_wav(folder / "whole.wav", audio)
        write_wav(folder / "continuation.wav", added)
        files |= {"whole": "whole.wav", "continuation": "continuation.wav"}
        record["continuation"] = describe_clip(added)
    return record


@dataclass(frozen=True)
class Statistic:
    """A number about each continuation, averaged over prompts."""

    name: str
    part: str
    unit: str


STATISTICS = (
    Statistic("duration_s", "continuation", "s"),
    Statistic("level_dbfs", "continuation", "dBFS"),
    Statistic("silence_share", "continuation", "fraction"),
    Statistic("repeated_share", "codes", "fraction"),
)


def summarize(made: Sequence[dict[str, Any]], convention: str) -> list[Score]:
    """Means over the prompts that have the number (a continuation of no length has no level)."""
    scores = []
    for s in STATISTICS:
        values = [record[s.part][s.name] for record in made if record.get(s.part, {}).get(s.name) is not None]
        if values:
            item, mean = f"continuation/prompts/{s.part}", float(np.mean(values))
            scores.append(Score(item, s.name, mean, s.unit, convention, len(values)))
    return scores


def describe_clip(clip: AudioClip) -> dict[str, float | None]:
    """Seconds, RMS level in dB of full scale, and the share of 20 ms frames below -50 dBFS (None for no audio)."""
    if not len(clip.samples):
        return {"duration_s": 0.0, "level_dbfs": None, "silence_share": None}
    size = max(1, round(FRAME_S * clip.sample_rate_hz))
    squares = np.square(clip.samples.astype(np.float64))
    frames = np.array([squares[i : i + size].mean() for i in range(0, len(squares), size)])
    return {
        "duration_s": clip.duration_s,
        "level_dbfs": float(10 * np.log10(max(squares.mean(), 1e-12))),
        "silence_share": float((frames < 10 ** (SILENCE_DBFS / 10)).mean()),
    }


def describe_codes(prompt: Codes, whole: Codes) -> dict[str, float | int | None]:
    """Of what was added: frames, distinct frames, and the share of frames equal to the one before."""
    added = whole.codes[len(prompt.codes) :]
    repeated = (whole.codes[len(prompt.codes) :] == whole.codes[len(prompt.codes) - 1 : -1]).all(axis=1)
    return {
        "frames": len(added),
        "distinct_frames": len(np.unique(added, axis=0)),
        "repeated_share": float(repeated.mean()) if len(added) else None,
    }
