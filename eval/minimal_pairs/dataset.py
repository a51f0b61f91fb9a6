"""The folder: a plan, then files, then what describes them, `generated.json` last of all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.minimal_pairs.corpus import ISOLATED_SHARE, plan_corpus
from eval.minimal_pairs.gold import write_gold
from eval.minimal_pairs.lexical import phoneme_features, plan_lexical
from eval.minimal_pairs.phonology import phones
from eval.minimal_pairs.syntactic import plan_syntactic
from eval.minimal_pairs.synthesis import Studio
from eval.minimal_pairs.utterance import Pair, Utterance, phonemes_of
from eval.minimal_pairs.voice import RATE_HZ, Voice
from slm.errors import UsageError
from slm.files import read_json, write_json, write_text

GENERATOR_VERSION = 2
TASKS = ("lexical", "syntactic")


@dataclass(frozen=True)
class Plan:
    """Everything that will be said."""

    corpus: list[Utterance]
    lexical: list[Pair]
    syntactic: list[Pair]

    def utterances(self) -> list[Utterance]:
        pairs = [u for pair in (*self.lexical, *self.syntactic) for u in (pair.right, pair.wrong)]
        return [*self.corpus, *pairs]


def load_plan(out: Path, settings: dict[str, Any]) -> Plan | None:
    """The plan of a folder begun before; UsageError when that was with other settings."""
    path = out / "plan.json"
    if not path.is_file():
        return None
    stored = read_json(path)
    changed = [
        f"{key} was {stored['settings'].get(key)}, now {value}"
        for key, value in settings.items()
        if stored["settings"].get(key) != value
    ]
    if changed:
        raise UsageError(f"{out} was made with other settings ({'; '.join(changed)}); use those, or another --out")
    pairs = {task: [_pair(p) for p in stored[task]] for task in TASKS}
    return Plan([Utterance(**u) for u in stored["corpus"]], **pairs)


def stored_settings(out: Path) -> dict[str, Any]:
    return read_json(out / "plan.json")["settings"]


def make_plan(out: Path, settings: dict[str, Any], voice: Voice, studio: Studio) -> Plan:
    """A new plan, written to plan.json. UsageError when so many pairs cannot be matched."""
    seed, pairs = settings["seed"], settings["pairs"]
    corpus = plan_corpus(voice, seed, settings["minutes"])
    lexical = _numbered(plan_lexical(voice, studio, seed, pairs, corpus), "lexical/dev")
    syntactic = _numbered(plan_syntactic(voice, studio, seed, pairs), "syntactic/dev")
    if min(len(lexical), len(syntactic)) < pairs:
        raise UsageError(
            f"only {len(lexical)} lexical and {len(syntactic)} syntactic pairs could be matched in duration: "
            f"ask for --pairs {min(len(lexical), len(syntactic))} or fewer"
        )
    plan = Plan(corpus, lexical, syntactic)
    store_plan(out, settings, plan)
    return plan


def store_plan(out: Path, settings: dict[str, Any], plan: Plan) -> None:
    """plan.json. Where there is one voice its utterances do not name it."""
    stored = asdict(plan)
    utterances = [*stored["corpus"], *(p[side] for t in TASKS for p in stored[t] for side in ("right", "wrong"))]
    for said in utterances:
        if not said["voice"]:
            del said["voice"]
    write_json(out / "plan.json", {"settings": settings, **stored})


def _pair(stored: dict[str, Any]) -> Pair:
    right, wrong = Utterance(**stored["right"]), Utterance(**stored["wrong"])
    return Pair(right, wrong, stored["labels"], tuple(stored["lengths"]))


def _numbered(pairs: Sequence[Pair], folder: str) -> list[Pair]:
    """Pairs with the paths of their files. File names tell nothing apart from pair and side."""
    return [
        replace(
            pair,
            right=replace(pair.right, path=f"{folder}/{i:04d}_0.wav"),
            wrong=replace(pair.wrong, path=f"{folder}/{i:04d}_1.wav"),
        )
        for i, pair in enumerate(pairs)
    ]


def write_descriptions(out: Path, settings: dict, voice: Voice, plan: Plan, lengths: Sequence[int]) -> str:
    """manifest.jsonl, both gold.csv and generated.json; returns one line about them."""
    rows = write_manifest(out, plan.corpus, lengths, voice.name)
    write_gold(out, *([(i, voice.name, p) for i, p in enumerate(pairs)] for pairs in (plan.lexical, plan.syntactic)))
    minutes = sum(row["duration_s"] for row in rows) / 60
    seen = sum(pair.labels["frequency"] > 0 for pair in plan.lexical)
    counts = {
        "corpus_utterances": len(rows),
        "corpus_minutes": round(minutes, 2),
        "lexical_pairs_in_vocabulary": seen,
        "lexical_pairs_held_out": len(plan.lexical) - seen,
        "syntactic_pairs": len(plan.syntactic),
    }
    description = {
        "generator": "eval.minimal_pairs",
        **settings,
        "voice": voice.name,
        "isolated_word_share": ISOLATED_SHARE,
        "counts": counts,
        "shortcuts": shortcut_statistics(plan),
    }
    write_json(out / "generated.json", description)
    return f"{minutes:.1f} minutes to train on, {len(plan.lexical)} + {len(plan.syntactic)} pairs"


def write_manifest(
    out: Path, corpus: Sequence[Utterance], lengths: Sequence[int], speaker: str = ""
) -> list[dict[str, Any]]:
    """corpus/manifest.jsonl; `lengths` are those of its utterances, and others after them. Returns its rows."""
    rows: list[dict[str, Any]] = [
        {
            "path": Path(u.path).name,
            "text": u.text,
            "phones": u.phonemes,
            "speaker": u.voice or speaker,
            "duration_s": round(n / RATE_HZ, 4),
        }
        for u, n in zip(corpus, lengths, strict=False)
    ]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(out / "corpus/manifest.jsonl", "".join(lines))
    return rows


def shortcut_statistics(plan: Plan) -> dict[str, dict[str, float]]:
    """For each task, how far properties that must not matter favour the right item: accuracies of 0.5 are the aim."""
    counts = Counter(phones("".join(u.phonemes for u in plan.corpus)))
    return {"lexical": statistics(plan.lexical, counts), "syntactic": statistics(plan.syntactic, counts)}


def statistics(pairs: Sequence[Pair], counts: Counter) -> dict[str, float]:
    frames = np.array([p.frames for p in pairs])
    features = phoneme_features(counts)
    log_frequency = np.array([features(p)[len(counts)] for p in pairs])
    phonemes = [len(right) - len(wrong) for right, wrong in map(phonemes_of, pairs)]
    return {
        "different_phoneme_counts": int(np.count_nonzero(phonemes)),
        "largest_duration_difference_frames": round(float(np.abs(frames).max()), 3),
        "mean_duration_difference_frames": round(float(frames.mean()), 3),
        "shorter_is_right": _favoured(-frames),
        "phoneme_unigram_is_right": _favoured(log_frequency),
        "mean_phoneme_unigram_difference_nats": round(float(log_frequency.mean()), 3),
    }


def _favoured(difference: np.ndarray) -> float:
    return round(float(np.mean((np.sign(np.round(difference, 9)) + 1) / 2)), 4)
