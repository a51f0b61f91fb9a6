"""What is judged: a prompt, what the model said after it, and how the recording really goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.benchmarks.base import LeftOut
from eval.silence import read_made
from slm.corpus.reading import probe_clip, read_clip
from slm.corpus.sources import SourceClip, list_clips
from slm.errors import AudioError
from slm.types import AudioClip

LEAST_S = 0.5  # of a recording's rest: less is no reference


@dataclass(frozen=True, eq=False)
class Judged:
    """`added` is what the model added, `whole` the prompt too, both as the tokenizer renders them; `rest` is how the
    recording goes on, None where it is over. `wanted` is what should be said and `caption` what should be heard, where
    the prompts' manifest says so. `texts` are transcripts, by the name of what was heard."""

    id: str
    prompt: AudioClip
    added: AudioClip
    whole: AudioClip
    rest: AudioClip | None = None
    wanted: str | None = None
    caption: str | None = None
    texts: Mapping[str, str] = field(default_factory=dict)


def read_judged(made: Sequence[Mapping[str, Any]], out: Path, sources: Sequence[SourceClip], prompt_s: float,
                continue_s: float, rate_hz: int) -> tuple[list[Judged], list[LeftOut]]:  # fmt: skip
    """The continuations that `continuation` wrote below `out`, with their recordings' rests. A continuation without
    any audio is left out and named: there is nothing to hear."""
    known = {source.id: source for source in sources}
    found, left_out = [], []
    for record in made:
        folder, source = out / record["folder"], known[record["id"]]
        if not record.get("continuation", {}).get("duration_s"):
            left_out.append(LeftOut(record["id"], "the continuation has no audio: the model ended at once"))
            continue
        clips = {name: AudioClip(record["id"], read_made(folder / record["files"][name], rate_hz), rate_hz)
                 for name in ("prompt", "continuation", "whole")}  # fmt: skip
        found.append(
            Judged(record["id"], clips["prompt"], clips["continuation"], clips["whole"],
                   read_rest(source, prompt_s, continue_s, rate_hz),
                   _text(source, "expected_text"), _text(source, "caption"))
        )  # fmt: skip
    return found, left_out


def _text(source: SourceClip, name: str) -> str | None:
    value = source.metadata.get(name)
    return value if isinstance(value, str) and value.strip() else None


def read_rest(source: SourceClip, after_s: float, seconds: float, rate_hz: int) -> AudioClip | None:
    """What follows the first `after_s` seconds, `seconds` at most. None where less than `LEAST_S` is left, or it cannot
    be read."""
    try:
        end_s = probe_clip(source).duration_s if source.end_s is None else source.end_s
        start_s = source.start_s + after_s
        if end_s - start_s < LEAST_S:
            return None
        cut = replace(source, start_s=start_s, end_s=min(end_s, start_s + seconds))
        return AudioClip(source.id, read_clip(cut, rate_hz), rate_hz)
    except AudioError:
        return None


def read_references(location: str, seconds: float, rate_hz: int) -> list[AudioClip]:
    """The first `seconds` of each recording there; those that cannot be read are no reference."""
    found = [read_rest(source, 0.0, seconds, rate_hz) for source in sorted(list_clips(location), key=lambda c: c.id)]
    return [clip for clip in found if clip is not None]
