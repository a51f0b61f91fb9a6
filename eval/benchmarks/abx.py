"""ABX discriminability of a tokenizer's units (Schatz 2016, as in libri-light, arXiv 1912.07875): how often is a phone
closer, in units, to another phone than to a second recording of its own?

The language model has no part in it. ROOT/abx (or ROOT/phonetic, or ROOT itself) holds .item files, whose names say the
split, with the recordings in folders beside or below them. Units are one-hot vectors, all codebooks put together; those
of a k-means tokenizer are also judged as their centroids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.abx.distance import Embedded, OneHot, Representation
from eval.abx.fast import fastabx_errors, fastabx_version
from eval.abx.items import Item, cut, read_items
from eval.abx.score import SPEAKERS, Limits, phone_errors
from eval.benchmarks.base import BENCHMARKS, MODEL, Benchmark, LeftOut, Result, Run, Setup
from eval.metrics.base import Observations
from eval.metrics.bootstrap import estimate
from eval.tokens import item_list_hash, tokenize_items
from slm.audio import find_audio
from slm.errors import UsageError
from slm.types import Codes, Score

if TYPE_CHECKING:
    from slm.tokenizers.base import Tokenizer

METRIC = "abx_error"
FOLDERS = ("abx", "phonetic", "abxLS-dataset")
FETCH = "fetch it with `zrc datasets:pull abxLS-dataset`, and put its .item files and recordings there"
NOTE = (
    "angles between frames, summed along the cheapest alignment over its length; intervals over pairs of phones, both "
    "orders of a pair being one"
)
MEANINGS = {
    "within": "A, B and X are by one speaker",
    "across": "A and B are by one speaker, X by another",
}


@BENCHMARKS.register("abx")
class ABX(Benchmark):
    name = "abx"
    about = (
        "Is a phone closer, in units, to another than to a second recording of its own? Errors; guessing gives 50 %."
    )

    def __init__(self, setup: Setup):
        self.split = setup.split
        root = next((setup.data / name for name in FOLDERS if (setup.data / name).is_dir()), setup.data)
        paths = sorted(p for p in root.rglob("*.item") if setup.split in p.stem) if root.is_dir() else []
        if not paths:
            raise UsageError(f"no .item file of {setup.split} in {setup.data / FOLDERS[0]}; {FETCH}")
        self.items: dict[str, list[Item]] = {}
        for path in sorted(paths, key=lambda p: (p.stem.startswith("phoneme"), p.stem)):  # triphones first
            if path.stem in self.items:
                raise UsageError(f"{root} has two files {path.name}; keep one of them")
            self.items[path.stem] = read_items(path)
        wanted = sorted({item.file for items in self.items.values() for item in items})
        found = {path.stem: path for path in find_audio(root)}
        self.files = {file: found.get(file, root / f"{file}.wav") for file in wanted}
        if not any(file in found for file in wanted):
            raise UsageError(
                f"{root} holds none of the recordings of {paths[0].name}, such as {wanted[0]}.wav; {FETCH}"
            )

    def run(self, run: Run) -> Result:
        return self.judge(run.lm, run.tokens, run.out, run.resamples, run.seed)

    def judge(self, tokenized: Any, tokens_in: Path, out: Path, resamples: int, seed: int) -> Result:
        """What the units of `tokenized` are worth: a language model, or what has its `tokenizer`, `spec` and `device`.
        Tokenized audio is kept in `tokens_in`; `out` is where results go."""
        tokens = tokenize_items(self.files, tokenized, tokens_in, f"{self.name}-{self.split}")
        limits = Limits(seed=seed)
        scores, left_out = self._scores(tokenized, tokens.codes, limits, resamples)
        if not scores:
            raise UsageError(f"{self.name}: no two items of {', '.join(self.items)} can be compared; {FETCH}")
        return Result(
            benchmark=self.name,
            split=self.split,
            about=self.about,
            item_list_sha256=item_list_hash(self._item_list()),
            counts={
                "files": len(self.files),
                "files_scored": len(tokens.codes),
                "items": sum(map(len, self.items.values())),
                "items_scored": sum(map(len, self.items.values())) - len(left_out),
            },
            scores={MODEL: scores},
            left_out=(*tokens.left_out, *left_out),
            headline=scores[0].item,
            meanings={s.item: f"{s.item.rpartition('/')[2]}: {MEANINGS[s.item.rsplit(' ')[-1]]}" for s in scores},
            details={
                "tokens": tokens.place(out),
                "audio_sha256": tokens.audio_sha256,
                "limits": asdict(limits),
                "note": NOTE,
            },
        )

    def _scores(
        self, tokenized: Any, codes: Mapping[str, Codes], limits: Limits, resamples: int
    ) -> tuple[list[Score], list[LeftOut]]:
        """Each representation of each .item file, within and across speakers; and the items that have no frame."""
        fastabx = fastabx_version()
        engine, errors_of = "libri-light", phone_errors
        if fastabx:
            engine, errors_of = f"fastabx {fastabx}", partial(fastabx_errors, device=tokenized.device)
        tokenizer: Tokenizer = tokenized.tokenizer
        scores: list[Score] = []
        left_out: list[LeftOut] = []
        kinds = representations(tokenizer)
        for file, items in self.items.items():
            segments, without = cut(items, {id: c.codes for id, c in codes.items()}, tokenizer.spec.frame_rate_hz)
            left_out += [LeftOut(f"{file}, {left.item}", left.reason) for left in without]
            for name, units in kinds.items():
                for speaker in SPEAKERS:
                    errors = errors_of(segments, speaker, units, limits) if segments else {}
                    if errors:
                        item = f"{self.name}/{self.split}/{file} {speaker}"
                        scores.append(error_score(item, errors, f"{name}, {engine}", resamples, limits.seed))
        return sorted(scores, key=lambda s: not s.convention.startswith("one-hot")), left_out

    def _item_list(self) -> list[Any]:
        return [
            [self.name, name, i.file, i.onset_s, i.offset_s, i.phone, *i.context, i.speaker]
            for name, items in self.items.items()
            for i in items
        ]


def representations(tokenizer: Tokenizer) -> dict[str, Representation]:
    """What the units of this tokenizer are compared as, by name."""
    made: dict[str, Representation] = {"one-hot": OneHot(tokenizer.spec.codebook_sizes)}
    if centroids := getattr(tokenizer, "centroids", None):
        made["centroids"] = Embedded([(c.centroids * c.scale + c.mean).cpu().numpy() for c in centroids])
    return made


def error_score(
    item: str, errors: Mapping[tuple[str, str], float], convention: str, resamples: int, seed: int
) -> Score:
    """The mean over ordered pairs of phones. Both orders of two phones rest on the same recordings: they are one
    observation of its interval and its count."""
    both: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for phones in sorted(errors):
        both[tuple(sorted(phones))].append(errors[phones])
    observed = Observations(np.array([sum(v) for v in both.values()]), np.array([float(len(v)) for v in both.values()]))
    found = estimate([observed], resamples, seed, share=True)
    return Score(item, METRIC, found.value, "fraction", convention, found.count, found.interval)
