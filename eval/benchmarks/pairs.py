"""Minimal pairs: is the right item likelier than the wrong one? What every such benchmark shares.

A benchmark of this kind sets `files`, `all_pairs` and `unpaired` when built, and says what its subsets are. Every
registered metric of pairs is computed on each subset, and every metric of clips over the right items.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from eval.benchmarks._folders import FoundPairs
from eval.benchmarks.base import MODEL, Benchmark, LeftOut, Result, Run
from eval.conventions import Convention, find_convention, usual_conventions, whole_clip_convention
from eval.likelihoods import Likelihoods, Wanted
from eval.metrics.base import ClipLikelihood, Metric, ScoredPair, metrics_of
from eval.metrics.bootstrap import METHOD, Estimate, estimate
from eval.partings import find_partings, unit_starts
from eval.tokens import Tokens, item_list_hash, tokenize_items
from slm.errors import UsageError
from slm.types import Codes, MinimalPair, Score

if TYPE_CHECKING:
    from slm.spoken_lm import SpokenLM


@dataclass(frozen=True)
class Subset:
    """Pairs that get one number: the mean over `strata` of each stratum's mean over groups (mostly one stratum)."""

    name: str
    meaning: str
    strata: tuple[tuple[MinimalPair, ...], ...]


def stratify(pairs: Sequence[MinimalPair], key: Callable[[MinimalPair], str]) -> dict[str, tuple[MinimalPair, ...]]:
    """Pairs by key, keys sorted."""
    return {name: tuple(members) for name, members in groupby(sorted(pairs, key=key), key=key)}


def mean_over(kind: str, strata: Mapping[str, tuple[MinimalPair, ...]], known: Collection[str]) -> Subset:
    """The mean over strata, each counting alike. Its name says of how many of those that are `known`: a mean without
    the hard ones is another number."""
    over = f"{kind}s" if len(strata) >= len(known) else f"{len(strata)} of {len(known)} {kind}s"
    meaning = f"the mean of the {kind}s' accuracies, each counting alike"
    return Subset(
        f"mean over {over}",
        meaning if len(strata) >= len(known) else f"{meaning}; the other {kind}s have no pair that could be scored",
        tuple(strata.values()),
    )


class PairBenchmark(Benchmark):
    """`files`: item -> audio; `all_pairs`: those of the gold file; `unpaired`: rows of it that no rule pairs; `lost`:
    how many pairs these belong to; `notes`: what the result says of the data, such as that it is short."""

    headline_metric: ClassVar[str] = "pair_accuracy"
    views: ClassVar[tuple[str, ...]] = ()
    """Conventions that this benchmark has beside those of all, such as `local-0.5s` where items share a beginning."""
    lasts: bool = True
    """Whether items are recordings, of which a second holds so many bits."""
    split: str
    files: Mapping[str, Path]
    all_pairs: Sequence[MinimalPair]
    unpaired: Sequence[LeftOut] = ()
    lost: int = 0
    notes: Sequence[str] = ()

    def take(self, found: FoundPairs) -> None:
        """What folders hold, as this benchmark's own."""
        self.files, self.all_pairs, self.unpaired, self.lost = found.files, found.pairs, found.unpaired, found.lost

    @abstractmethod
    def subsets(self, pairs: Sequence[MinimalPair]) -> list[Subset]:
        """What is reported about `pairs`; the first is the headline. Empty ones are left out by the caller."""

    def judge(self, scores: Mapping[str, float], convention: str, resamples: int = 1000, seed: int = 0) -> list[Score]:
        """Item scores (larger is likelier) -> each metric of each subset, over the pairs whose items both have one.

        The convention's name says what a tie counts.
        """
        tie = find_convention(convention).tie
        pairs = [p for p in self.all_pairs if p.positive in scores and p.negative in scores]
        metrics, made = metrics_of(ScoredPair), []
        for metric in sorted(metrics, key=lambda m: m.name != self.headline_metric):
            for subset in self.subsets(pairs):
                strata = [
                    metric.observe([ScoredPair(p.group, scores[p.positive], scores[p.negative], tie) for p in stratum])
                    for stratum in subset.strata
                    if stratum
                ]
                if strata:
                    found = estimate(strata, resamples, seed, share=metric.is_share)
                    made.append(self._score(subset.name, metric, found, convention))
        return made

    def tokenized(self, run: Run) -> Tokens:
        """What the model reads of each item."""
        return tokenize_items(self.files, run.lm, run.tokens, f"{self.name}-{self.split}", run.processes)

    def run(self, run: Run) -> Result:
        """Tokenize once, score with every scorer, write the likelihoods, derive every convention."""
        tokens = self.tokenized(run)
        too_long = find_too_long(run.lm, tokens.codes)
        left_out = (*self.unpaired, *tokens.left_out, *too_long)
        readable = tokens.codes.keys() - {left.item for left in too_long}
        usable = [p for p in self.all_pairs if p.positive in readable and p.negative in readable]
        if not usable:
            example = left_out[-1] if left_out else LeftOut("", "the gold file pairs nothing")
            raise UsageError(f"{self.name}: no pair can be scored; a reason: {example.item} {example.reason}")
        needed = {item for p in usable for item in (p.positive, p.negative)}
        codes = [tokens.codes[item] for item in sorted(needed)]
        conventions = self._conventions(run)
        wanted = self._wanted(run, conventions, {c.id: c for c in codes}, usable)
        scores: dict[str, list[Score]] = {}
        unscored: dict[str, int] = {}
        tables: dict[str, str] = {}
        meanings: dict[str, str] = {}
        for name, scorer in run.scorers.items():
            likelihoods = Likelihoods.measure(scorer, codes, wanted)
            tables[name] = f"likelihoods/{self.name}-{self.split}-{name}.parquet"
            likelihoods.write(run.out / tables[name], self._provenance(run, name))
            by_convention = {c.name: likelihoods.scores(c) for c in conventions}
            meanings |= self._meanings(usable, by_convention.values())
            scores[name] = self._all_scores(likelihoods, by_convention, usable, run)
            if name == MODEL:
                unscored = {c: lacking for c, made in by_convention.items() if (lacking := _lacking(made, usable))}
                self._check_primary(scores[name], run.convention.name, usable)
        return Result(
            benchmark=self.name,
            split=self.split,
            about=self.about,
            item_list_sha256=self._list_hash(),
            counts={
                "items": len(self.files),
                "items_scored": len(needed),
                "pairs": len(self.all_pairs) + self.lost,
                "pairs_scored": len(usable),
                "groups_scored": len({p.group for p in usable}),
            },
            scores=scores,
            left_out=left_out,
            headline=scores[MODEL][0].item,
            meanings=meanings,
            details={
                "likelihoods": tables,
                "tokens": tokens.place(run.out),
                "audio_sha256": tokens.audio_sha256,
                "precision": str(getattr(run.lm, "precision", "float32")),
                "codebook_weights": run.lm.record.codebook_weights,
                "pairs_not_scored": unscored,
                "intervals": METHOD,
                **_note([*self.notes, *([_unscored_note(unscored, len(usable))] if unscored else [])]),
            },
        )

    def _check_primary(self, scores: Sequence[Score], convention: str, usable: Sequence[MinimalPair]) -> None:
        """UsageError where the convention to look at first counts nothing: another would stand in its place."""
        headline = self._item(self.subsets(usable)[0].name)
        if not any(score.metric == self.headline_metric and score.convention == convention for score in scores):
            raise UsageError(
                f"{self.name}: --convention {convention} can score no pair of {headline}: one item of each has nothing "
                "that it counts; choose another, and ask for this one with --conventions"
            )

    def _conventions(self, run: Run) -> list[Convention]:
        """The primary one first, then those of all, those of this benchmark, and those that the run asks for besides;
        with the weights of the checkpoint."""
        weights, books = run.lm.record.codebook_weights, len(run.lm.record.units.sizes)
        own = usual_conventions(books)
        if weights is not None and books > 1:
            own += [find_convention("weighted-mean+eos"), find_convention("weighted-mean")]
        asked = [run.convention, *own, *map(find_convention, self.views), *run.views]
        return list({c.name: c.for_model(weights, books) for c in asked}.values())

    def _wanted(self, run: Run, conventions: Sequence[Convention], codes: Mapping[str, Codes],
                pairs: Sequence[MinimalPair]) -> Wanted:  # fmt: skip
        """What these conventions need to be known of each item."""
        units, ends = run.lm.record.units, getattr(run.lm, "end_codebooks", None)
        per_frame = run.per_frame or any(c.window_s is not None for c in conventions)
        of_pairs = any(c.is_of_pairs for c in conventions)
        return Wanted(
            partings=find_partings(units, codes, pairs) if of_pairs else {},
            alone=any(c.normalized for c in conventions),
            starts={item: self._starts(run.lm, c) for item, c in codes.items()} if per_frame else {},
            frame_rate_hz=run.lm.spec.frame_rate_hz,
            ends_at=ends,
        )

    def _starts(self, lm: SpokenLM, codes: Codes) -> np.ndarray:
        """int64 `[R + 1]`: the frame at which each unit that the model scores begins, and how many frames there are."""
        units = lm.record.units
        return unit_starts(units, codes.codes, units.apply(codes.codes))

    def _all_scores(self, likelihoods: Likelihoods, by_convention: Mapping[str, Mapping[str, float]],
                    usable: Sequence[MinimalPair], run: Run) -> list[Score]:  # fmt: skip
        """By each convention, then what is said of the right items by themselves."""
        made: list[Score] = []
        for name, scores in by_convention.items():
            made += self.judge(scores, name, run.resamples, run.seed)
        if not self.lasts:
            return made
        nats = likelihoods.log_prob_nats()
        lasting = dict(zip(likelihoods.items, likelihoods.duration_s.tolist(), strict=True))
        right = sorted({(p.group, p.positive) for p in usable})
        clips = [ClipLikelihood(group, nats[item], lasting[item]) for group, item in right]
        for metric in metrics_of(ClipLikelihood):
            found = estimate([metric.observe(clips)], run.resamples, run.seed)
            made.append(self._score("right items", metric, found, whole_clip_convention(run.lm.convention["dedup"])))
        return made

    def _meanings(self, usable: Sequence[MinimalPair], scored: Iterable[Mapping[str, float]]) -> dict[str, str]:
        """Item -> what it is, of each set of scores: where a convention leaves a stratum empty, names say so."""
        of = [[p for p in usable if p.positive in made and p.negative in made] for made in scored]
        named = {self._item(s.name): s.meaning for pairs in of for s in self.subsets(pairs)}
        return named | ({self._item("right items"): "the right items of all scored pairs"} if self.lasts else {})

    def _item(self, subset: str) -> str:
        return f"{self.name}/{self.split}/{subset}"

    def _score(self, subset: str, metric: Metric, found: Estimate, convention: str) -> Score:
        item = self._item(subset)
        return Score(item, metric.name, found.value, metric.unit, convention, found.count, found.interval)

    def _list_hash(self) -> str:
        """Of the pairs with their groups and labels (words, types, ..): names alone may be the same elsewhere."""
        return item_list_hash([self.name, p.positive, p.negative, p.group, dict(p.labels)] for p in self.all_pairs)

    def _provenance(self, run: Run, scorer: str) -> dict[str, str]:
        return {
            "benchmark": f"{self.name}/{self.split}",
            "item_list_sha256": self._list_hash(),
            "scorer": scorer,
            "scorer_fingerprint": run.fingerprints[scorer],
            "tokenizer_fingerprint": run.lm.spec.fingerprint,
            "log_base": "e",
        }


def find_too_long(lm: SpokenLM, codes: Mapping[str, Codes]) -> list[LeftOut]:
    """Items beyond the positions of the model. Scorers that name no limit have none."""
    made: list[LeftOut] = []
    if (check := getattr(lm, "check_length", None)) is None:
        return made
    for item, clip in codes.items():
        try:
            check(item, len(lm.document(clip)))
        except UsageError as error:
            made.append(LeftOut(item, str(error).removeprefix(f"{item} ")))
    return made


def _lacking(scores: Mapping[str, float], pairs: Sequence[MinimalPair]) -> int:
    return sum(p.positive not in scores or p.negative not in scores for p in pairs)


def _note(parts: Sequence[str]) -> dict[str, str]:
    """The parts as the note of a result, which has none where there are none."""
    return {"note": ". ".join(parts)} if parts else {}


def _unscored_note(unscored: Mapping[str, int], pairs: int) -> str:
    said = ", ".join(f"{pairs - lacking:,} of {pairs:,} pairs by {name}" for name, lacking in unscored.items())
    return f"Only {said} could be scored: of the others one item has nothing that the convention counts"
