"""What public implementations decide on a small random model: each written out in a few lines of plain torch over the
bare transformers model, padded batches and all, against the convention of its name."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from eval.conventions import PRESETS, find_convention
from eval.likelihoods import Likelihoods, Wanted
from eval.metrics.base import ScoredPair
from eval.metrics.pair_accuracy import PairAccuracy
from eval.partings import find_partings, unit_starts
from eval.run import main
from slm.errors import UsageError
from slm.spoken_lm import SpokenLM
from slm.types import Codes, MinimalPair
from slm.units import deduplicate
from tests.eval.material import config, scores
from tests.fakes import ArithmeticTokenizer
from tests.test_spoken_lm import make_lm

IGNORED = -100


def pairs_of_codes(books: int, number: int = 30) -> tuple[dict[str, Codes], list[MinimalPair]]:
    """Pairs with a common beginning, of unequal lengths; the last is a tie: its items are the same codes."""
    rng, spec = np.random.default_rng(5), ArithmeticTokenizer(books).spec
    codes: dict[str, Codes] = {}
    for i in range(number):
        start = np.repeat(rng.integers(0, 16, (rng.integers(0, 12), books)), 2, axis=0)
        for side in "+-":
            rest = np.repeat(rng.integers(0, 16, (rng.integers(3, 9), books)), 2, axis=0)
            made = np.concatenate([start, rest]).astype(np.uint16)
            codes[f"{i}{side}"] = Codes(f"{i}{side}", made, 160 * len(made), spec)
    codes[f"{number - 1}-"] = Codes(f"{number - 1}-", codes[f"{number - 1}+"].codes, 160, spec)
    return codes, [MinimalPair(f"{i}+", f"{i}-", f"g{i}") for i in range(number)]


def tokens_of(lm: SpokenLM, codes: Sequence[Codes], end: bool) -> list[torch.Tensor]:
    """BOS, the units of one stream one after the other, and the end."""
    made, [stream] = [], lm.pattern.streams
    for c in codes:
        units = deduplicate(c.codes)[0] if lm.record.dedup else c.codes
        flat = (units.astype(np.int64) + lm.pattern.id_offsets).reshape(-1).tolist()
        made.append(torch.tensor([stream.bos_id, *flat, *([stream.eos_id] if end else [])]))
    return made


def log_likelihoods(lm: SpokenLM, tokens: Sequence[torch.Tensor], mean: bool, first: int = 1) -> list[float]:
    """slamkit's and SALMon's: a padded batch, shifted by one, padding masked. Tokens before `first` are only given."""
    x = torch.nn.utils.rnn.pad_sequence(list(tokens), batch_first=True, padding_value=lm.pattern.streams[0].empty_id)
    with torch.no_grad():
        logits = lm.model.causal_lm(x).logits[:, :-1].double()
    target = x[:, 1:]
    mask = (target != lm.pattern.streams[0].empty_id) & (torch.arange(1, x.shape[1]) >= first)
    losses = F.cross_entropy(logits.transpose(1, 2), target, reduction="none") * mask
    total = losses.sum(dim=-1)
    return (-(total / mask.sum(dim=-1)) if mean else -total).tolist()


def llama_mimi(lm: SpokenLM, tokens: torch.Tensor, every: int) -> float:
    """The loss that transformers itself gives for labels of which all but each `every`-th are ignored, from the first
    code on. (Its own layout has one token more in front, hence 2 there.)"""
    labels = torch.full_like(tokens, IGNORED)
    labels[1::every] = tokens[1::every]
    with torch.no_grad():
        logits = lm.model.causal_lm(tokens[None]).logits
        return -float(lm.model.causal_lm.loss_function(logits, labels[None], vocab_size=logits.shape[-1]))


def reference(preset: str, lm: SpokenLM, codes: Sequence[Codes]) -> list[float]:
    with_end, without = tokens_of(lm, codes, end=True), tokens_of(lm, codes, end=False)
    if preset == "slamkit":
        return log_likelihoods(lm, with_end, mean=True)
    if preset == "zerospeech":
        return log_likelihoods(lm, without, mean=False)
    if preset == "salmon":
        return log_likelihoods(lm, without, mean=True, first=2)
    every = lm.spec.num_codebooks if preset == "llama-mimi" else 1
    return [llama_mimi(lm, t, every) for t in with_end]


@pytest.mark.parametrize("kind", [("flat", 1, True), ("flat", 1, False), ("flat", 4, False)])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_what_its_authors_compute(preset, kind):
    """Each reference is written here after what its authors publish, over the same transformers model: it shows that
    our scoring is that arithmetic. For `zerospeech` there is nobody to follow, as the evaluator only reads scores: its
    reference shows that the preset is the sum of log-probabilities without the end, not that submissions used it."""
    lm = make_lm(*kind)
    with torch.no_grad():
        lm.model.causal_lm.get_output_embeddings().weight.mul_(20)
    codes, pairs = pairs_of_codes(kind[1])
    convention = find_convention(preset)
    found = Likelihoods.measure(lm, list(codes.values())).scores(convention)
    expected = dict(zip(codes, reference(preset, lm, list(codes.values())), strict=True))
    assert found == pytest.approx(expected, abs=1e-4, rel=1e-6)
    metric, tie = PairAccuracy(), 0.0 if preset.startswith("llama") else 0.5
    accuracy = metric.value([ScoredPair(p.group, found[p.positive], found[p.negative], convention.tie) for p in pairs])
    decided = [float(expected[p.positive] > expected[p.negative]) for p in pairs[:-1]]
    assert 0 < sum(decided) < len(decided)
    assert accuracy == pytest.approx((sum(decided) + tie) / len(pairs))


def test_presets_disagree_where_they_should():
    """Or the test above would hold for any of them."""
    lm = make_lm("flat", 4)
    codes, _ = pairs_of_codes(4)
    table = Likelihoods.measure(lm, list(codes.values()))
    made = {name: table.scores(c)["0+"] for name, c in PRESETS.items()}
    assert made.pop("slamkit") == made["llama-mimi-salmon"], "they differ in ties only"
    assert len(set(made.values())) == len(made)


@pytest.mark.parametrize("dedup", [True, False])
def test_windows_and_prompts_by_a_model_asked_one_clip_at_a_time(dedup):
    """log P(rest | prompt) as a difference of two sums of the whole clip, log P(rest) of the rest by itself; a window
    by the frames that units begin at."""
    lm = make_lm("flat", 1, dedup)
    codes, pairs = pairs_of_codes(1, number=8)
    units = lm.record.units
    wanted = Wanted(
        find_partings(units, codes, pairs), alone=True, frame_rate_hz=50.0,
        starts={i: unit_starts(units, c.codes, units.apply(c.codes)) for i, c in codes.items()},
    )  # fmt: skip
    table = Likelihoods.measure(lm, list(codes.values()), wanted)
    normalized, local = table.scores(find_convention("normalized")), table.scores(find_convention("local-0.1s"))
    for pair in pairs[:-1]:
        a, b = codes[pair.positive].codes[:, 0], codes[pair.negative].codes[:, 0]
        at = next(i for i in range(min(len(a), len(b))) if a[i] != b[i])
        for item, own in ((pair.positive, a), (pair.negative, b)):
            [each] = log_likelihoods_by_unit(lm, [codes[item]])
            begins = np.flatnonzero(np.append(True, own[1:] != own[:-1])) if dedup else np.arange(len(own))
            shared = int((begins < at).sum())
            rest = Codes("rest", codes[item].codes[begins[shared] :], 160, lm.spec)
            [alone] = log_likelihoods_by_unit(lm, [rest])
            assert normalized[item] == pytest.approx(sum(each[shared:]) - sum(alone), abs=1e-4)
            window = [v for v, start in zip(each, begins, strict=True) if begins[shared] <= start < begins[shared] + 5]
            assert local[item] == pytest.approx(np.mean(window), abs=1e-4)
    last = pairs[-1]
    assert normalized[last.positive] == normalized[last.negative] == 0.0
    assert local[last.positive] == local[last.negative]


def log_likelihoods_by_unit(lm: SpokenLM, codes: Sequence[Codes]) -> list[list[float]]:
    made = []
    for tokens in tokens_of(lm, codes, end=False):
        with torch.no_grad():
            logits = lm.model.causal_lm(tokens[None]).logits[0, :-1].double()
        made.append((-F.cross_entropy(logits, tokens[1:], reduction="none")).tolist())
    return made


def test_further_conventions_of_a_run_stand_in_its_results(root, real_lm):
    asked = "llama-mimi,weighted-10:1-mean,local-0.1s,local-0.1s+eos-strict,normalized,normalized-mean+eos"
    main(config(root, benchmarks="swuggy", conventions=asked, per_frame=True, baselines="yes"))
    out = root.parent / "out"
    [result] = json.loads((out / "results.json").read_text())["results"]
    assert {c for _, c in scores(out, "swuggy")} >= {*asked.split(","), "mean+eos", "first-sum"}
    assert result["details"]["precision"] == "float32"
    said = (out / "results.md").read_text()
    assert "- weighted-10:1-mean: mean of the log-probabilities of all codes of all codebooks, weighed by 10:1" in said
    assert "a tie is a miss" in said
    for scorer in ("model", "untrained", "unigram"):
        table = Likelihoods.read(out / f"likelihoods/swuggy-dev-{scorer}.parquet")
        long = pd.read_parquet(out / f"likelihoods/swuggy-dev-{scorer}-frames.parquet")
        sums = long[~long.is_end].groupby(["item", "codebook"], observed=True).log_prob_nats.sum()
        for item, row in zip(table.items, table.sums, strict=True):
            assert sums[item].tolist() == pytest.approx(row.tolist())
        for name in asked.split(","):
            assert set(table.scores(find_convention(name))) == set(table.items)
    unigram = Likelihoods.read(out / "likelihoods/swuggy-dev-unigram.parquet").scores(find_convention("normalized"))
    assert set(unigram.values()) == {0.0}, "a model without memory gains nothing from a prompt"


def test_the_weights_of_the_loss_are_there_by_themselves(root, real_lm):
    object.__setattr__(real_lm.record, "codebook_weights", (100.0, 1.0))
    main(config(root, benchmarks="swuggy", convention="weighted-mean+eos", baselines="no"))
    out = root.parent / "out"
    [result] = json.loads((out / "results.json").read_text())["results"]
    assert result["details"]["codebook_weights"] == [100.0, 1.0]
    table = Likelihoods.read(out / "likelihoods/swuggy-dev-model.parquet")
    given = table.scores(find_convention("weighted-100:1-mean+eos"))
    found = result["scores"]["model"][0]
    assert found["convention"] == "weighted-mean+eos"
    assert "weighted-mean" in {score["convention"] for score in result["scores"]["model"]}  # beside it, unasked
    pairs = [(p, p.replace("_1", "_0")) for p in table.items if p.endswith("_1")]
    by_id = pd.Series({p: float(given[p] > given[n]) for p, n in pairs}).groupby(lambda p: p.split("_")[0]).mean()
    assert found["value"] == pytest.approx(by_id.mean())


def test_conventions_that_do_not_fit_are_refused_before_any_work(root, real_lm, monkeypatch):
    monkeypatch.setattr("eval.benchmarks.pairs.tokenize_items", lambda *_: pytest.fail("work began"))
    for asked, message in (("weighted-mean", "without codebook weights"), ("weighted-3:2:1-mean", "3 weights for 2"),
                           ("summ", "did you mean 'sum'")):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            main(config(root, benchmarks="swuggy", conventions=asked))


def test_bf16_is_said_in_the_results_and_layers_are_compiled_where_asked_for(root, real_lm, monkeypatch):
    asked: list[bool] = []
    monkeypatch.setattr("slm.model.acoustic_lm.AcousticLM.compile", lambda _, dynamic: asked.append(dynamic))
    main(config(root, benchmarks="swuggy", precision="bf16", baselines="no"))
    assert not asked
    main(config(root, benchmarks="swuggy", precision="bf16", baselines="no", compile=True))
    assert asked == [True]
    [result] = json.loads((root.parent / "out/results.json").read_text())["results"]
    assert result["details"]["precision"] == result["config"]["precision"] == "bf16"
