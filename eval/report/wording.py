"""What the numbers mean, in plain sentences: the same words in every table and page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from eval.benchmarks.base import MODEL
from eval.conventions import meaning_of

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
    "drawn other items of the same kind, the number would mostly fall within them. Of few items resampling shows "
    "too little spread: where a part has fewer than ten right or ten wrong, the interval of an accuracy is made of "
    "exact binomial limits (Clopper-Pearson), over parts combined by MOVER."
)

BITS_PER_S = (
    "Bits per second of audio: how much the model still has to be told to know the codes of one second of speech. "
    "Fewer are better; models over different tokenizers can only be compared in this unit, and then with care, "
    "because a coarser tokenizer has less to tell."
)

PAIRED = (
    "Differences are in points of a per cent, each with the 95 % interval of a paired bootstrap: the same items are "
    "drawn for both models; where in some part one is better on fewer than ten items, it is made of exact binomial "
    "limits. p is that of the exact sign test on the items that one model gets right more often than "
    "the other (McNemar's, where an item is one pair). Inside the noise: the interval holds 0, or p is 0.05 or more, "
    "and other items of the same kind might have shown the opposite. Of twenty comparisons of equal models, one is "
    "told apart by luck."
)

OVER_SEEDS = (
    "A method is several trainings that differ in nothing but their seed: the mean (least–most) of them. A difference "
    "of methods is that of their means, in points of a per cent; its 95 % interval and p say what other items and "
    "other seeds might have shown, the margins of both (Student's t) put together. With two or three seeds it is wide."
)

DEDUP = (
    "This model reads runs of equal codes as one, so how long each lasts is not counted: the bits are fewer than all "
    "codes would take, and only comparable with those of other deduplicated models over the same tokenizer."
)

GENERATED = (
    "This benchmark is synthetic: a program chose its words and sentences, and text-to-speech read them. Its numbers "
    "are not comparable with published ones."
)

MEASURES = {"pair_accuracy": "accuracy", "bits_per_s": "bits per s of audio"}

UNITS = {
    "duration_s": "mean duration",
    "level_dbfs": "mean level",
    "silence_share": "share of near-silence (20 ms frames below -50 dBFS)",
    "repeated_share": "share of frames equal to the one before",
}


_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # but tabs and ends of lines
_MARKUP = re.compile(r"<(?=[A-Za-z/!?])|(?<=\])\(")


def visible(text: str) -> str:
    """Names are strangers': what would steer a terminal, or turn the direction of all that follows, as an escape."""
    return _UNSEEN.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def inline(value: Any) -> Any:
    """A record whose texts, keys too, each stay on their line of a Markdown file, as text: no tag, link or picture."""
    if isinstance(value, str):
        return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", visible(" ".join(value.split("\n"))))
    if isinstance(value, Mapping):
        return {inline(key): inline(inner) for key, inner in value.items()}
    return [inline(inner) for inner in value] if isinstance(value, list | tuple) else value


def left_out(result: Mapping[str, Any]) -> str:
    """How many items, and the first with its reason."""
    first, number = result["left_out"][0], len(result["left_out"])
    many = f"{number:,} items, such as " if number > 1 else ""
    return f"Left out: {many}{first['item']} ({first['reason']})."


def few(names: Sequence[str], most: int = 5) -> str:
    """Of very many names the first, and how many more there are; one more is named too."""
    return ", ".join(names if len(names) <= most + 1 else [*names[:most], f"{len(names) - most} others"])


def absences(result: Mapping[str, Any]) -> list[str]:
    """What nobody could measure: a line for each reason, which tells what would bring it. `details` may hold names
    alone."""
    absent = result["details"].get("absent") or {}
    names = (
        absent if isinstance(absent, Mapping) else dict.fromkeys(absent if isinstance(absent, list) else [absent], "")
    )
    reasons: dict[str, list[str]] = {}
    for name, reason in names.items():
        reasons.setdefault(str(reason or ""), []).append(label(str(name)))
    return [
        f"{', '.join(found)} {'is' if len(found) == 1 else 'are'} absent{f': {reason}' if reason else '.'}"
        for reason, found in reasons.items()
    ]


def label(metric: str) -> str:
    return UNITS.get(metric, measure(metric))


def who(subjects: Iterable[str]) -> str:
    """What results are of, as `eval.report.inputs.subject_of` tells it: `Model`, or `Model or tokenizer`."""
    found = set(subjects) or {"tokenizer"}
    *first, last = [subject for subject in ("model", "tokenizer", "recordings") if subject in found]
    return f"{', '.join(first)}{' or ' if first else ''}{last}".capitalize()


def run_name(path: str) -> str:
    """What people call a checkpoint: `runs/x/final` is `x`."""
    parts = [p for p in PurePath(path).parts if p not in ("/", ".", "..", "final")]
    return parts[-1] if parts else path


def measure(metric: str) -> str:
    return MEASURES.get(metric, metric.replace("_", " "))


def convention_meaning(name: str) -> str:
    return meaning_of(name)


def chance_note(outside: Mapping[str, list[str]]) -> str:
    """Baseline -> the rows where guessing lies outside its interval, as a sentence."""
    names = " and ".join(outside)
    if not any(outside.values()):
        return (
            f"Chance (50 %) lies inside every 95 % interval of {names}, rows of few items apart: no shortcut was found."
        )
    found = "; ".join(f"{name} on {', '.join(rows)}" for name, rows in outside.items() if rows)
    return (
        f"Chance (50 %) lies outside the 95 % interval of {found}. One row in twenty does so by luck; otherwise "
        "lengths or code frequencies alone tell the items of these pairs apart, which the model can use, or has to "
        "overcome, without knowing any order of codes."
    )


def format_value(score: Mapping[str, Any]) -> str:
    """A score's value with its unit."""
    return _format(score["value"], score["unit"])


def format_p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}" if value > 0 else "0"


def format_versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def format_interval(score: Mapping[str, Any]) -> str:
    """`71.2–80.4`, `-2.5 to 1.0` where one is negative, or nothing."""
    if not has_interval(score):
        return ""
    shown = (_format(v, score["unit"]).removesuffix(" %") for v in score["interval"])
    return _between(*(one.removesuffix(f" {score['unit']}") for one in shown))


def has_interval(score: Mapping[str, Any]) -> bool:
    """Whether both its ends are numbers."""
    return None not in (score.get("interval") or (None,))


def _between(low: str, high: str) -> str:
    return f"{low} to {high}" if "-" in (low[:1], high[:1]) else f"{low}–{high}"


def format_number(score: Mapping[str, Any]) -> str:
    """As `format_value`, with as many digits as small numbers without a unit need: 0.914, 3.21, 17.4, 1,203."""
    if score["unit"] == "fraction":
        return format_value(score)
    bare = score["unit"] in ("", "1", "ratio") or score["unit"].startswith("bits")  # which the measure's name says
    unit = "" if bare else f" {score['unit']}"
    return _digits(score["value"]) + unit


def format_span(score: Mapping[str, Any]) -> str:
    """The interval, likewise, or nothing."""
    if not has_interval(score) or score["unit"] == "fraction":
        return format_interval(score)
    return _between(*(_digits(v) for v in score["interval"]))


def _digits(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 10 else f"{value:.{2 if size >= 1 else 3}f}"


def _format(value: float | None, unit: str) -> str:
    if value is None or math.isnan(value):  # null in results.json
        return "–"
    if unit == "fraction":
        return f"{100 * value:.1f} %"
    places = 2 if unit in ("cosine", "of 5", "nats") else 1
    return f"{value:.{places}f}" + ("" if unit.startswith("bits") else f" {unit}")
