"""Tests of methods against Student's two tests, by what chance does, and through `eval/run.py`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from eval.comparison import Compared
from eval.conventions import find_convention
from eval.methods import Training, find_methods
from eval.metrics.over_seeds import method_test
from eval.report.site import build_site
from eval.report.table import comparison_markdown
from eval.run import main
from slm.model.statistics import CodeStatistics
from tests.eval.material import config, random_lexical, scores, write_lexical
from tests.eval.test_several_models import NoisyLM


def test_where_items_never_differ_it_is_the_t_test_of_two_samples():
    first, second = [0.61, 0.64, 0.66], [0.72, 0.71]
    test = method_test([[np.full(50, a)] for a in first], [[np.full(50, b)] for b in second])
    expected = stats.ttest_ind(second, first)
    assert test.difference == pytest.approx(np.mean(second) - np.mean(first))
    assert test.p_value == pytest.approx(expected.pvalue)
    assert test.interval == pytest.approx(expected.confidence_interval(0.95))
    assert not test.within_noise


def test_where_seeds_never_differ_it_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    first, second = rng.random(40), rng.random(40)
    test = method_test([[first]] * 3, [[second]] * 2)
    expected = stats.ttest_rel(second, first)
    assert test.p_value == pytest.approx(expected.pvalue)
    assert test.interval == pytest.approx(expected.confidence_interval(0.95))
    assert test.within_noise
    assert test.count == 40


def test_a_value_is_the_mean_over_strata_and_one_item_has_no_spread():
    rng = np.random.default_rng(1)
    strata = [rng.random(10), rng.random(1000)]
    test = method_test([strata, strata], [[s + 0.25 for s in strata]])
    assert test.difference == pytest.approx(0.25)
    assert test.interval == pytest.approx((0.25, 0.25))
    assert test.count == 1010
    assert method_test([[np.ones(1), np.ones(9)]] * 2, [[np.zeros(1), np.zeros(9)]]) is None
    same = method_test([[np.ones(9)]] * 2, [[np.ones(9)]])
    assert (same.difference, same.interval, same.p_value, same.within_noise) == (0, (0, 0), 1, True)


@pytest.mark.parametrize("seeds", [(3, 3), (1, 2)])
def test_equal_methods_are_told_apart_no_more_often_than_said(seeds):
    """Trainings and items of random ease, and what one training makes of one item: of 400 experiments, some 5 % at
    most, and a paired test of one training each tells apart most of them."""
    rng = np.random.default_rng(2)
    apart = alone = 0
    for _ in range(400):
        ease = rng.normal(size=200)
        sides = [
            [[(ease + rng.normal(scale=0.4) + rng.normal(size=200) > 0).astype(float)] for _ in range(n)] for n in seeds
        ]
        apart += not method_test(*sides).within_noise
        alone += stats.ttest_rel(sides[0][0][0], sides[1][0][0]).pvalue < 0.05
    assert apart <= 0.06 * 400
    assert alone > 0.5 * 400


def test_a_stratum_of_few_items_has_their_degrees_of_freedom():
    """What varies is in two items of 502, and so is what is known of it."""
    constant, varying = np.full(500, 0.5), np.array([0.45, 0.55])
    test = method_test([[varying * 0, constant * 0]] * 2, [[varying, constant]] * 2)
    margin = stats.t.isf(0.025, 1) * varying.std(ddof=1) / 2**0.5 / 2
    assert test.interval == pytest.approx((0.5 - margin, 0.5 + margin))
    assert test.count == 502
    assert method_test([[np.zeros(2)]] * 2, [[np.array([0.0, 1.0])]] * 2).interval == (-1, 1)  # at most


def trained(name, training, tmp_path, checkpoint="", statistics=None):
    lm = NoisyLM(0, name)
    lm.record.training = training
    lm.statistics = statistics or lm.statistics
    return Compared(name, tmp_path, find_convention("mean"), training=Training.of(lm, checkpoint))


def test_a_method_is_what_differs_in_its_seed_alone(tmp_path):
    told = [
        ("a2", {"seed": 2, "lr": 1}),
        ("b", {"seed": 0, "lr": 2}),
        ("a0", {"seed": 0, "lr": 1}),
        ("again", {"seed": 0, "lr": 1}),
        ("published", {}),
        ("other", {}),
    ]
    models = [trained(*each, tmp_path) for each in told]
    assert [m.described() for m in find_methods(models)] == [
        {"name": "a0 (2 seeds)", "models": ["a0", "a2"], "seeds": [0, 2]},
        {"name": "b", "models": ["b"], "seeds": [0]},
        {"name": "published", "models": ["published"], "seeds": []},
        {"name": "other", "models": ["other"], "seeds": []},
    ]
    assert [(other.name, first.name) for other, first in find_methods(models)[0].repeated] == [("again", "a0")]
    assert find_methods(models[1:3]) == find_methods(models[2:4]) == []


def test_what_a_method_is_and_what_leaves_it_as_it_is(tmp_path):
    def method(checkpoint="runs/x/final", statistics=None, **training):
        return trained("x", {"seed": 0, "lr": 1, **training}, tmp_path, checkpoint, statistics).training.method

    rows = {"rows_per_batch": 8, "accumulation": 2}
    one = method(**rows, model={"kernels": "torch"})
    assert method(rows_per_step=16, rows_per_batch=1, accumulation=1, model={"kernels": "liger"}) == one
    assert method(**rows, model={}, trackers=["wandb"], log_every=5, seed=3, checkpoint="moved/elsewhere") == one
    counts = np.arange(16)
    other_bpe = CodeStatistics((np.arange(20),), counts, 3)
    others = [
        method(**rows, model={}, rows_per_step=32),
        method(**rows, model={}, checkpoint="runs/x/checkpoints/step-50"),
        method(**rows, model={}, statistics=other_bpe),
        method(**rows, model={"init_from": "other"}),
    ]
    assert len({one, *others}) == 5


def test_trainings_of_one_method_are_taken_together(root, monkeypatch):
    noise = {"a1": 1, "a0": 0, "b": 3, "again": 2}
    known = {f"runs/{name}/final": NoisyLM(share, name) for name, share in noise.items()}
    for path, lm in known.items():
        lm.record.training = {"seed": int("a1" in path), "method": path[5]}
    monkeypatch.setattr("slm.spoken_lm.load_lm", lambda path, device, vocoder: known[path])
    monkeypatch.setattr("eval.run.check_models", lambda paths: None)
    write_lexical(root, random_lexical(40, 2, seed=5))
    main(config(root, model=list(known), benchmarks="swuggy", baselines="no"))
    out = root.parent / "out"
    compared = json.loads((out / "comparison.json").read_text())
    assert [m["name"] for m in compared["methods"]] == ["a0 (2 seeds)", "b"]
    assert compared["notes"] == ["again has the seed and the training of a0: over seeds, only a0 counts."]
    test = next(t for t in compared["method_tests"] if t["name"] == "all")
    value = {name: scores(out / name, "swuggy")["all", test["convention"]]["value"] for name in ("a0", "a1", "b")}
    assert value["a0"] != value["a1"]
    assert test["difference"] == pytest.approx(value["b"] - (value["a0"] + value["a1"]) / 2)
    assert (test["first"], test["second"]) == ("a0 (2 seeds)", "b")
    markdown = comparison_markdown(compared).split("## Over seeds")[1]
    mean, least, most = (100 * x for x in ((value["a0"] + value["a1"]) / 2, *sorted((value["a0"], value["a1"]))))
    assert f"| {mean:.1f} % ({least:.1f}–{most:.1f}) |" in markdown
    assert "b less a0 (2 seeds): swuggy dev, all" in markdown
    page = build_site([out], root.parent / "site").read_text()
    assert page.index("b less a0 (2 seeds)") < page.index("b less a0<")  # of few methods, before those of many models
    assert "A method is several trainings" in page
