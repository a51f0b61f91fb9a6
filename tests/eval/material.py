"""Tiny benchmarks in the official layout, and language models whose answers are known."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile

from eval.config import EvalConfig
from slm.model.statistics import CodeStatistics
from slm.types import CodeLogProbs, Codes
from slm.units import Units
from tests.fakes import ArithmeticTokenizer

LEXICAL = ("filename", "id", "voice", "frequency", "word", "phones", "length", "correct")
SYNTACTIC = ("filename", "id", "voice", "type", "subtype", "transcription", "correct")
RIGHT, WRONG = 0.25, -0.25  # levels of the recordings


def write_gold(folder: Path, header: Sequence[str], rows: Sequence[Sequence]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "gold.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return folder / "gold.csv"


def write_level(path: Path, level: float, duration_s: float = 0.2, rate_hz: int = 8000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), np.full(round(duration_s * rate_hz), level, np.float32), rate_hz)
    return path


def write_lexical(root: Path, rows: Sequence[Sequence], split: str = "dev") -> Path:
    """Rows (filename, id, voice, frequency, correct) and a recording of each: its level says whether it is a word."""
    full = [(f, i, v, n, f"w{i}", "a b", 2, c) for f, i, v, n, c in rows]
    write_gold(root / "lexical" / split, LEXICAL, full)
    for n, (name, *_, correct) in enumerate(rows):
        write_level(root / "lexical" / split / f"{name}.wav", RIGHT if correct else WRONG, 0.2 + 0.02 * (n % 5))
    return root


def write_syntactic(root: Path, rows: Sequence[Sequence], split: str = "dev") -> Path:
    """Rows (filename, id, voice, type, subtype, correct), likewise."""
    full = [(f, i, v, t, s, "a, sentence", c) for f, i, v, t, s, c in rows]
    write_gold(root / "syntactic" / split, SYNTACTIC, full)
    for n, (name, *_, correct) in enumerate(rows):
        write_level(root / "syntactic" / split / f"{name}.wav", RIGHT if correct else WRONG, 0.3 + 0.02 * (n % 4))
    return root


def random_lexical(ids: int, voices: int, seed: int) -> list[tuple]:
    """Shuffled rows; frequencies at and around the borders of the bands."""
    rng = np.random.default_rng(seed)
    frequency = rng.choice([0, 1, 4, 5, 19, 20, 99, 100, 5000], ids)
    rows = [(f"f{i}_{v}_{c}", i, f"v{v}", frequency[i] if c else 0, c)
            for i in range(ids) for v in range(voices) for c in (0, 1)]  # fmt: skip
    rng.shuffle(rows)
    return [(f, int(i), v, int(n), int(c)) for f, i, v, n, c in rows]


def random_syntactic(ids: int, voices: int, seed: int) -> list[tuple]:
    """Rows whose k-th right one belongs to the k-th wrong one, though they do not alternate regularly."""
    rng = np.random.default_rng(seed)
    pairs = [(i, v) for i in range(ids) for v in range(voices)]
    rng.shuffle(pairs)
    right = [(f"{i}-{v}-good", i % 7, f"v{v}", f"type{i % 3}", f"sub{i // 7}", 1) for i, v in pairs]
    wrong = [(f"{i}-{v}-bad", i % 7, f"v{v}", f"type{i % 3}", f"sub{i // 7}", 0) for i, v in pairs]
    rows = []
    while right or wrong:
        rows.append((right if right and (not wrong or rng.random() < 0.5) else wrong).pop(0))
    return rows


class LevelLM:
    """Finds loud codes likelier: by `right` of them for a recording of level RIGHT, `wrong` for others, a code."""

    def __init__(self, right: float = -1.0, wrong: float = -2.0, num_codebooks: int = 1, name: str = "oracle"):
        self.tokenizer = ArithmeticTokenizer(num_codebooks)
        self.spec, self.fingerprint = self.tokenizer.spec, name * 8
        self.right, self.wrong = right, wrong
        self.convention = {"pattern": {"name": "flat"}, "dedup": False}
        samples = np.full(160, RIGHT, np.float32)
        units = Units((16,) * num_codebooks)
        self.record = SimpleNamespace(training={"eval_fraction": 0.02}, units=units, codebook_weights=None)
        self.statistics = CodeStatistics((np.arange(16),) * num_codebooks, np.arange(16), 3)
        self._right_code = int(self.tokenizer._encode([samples])[0][0, 0])

    def score_codes(self, codes: Sequence[Codes]) -> list[CodeLogProbs]:
        return [
            CodeLogProbs(
                c.id,
                np.full(c.codes.shape, self.right if c.codes[0, 0] == self._right_code else self.wrong),
                np.array([-0.5]),
                c.duration_s,
            )
            for c in codes
        ]

    def continue_codes(self, prompt, seconds, seed, temperature=1.0, top_k=None, may_stop=True) -> Codes:
        extra = round(seconds * self.spec.frame_rate_hz)
        drawn = np.random.default_rng(seed).integers(0, 16, (extra, self.spec.num_codebooks))
        codes = np.concatenate([prompt.codes, drawn]).astype(self.spec.code_dtype)
        return Codes(prompt.id, codes, prompt.num_samples + extra * self.spec.hop_samples, self.spec)

    def continue_many(self, prompts, seconds, seeds, sampling=None, speed=None) -> list[Codes]:
        return [self.continue_codes(p, seconds, seed) for p, seed in zip(prompts, seeds, strict=True)]

    def untrained(self, seed: int) -> LevelLM:
        return LevelLM(-1.5, -1.5, self.spec.num_codebooks, name="untrained")

    def unigram(self) -> LevelLM:
        made = LevelLM(-2.0, -1.0, self.spec.num_codebooks)
        del made.fingerprint  # like the real one
        return made


def config(root: Path, **changes) -> EvalConfig:
    """Of a run with a training curve, over the data in `root`; results go to `root`/../out."""
    run = root.parent / "run"
    run.mkdir(exist_ok=True)
    lines = [{"step": s, "train_nats_per_code": 4.0 - s / 100, "lr": 0.1} for s in range(0, 100, 10)]
    lines += [{"step": 50, "eval_nats_per_code": 3.7}, {"step": 90, "eval_nats_per_code": 3.321}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"model": str(run / "final"), "benchmarks": "swuggy,sblimp,continuation", "data": str(root),
                "out": str(root.parent / "out"), "bootstrap": 50, "device": "cpu"}  # fmt: skip
    return EvalConfig(**{**settings, **changes})


def scores(out: Path, benchmark: str, scorer: str = "model", metric: str = "pair_accuracy") -> dict:
    """(subset, convention) -> score, out of results.json."""
    record = json.loads((out / "results.json").read_text())
    result = next(r for r in record["results"] if r["benchmark"] == benchmark)
    return {(s["item"].split("/", 2)[2], s["convention"]): s for s in result["scores"][scorer] if s["metric"] == metric}
