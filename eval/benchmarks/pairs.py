"""Minimal pairs: is the right item likelier than the wrong one? What every such benchmark shares.

A benchmark of this kind sets `files`, `all_pairs` and `unpaired` when built, and says what its subsets are. Every
registered metric of pairs is computed on each subset, and every metric of clips over the right items.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import ClassVar

from eval.benchmarks.base import Benchmark, LeftOut, Result, Run
from eval.likelihoods import Likelihoods, whole_clip_convention
from eval.metrics.base import ClipLikelihood, Metric, ScoredPair, metrics_of
from eval.metrics.bootstrap import Estimate, estimate
from eval.tokens import item_list_hash, tokenize_items
from slm.errors import UsageError
from slm.types import MinimalPair, Score


@dataclass(frozen=True)
class Subset:
    """Pairs that get one number: the mean over `strata` of each stratum's mean over groups (mostly one stratum)."""

    name: str
    meaning: str
    strata: tuple[tuple[MinimalPair, ...], ...]


def stratify(pairs: Sequence[MinimalPair], key: Callable[[MinimalPair], str]) -> dict[str, tuple[MinimalPair, ...]]:
    """Pairs by key, keys sorted."""
    return {name: tuple(members) for name, members in groupby(sorted(pairs, key=key), key=key)}


class PairBenchmark(Benchmark):
    """`files`: item -> audio; `all_pairs`: those of the gold file; `unpaired`: rows of it that no rule pairs."""

    headline_metric: ClassVar[str] = "pair_accuracy"
    split: str
    files: Mapping[str, Path]
    all_pairs: Sequence[MinimalPair]
    unpaired: Sequence[LeftOut] = ()

    @abstractmethod
    def subsets(self, pairs: Sequence[MinimalPair]) -> list[Subset]:
        """What is reported about `pairs`; the first is the headline. Empty ones are left out by the caller."""

    def judge(self, scores: Mapping[str, float], convention: str, resamples: int = 1000, seed: int = 0) -> list[Score]:
        """Item scores (larger is likelier) -> each metric of each subset, over the pairs whose items both have one."""
        pairs = [p for p in self.all_pairs if p.positive in scores and p.negative in scores]
        metrics, made = metrics_of(ScoredPair), []
        for metric in sorted(metrics, key=lambda m: m.name != self.headline_metric):
            for subset in self.subsets(pairs):
                strata = [
                    metric.observe([ScoredPair(p.group, scores[p.positive], scores[p.negative]) for p in stratum])
                    for stratum in subset.strata
                    if stratum
                ]
                if strata:
                    made.append(self._score(subset.name, metric, estimate(strata, resamples, seed), convention))
        return made

    def run(self, run: Run) -> Result:
        """Tokenize once, score with every scorer, write the likelihoods, derive every convention."""
        tokens = tokenize_items(self.files, run.lm, run.tokens, f"{self.name}-{self.split}", run.processes)
        usable = [p for p in self.all_pairs if p.positive in tokens.codes and p.negative in tokens.codes]
        if not usable:
            example = tokens.left_out[0] if tokens.left_out else LeftOut("", "the gold file pairs nothing")
            raise UsageError(f"{self.name}: no pair can be scored; the first reason: {example.item} {example.reason}")
        needed = {item for p in usable for item in (p.positive, p.negative)}
        codes = [tokens.codes[item] for item in sorted(needed)]
        scores: dict[str, list[Score]] = {}
        tables: dict[str, str] = {}
        for name, scorer in run.scorers.items():
            likelihoods = Likelihoods.measure(scorer, codes)
            tables[name] = f"likelihoods/{self.name}-{self.split}-{name}.parquet"
            likelihoods.write(run.out / tables[name], self._provenance(run, name))
            scores[name] = self._all_scores(likelihoods, usable, run)
        return Result(
            benchmark=self.name,
            split=self.split,
            about=self.about,
            item_list_sha256=self._list_hash(),
            counts={
                "items": len(self.files),
                "items_scored": len(needed),
                "pairs": len(self.all_pairs),
                "pairs_scored": len(usable),
                "groups_scored": len({p.group for p in usable}),
            },
            scores=scores,
            left_out=(*self.unpaired, *tokens.left_out),
            headline=self._item(self.subsets(usable)[0].name),
            meanings=self._meanings(usable),
            details={
                "likelihoods": tables,
                "tokens": tokens.place(run.out),
                "audio_sha256": tokens.audio_sha256,
            },
        )

    def _all_scores(self, likelihoods: Likelihoods, usable: Sequence[MinimalPair], run: Run) -> list[Score]:
        """The primary convention first, then the others, then what is said of the right items by themselves."""
        others = [c for c in likelihoods.conventions if c != run.convention]
        made: list[Score] = []
        for convention in (run.convention, *others):
            made += self.judge(likelihoods.scores(convention), convention.name, run.resamples, run.seed)
        nats = likelihoods.log_prob_nats()
        lasting = dict(zip(likelihoods.items, likelihoods.duration_s.tolist(), strict=True))
        right = sorted({(p.group, p.positive) for p in usable})
        clips = [ClipLikelihood(group, nats[item], lasting[item]) for group, item in right]
        for metric in metrics_of(ClipLikelihood):
            found = estimate([metric.observe(clips)], run.resamples, run.seed)
            made.append(self._score("right items", metric, found, whole_clip_convention(run.lm.convention["dedup"])))
        return made

    def _meanings(self, usable: Sequence[MinimalPair]) -> dict[str, str]:
        named = {self._item(s.name): s.meaning for s in self.subsets(usable)}
        return named | {self._item("right items"): "the right items of all scored pairs"}

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
