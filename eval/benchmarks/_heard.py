"""What a speech recognizer understands of continuations, and what a text model makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eval.benchmarks._judged import Judged
from eval.benchmarks._judgement import CONTINUATION, GIVEN, RECORDINGS, WHOLE, Bench
from eval.benchmarks.base import MODEL
from eval.judges.pool import Asked
from eval.metrics.gen_perplexity import GenPerplexity
from eval.metrics.rating import Rating
from eval.metrics.self_bleu import vert
from eval.metrics.texts import TextLikelihood, Transcript, Transcription, words_of
from slm.types import AudioClip

Texts = Sequence[tuple[str, str]]
"""(id, transcript)."""
Heard = Sequence[tuple[AudioClip, str]]
MOST_WORDS_PER_S = 8
"""Nobody says more: a recognizer that writes more loops, as Whisper does over babble and noise."""


def judge_texts(bench: Bench) -> None:
    """Everything that a transcript can tell."""
    asr = bench.panel.asr()
    if asr is None:
        return
    judged = transcribe(bench.judged, asr)
    references = hear(bench.references, asr)
    bench.note([j.id for j in judged], "texts", [dict(j.texts) for j in judged])
    _diversity(bench, asr, [(j.added, j.texts["continuation"]) for j in judged],
               [(clip, text) for clip, (_, text) in zip(bench.references, references, strict=True)])  # fmt: skip
    _errors(bench, asr, judged)
    reader = bench.panel.text_lm()
    if reader is not None:
        _perplexities(bench, asr, reader, judged, references)
        _ratings(bench, asr, reader, judged)


def transcribe(judged: Sequence[Judged], asr: Asked) -> list[Judged]:
    """With the transcripts of the prompt, of what was added (heard alone), and of both in one."""
    parts = [("prompt", j.prompt) for j in judged] + [("continuation", j.added) for j in judged]
    parts += [("whole", j.whole) for j in judged] + [("rest", j.rest) for j in judged if j.rest]
    texts: dict[str, dict[str, str]] = {j.id: {} for j in judged}
    for (name, clip), text in zip(parts, asr.transcribe([clip for _, clip in parts]), strict=True):
        texts[clip.id][name] = text
    return [replace(j, texts=texts[j.id]) for j in judged]


def hear(clips: Sequence[AudioClip], asr: Asked) -> list[tuple[str, str]]:
    return [(clip.id, text) for clip, text in zip(clips, asr.transcribe(clips), strict=True)]


def _diversity(bench: Bench, asr: Asked, added: Heard, references: Heard) -> None:
    convention = bench.convention(asr, "lower-case words without punctuation")
    for scorer, heard in ((MODEL, added), (RECORDINGS, references)):
        items = [Transcript(clip.id, words_of(text)) for clip, text in heard]
        bench.sheet.add(CONTINUATION, items, convention, scorer)
        if items:
            empty = sum(not t.words for t in items)
            share = empty / len(items)
            bench.sheet.number(CONTINUATION, "empty_transcripts", share, "fraction", convention, len(items), scorer)
            over = sum(is_overfull(t, clip.duration_s) for t, (clip, _) in zip(items, heard, strict=True))
            bench.sheet.number(CONTINUATION, "overfull_transcripts", over / len(items), "fraction",
                               f"{convention}; over {MOST_WORDS_PER_S} words a second", len(items), scorer)  # fmt: skip
            words = sum(len(t.words) for t in items) / len(items)
            bench.sheet.number(CONTINUATION, "words", words, "words a clip", convention, len(items), scorer)


def is_overfull(transcript: Transcript, duration_s: float) -> bool:
    """Two words are never too many, however short the clip."""
    return len(transcript.words) > max(2, MOST_WORDS_PER_S * duration_s)


def _errors(bench: Bench, asr: Asked, judged: Sequence[Judged]) -> None:
    """Against what should have been said, where the prompts say it; dWER against what is understood of a recording of
    it. A continuation that is free to say anything has no errors."""
    wanted = [j for j in judged if j.wanted]
    if not wanted:
        bench.panel.lacks(
            ("wer", "cer", "dwer", "dcer"),
            "needs prompts that say what should follow, in a manifest's column expected_text",
        )
        return
    items = [Transcription(j.id, words_of(j.texts["continuation"]), words_of(j.wanted or "")) for j in wanted]
    bench.sheet.add(CONTINUATION, items, bench.convention(asr, "against expected_text"))
    heard = [
        Transcription(j.id, words_of(j.texts["continuation"]), words_of(j.texts["rest"])) for j in wanted if j.rest
    ]
    if not heard:
        bench.panel.lacks(("dwer", "dcer"), "needs recordings of what should follow, behind the prompts")
    else:
        for metric, value in _values(heard).items():
            convention = bench.convention(asr, "against the transcript of the recording's rest")
            bench.sheet.number(CONTINUATION, f"d{metric}", value, "fraction", convention, len(heard))


def _values(items: Sequence[Transcription]) -> dict[str, float]:
    from eval.metrics.base import metrics_of

    return {m.name: m.value(items) for m in metrics_of(Transcription)}


def likelihoods(reader: Asked, texts: Texts, before: Sequence[str] | None = None) -> tuple[list[TextLikelihood], int]:
    """Of the texts that have a token, and how many have none."""
    found = reader.likelihoods([text for _, text in texts], before)
    items = [TextLikelihood(id, nll, count) for (id, _), (nll, count) in zip(texts, found, strict=True) if count]
    return items, len(texts) - len(items)


def _perplexities(bench: Bench, asr: Asked, reader: Asked, judged: Sequence[Judged],
                  references: Texts) -> None:  # fmt: skip
    prompts = [j.texts["prompt"] for j in judged]
    added = [(j.id, j.texts["continuation"]) for j in judged]
    rests = [j for j in judged if j.rest]
    sides: list[tuple[str, str, Texts, list[str] | None, str]] = [
        (MODEL, CONTINUATION, added, None, "prompt out of the text"),
        (MODEL, WHOLE, [(j.id, j.texts["whole"]) for j in judged], None, "prompt in the text"),
        (MODEL, GIVEN, added, prompts, "prompt read before, not counted"),
        (RECORDINGS, CONTINUATION, references, None, "prompt out of the text"),
        (RECORDINGS, GIVEN, [(j.id, j.texts["rest"]) for j in rests], [j.texts["prompt"] for j in rests],
         "prompt read before, not counted"),
    ]  # fmt: skip
    for scorer, part, texts, before, how in sides:
        items, _ = likelihoods(reader, texts, before)
        # How many are empty is a number of its own: models that differ in it are measured alike.
        convention = bench.convention(asr, reader.record().sentence(), how, "empty transcripts left out")
        if texts:
            bench.sheet.add(part, items, convention, scorer, kind=TextLikelihood)
        if scorer == MODEL and part == CONTINUATION:
            bench.note([t.group for t in items], "nll_nats_per_token", [t.nll_nats / t.num_tokens for t in items])


def _ratings(bench: Bench, asr: Asked, reader: Asked, judged: Sequence[Judged]) -> None:
    """Of the transcripts that are not empty: a small model's are to be taken lightly."""
    for scorer, name in ((MODEL, "continuation"), (RECORDINGS, "rest")):
        texts = [j for j in judged if j.texts.get(name)]
        rated = reader.rate([j.texts["prompt"] for j in texts], [j.texts[name] for j in texts])
        convention = bench.convention(
            asr, reader.record().sentence(), "mean grade by probability, empty transcripts left out"
        )
        items = [Rating(j.id, value) for j, value in zip(texts, rated, strict=True)]
        if scorer == MODEL or any(j.rest for j in judged):
            bench.sheet.add(CONTINUATION, items, convention, scorer, "text_lm_rating", kind=Rating)
        if scorer == MODEL:
            bench.note([j.id for j in texts], "text_lm_rating", rated)


def curve_values(texts: Texts, reader: Asked) -> dict[str, Any]:
    """Perplexity and VERT of a set of transcripts, NaN where there are too few, for a sweep."""
    items, empty = likelihoods(reader, texts)
    perplexity = GenPerplexity().value(items) if items else float("nan")
    return {"vert": vert([words_of(text) for _, text in texts]), "gen_ppl": perplexity, "texts": len(texts),
            "empty_transcripts": empty}  # fmt: skip
