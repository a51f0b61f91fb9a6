"""What the numbers mean, in plain sentences: the same words in every table and page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.benchmarks.base import MODEL
from eval.likelihoods import CONVENTIONS

SCORERS = {
    MODEL: "The model that is evaluated.",
    "untrained": (
        "The same architecture with random weights. It knows nothing, so it should stay at 50 %: what it gets "
        "beyond that is a shortcut in the benchmark, such as the right items being shorter."
    ),
    "unigram": (
        "Each code by how often it occurs in the training corpus, without any order. What it gets beyond 50 % needs "
        "no model of sequences."
    ),
}

INTERVAL = (
    "Intervals are 95 % bootstrap intervals over independent units (an item with all its voices): if the benchmark had "
    "drawn other items of the same kind, the number would mostly fall within them. Where every item is right, or every "
    "one wrong, resampling shows no spread: then look at n."
)

BITS_PER_S = (
    "Bits per second of audio: how much the model still has to be told to know the codes of one second of speech. "
    "Fewer are better; models over different tokenizers can only be compared in this unit, and then with care, "
    "because a coarser tokenizer has less to tell."
)

GENERATED = (
    "This benchmark is synthetic: made by text-to-speech, in one voice, from a small vocabulary. Its numbers are not "
    "comparable with published ones."
)

UNITS = {
    "duration_s": "mean duration",
    "level_dbfs": "mean level",
    "silence_share": "share of near-silence (20 ms frames below -50 dBFS)",
    "repeated_share": "share of frames equal to the one before",
}


def convention_meaning(name: str) -> str:
    return CONVENTIONS[name].meaning if name in CONVENTIONS else name


def format_value(score: Mapping[str, Any]) -> str:
    """A score's value with its unit."""
    return _format(score["value"], score["unit"])


def format_interval(score: Mapping[str, Any]) -> str:
    """`71.2–80.4`, or nothing."""
    if not score.get("interval"):
        return ""
    low, high = (_format(v, score["unit"]).removesuffix(" %") for v in score["interval"])
    return f"{low}–{high}"


def _format(value: float, unit: str) -> str:
    if unit == "fraction":
        return f"{100 * value:.1f} %"
    return f"{value:.1f}" + ("" if unit.startswith("bits") else f" {unit}")
