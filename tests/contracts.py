"""The laws: what every tokenizer, pattern, benchmark and metric must satisfy. A new one's test calls its law."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from eval.benchmarks.pairs import PairBenchmark
from eval.metrics.base import Metric
from slm.patterns import BOS, EMPTY, EOS, PATTERNS, Pattern
from slm.tokenizers import Tokenizer
from slm.tokenizers._codec import NeuralCodec
from slm.types import AudioClip
from tests.second_device import second_device


def pattern_law(pattern: Pattern, codes: np.ndarray) -> None:
    """invert∘apply = identity; every code and every end stands exactly once, the end last; each codebook runs forward
    in time; `num_steps` agrees with the layout; its settings make it again; a cut layout is the start of the full one,
    without ends; an open-ended one does not depend on what follows."""
    again = PATTERNS.create(pattern.name, codebook_sizes=pattern.codebook_sizes, **pattern.settings())
    assert np.array_equal(again.layout(len(codes)), pattern.layout(len(codes)))
    if not pattern.has_ends:
        _cut_pattern_law(pattern, codes)
        pattern = pattern.full()
    frames, books = codes.shape
    layout, made = pattern.layout(frames), pattern.apply(codes)
    assert layout.shape == made.steps.shape == made.valid.shape == (pattern.num_steps(frames), len(pattern.streams))
    assert np.array_equal(pattern.invert(made.steps, frames), codes)
    assert sorted(layout[layout >= 0].tolist()) == list(range(frames * books))
    assert ((layout == EOS).sum(axis=0) == 1).all()
    assert (layout[0] == BOS).all()
    assert (layout[1:] != BOS).all()
    step_of = np.full(frames * books, -1)
    step_of[layout[layout >= 0]] = np.nonzero(layout >= 0)[0]
    assert (np.diff(step_of.reshape(frames, books), axis=0) > 0).all()
    for stream in layout.T:
        assert (stream[np.argmax(stream == EOS) + 1 :] == EMPTY).all()
    if pattern.open_ended:
        first_end = int(np.argmax((layout == EOS).any(axis=1)))
        assert np.array_equal(layout[:first_end], pattern.layout(frames + 3)[:first_end])
    for q, vocabulary in enumerate(pattern.streams):
        predicted = made.steps[made.valid[:, q], q]
        assert ((predicted >= 0) & (predicted <= vocabulary.eos_id)).all()
    assert np.array_equal(pattern.gather_ends(made.steps, frames), [v.eos_id for v in pattern.streams])


def _cut_pattern_law(pattern: Pattern, codes: np.ndarray) -> None:
    full = pattern.full()
    assert full.has_ends
    assert full.streams == pattern.streams
    steps = pattern.num_steps(len(codes))
    assert np.array_equal(pattern.layout(len(codes)), full.layout(len(codes))[:steps])
    made, whole = pattern.apply(codes), full.apply(codes)
    assert np.array_equal(made.steps, whole.steps[:steps])
    assert np.array_equal(made.valid, whole.valid[:steps])
    assert not (pattern.layout(len(codes)) == EOS).any()
    if made.valid.sum() < codes.size:
        with pytest.raises(ValueError, match="leaves codes out"):
            pattern.invert(made.steps, len(codes))


def second_device_law(load: Callable[..., Tokenizer], clips: Sequence[AudioClip]) -> None:
    """On a GPU that is none, what `load(device="cuda", mode=..)` loads has the codes and the audio of `load(mode=..)`,
    also where clips (of a second or two) share batches: it forgets nothing on the CPU."""
    for mode in sorted({"exact", "batched"} & load().modes.keys()):
        with pytest.MonkeyPatch.context() as patch:
            here = load(mode=mode)
            patch.setattr(here, "batch_s", {"cpu": 8.0}, raising=False)
            expected = here.encode(clips)
            back = here.decode(expected[0]).samples if here.spec.has_decoder else None
            with second_device():
                there = load(device="cuda", mode=mode)
                if isinstance(there, NeuralCodec):
                    stay = [name for name, weight in there.model.named_parameters() if not weight.is_cuda]
                    assert not stay, f"{mode}: weights stay on the CPU: {stay}"
                patch.setattr(there, "batch_s", {"cuda": 8.0}, raising=False)
                made = there.start(clips)()
                audio = None if back is None else there.decode(made[0]).samples
        for mine, theirs in zip(expected, made, strict=True):
            assert np.array_equal(mine.codes, theirs.codes), f"{mode}: {mine.id} has other codes"
        if audio is not None:
            np.testing.assert_allclose(audio, back, atol=1e-6)


def benchmark_law(benchmark: PairBenchmark, shared: bool = False) -> None:
    """Unique ids; pairs of items that the manifest lists; an oracle scores 1, its opposite 0, a constant 1/2. `shared`:
    an item may stand in several pairs, always on one side."""
    pairs = [(pair.positive, pair.negative) for pair in benchmark.all_pairs]
    items = {item for pair in pairs for item in pair}
    right, wrong = map(set, zip(*pairs, strict=True))
    assert len(pairs) == len(set(pairs)) >= 2
    assert not right & wrong
    assert shared or len(items) == 2 * len(pairs), "an item stands in two pairs"
    assert items <= set(benchmark.files)
    assert all(pair.group for pair in benchmark.all_pairs)
    oracle = dict.fromkeys((p.positive for p in benchmark.all_pairs), 1.0)
    oracle |= dict.fromkeys((p.negative for p in benchmark.all_pairs), -1.0)
    for scores, expected in (
        (oracle, 1.0),
        ({item: -sign for item, sign in oracle.items()}, 0.0),
        (dict.fromkeys(oracle, 0.25), 0.5),
    ):
        judged = [s for s in benchmark.judge(scores, "sum", resamples=20) if s.metric == "pair_accuracy"]
        assert judged[0].count == len({pair.group for pair in benchmark.all_pairs})
        assert {score.value for score in judged} == {expected}
        assert all(0 <= score.interval[0] <= expected <= score.interval[1] <= 1 for score in judged)
        assert all(score.interval[0] < score.interval[1] for score in judged), "a few items are no proof of all"


def metric_law(metric: Metric, items: Sequence[Any], expected: float, better: Sequence[Any]) -> None:
    """The value computed by hand; `better` items move it the way the metric says; the order of items is nothing."""
    assert metric.value(items) == pytest.approx(expected)
    assert all(isinstance(item, metric.observes) for item in items)
    assert metric.unit
    assert metric.about
    assert (metric.value(better) > expected) == metric.higher_is_better
    assert metric.value(better) != pytest.approx(expected)
    for seed in range(5):
        assert metric.value(random.Random(seed).sample(list(items), len(items))) == pytest.approx(expected)
