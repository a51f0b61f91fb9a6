"""Perplexity and diversity by temperature, and where they meet those of recordings (`eval.metrics.diversity_curve`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval.benchmarks._heard import curve_values, hear
from eval.benchmarks._judgement import RECORDINGS, Bench
from eval.judges.pool import Asked
from eval.metrics.diversity_curve import Anchored, CurvePoint, anchored
from slm.types import AudioClip

RULE = (
    "straight lines between temperatures; read where VERT, or perplexity, first is that of the recordings; the area is "
    "under the curve of perplexity over VERT between the two"
)


def sweep(bench: Bench, temperatures: Sequence[float],
          continued: Callable[[float], tuple[str, Sequence[AudioClip]]]) -> dict[str, Any]:  # fmt: skip
    """`continued` gives the setting and the clips that the model added at a temperature. Scores go into the sheet, the
    whole curve is returned; nothing without a recognizer or a text model, which is noted as missing."""
    asr, reader = bench.panel.asr(), bench.panel.text_lm()
    if asr is None or reader is None:
        return {}
    points = []
    for temperature in temperatures:
        setting, clips = continued(temperature)
        found = curve_values(hear(clips, asr), reader)
        points.append({"temperature": temperature, **found})
        _add(bench, f"temperature {temperature:g}", found, _convention(setting, asr, reader))
    reference = curve_values(hear(bench.references, asr), reader)
    made = {"points": [_plain(p) for p in points], RECORDINGS: _plain(reference), "rule": RULE}
    curve = [CurvePoint(p["temperature"], p["vert"], p["gen_ppl"]) for p in points]
    found_at = anchored(curve, reference["vert"] or math.nan, reference["gen_ppl"])  # a VERT of 0 anchors nothing
    convention = (
        _convention(bench.setting, asr, reader) + f"; temperatures {', '.join(f'{t:g}' for t in temperatures)}; {RULE}"
    )
    _add_anchored(bench, found_at, convention, reference["texts"])
    return {**made, "anchored": _plain(vars(found_at))}


def _plain(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """None for NaN, which JSON does not have."""
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}


def _convention(setting: str, asr: Asked, reader: Asked) -> str:
    return "; ".join([setting, asr.record().sentence(), reader.record().sentence(), "prompt out of the text"])


def _add(bench: Bench, part: str, found: Mapping[str, Any], convention: str) -> None:
    for metric, unit in (("gen_ppl", "perplexity"), ("vert", "fraction")):
        count = found["texts"] - (found["empty_transcripts"] if metric == "gen_ppl" else 0)
        bench.sheet.number(part, metric, found[metric], unit, convention, count)


def _add_anchored(bench: Bench, found: Anchored, convention: str, count: int) -> None:
    """What the curve meets; what it does not is absent, and said so."""
    for part, metric, value, unit, other in (
        ("where VERT is the recordings'", "gen_ppl", found.perplexity_at_vert, "perplexity", "VERT"),
        ("where perplexity is the recordings'", "vert", found.vert_at_perplexity, "fraction", "perplexity"),
        ("between the two", "area", found.area, "perplexity x VERT", "VERT or perplexity"),
    ):
        bench.sheet.number(part, metric, value, unit, convention, count)
        if math.isnan(value):
            reason = (
                f"no temperature given comes to the recordings' {other}: widen --generation.temperatures, or take more "
                "and longer recordings where theirs is 0 or unknown"
            )
            bench.panel.lacks((f"{metric} {part}",), reason)
