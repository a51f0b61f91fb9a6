import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train_lm
from slm.training import estimate
from slm.training.config import OptimizerConfig
from slm.training.metrics import bits_per_s, nats_per_code
from slm.training.optimizer import learning_rate, make_optimizer
from tests.training.runs import config, reset_accelerate


def rates(config: OptimizerConfig, steps: int) -> list[float]:
    """Of a budget in steps, as the loop asks for them."""
    warm_at = config.warmup_steps / steps
    return [learning_rate(step, (step + 1) / steps, warm_at, config) for step in range(steps)]


def test_learning_rate_has_its_peak_its_middle_and_its_end():
    made = rates(OptimizerConfig(lr=2.0, final_lr_ratio=0.1, warmup_steps=10), 110)
    assert made[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert made[59] == pytest.approx(0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi * 50 / 100)))
    assert made[109] == pytest.approx(0.2)
    assert made[9:] == sorted(made[9:], reverse=True)
    for schedule in ("cosine", "linear", "wsd"):  # a last step may spend more than is left of the budget
        config = OptimizerConfig(lr=2.0, schedule=schedule, final_lr_ratio=0.1)
        assert learning_rate(999, 1.4, 0.1, config) == pytest.approx(0.2)


def test_a_linear_schedule_is_a_line():
    made = rates(OptimizerConfig(lr=1.0, schedule="linear", final_lr_ratio=0.0, warmup_steps=10), 110)
    assert made[9:] == pytest.approx([1 - i / 100 for i in range(101)])
    made = rates(OptimizerConfig(lr=1.0, schedule="linear", final_lr_ratio=0.0, warmup_steps=0), 100)
    assert made == pytest.approx([1 - (i + 1) / 100 for i in range(100)])


def test_wsd_holds_the_peak_and_falls_at_the_end():
    made = rates(OptimizerConfig(lr=1.0, schedule="wsd", final_lr_ratio=0.0, warmup_steps=10, decay_ratio=0.25), 100)
    assert made[9:75] == pytest.approx([1.0] * 66)
    assert made[75:] == pytest.approx([1 - (i + 1) / 25 for i in range(25)])
    long = rates(OptimizerConfig(lr=1.0, schedule="wsd", final_lr_ratio=0.0, warmup_steps=90, decay_ratio=0.25), 100)
    assert long[89:] == pytest.approx([1 - i / 10 for i in range(11)])  # no step down from the end of the warm-up


def test_a_warm_up_may_be_a_share_of_the_budget():
    config = OptimizerConfig(lr=1.0, schedule="linear", final_lr_ratio=0.0, warmup_ratio=0.2, warmup_steps=77)
    assert learning_rate(0, 0.05, None, config) == pytest.approx(0.25)
    assert learning_rate(500, 0.2, None, config) == pytest.approx(1.0)
    assert learning_rate(900, 0.6, None, config) == pytest.approx(0.5)


def test_only_matrices_decay():
    model = torch.nn.Sequential(torch.nn.Embedding(4, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 2))
    groups = make_optimizer(model, OptimizerConfig(weight_decay=0.3)).param_groups
    shapes = [(sorted(tuple(p.shape) for p in g["params"]), g["weight_decay"]) for g in groups]
    assert shapes == [([(2, 3), (4, 3)], 0.3), ([(2,), (3,), (3,)], 0.0)]


def test_units_of_the_numbers():
    made = nats_per_code("eval", [6.0, 2.0, 1.0], [4, 4, 2])
    assert made == {"eval_nats_per_code": 1.0, "eval_nats_per_end": 0.5, "eval_nats_per_code_0": 1.5,
                    "eval_nats_per_code_1": 0.5}  # fmt: skip
    assert nats_per_code("x", [3.0, 0.5], [1, 1]) == {"x_nats_per_code": 3.0, "x_nats_per_end": 0.5}
    assert nats_per_code("x", [3.0, 2.0, 0.0], [1, 1, 0])["x_nats_per_code_1"] == 2.0
    assert bits_per_s([6.0, 2.0, 1.0], 3.0) == pytest.approx(3.0 / math.log(2))


@pytest.mark.parametrize("budget", [None, "51 flops", "6 epochs", "30 s"])
def test_a_warm_up_that_is_longer_than_the_run_is_said(budget):
    c = config("corpus", Path("x"), steps=6, budget=budget, optimizer=OptimizerConfig(warmup_steps=8))
    spends = {"steps": 1, "codes": 5.0, "audio_s": 1.0, "epochs": 1.0, "flops": 10.0}
    said = estimate.warm_up_warnings(c, spends)
    if budget == "30 s":
        assert said == []  # how long a step takes is not known at the start
        said = estimate.warm_up_warnings(c, {**spends, "elapsed_s": 5.0})
    (line,) = said
    peak = max(learning_rate(step, (step + 1) / 6, None, c.optimizer) for step in range(6)) / c.optimizer.lr
    assert f"warmup_steps 8) is longer than the run, of 6 steps: the rate ends at {peak:.0%} of optimizer.lr" in line
    for enough in (OptimizerConfig(warmup_steps=6), OptimizerConfig(warmup_steps=8, warmup_ratio=0.1)):
        assert estimate.warm_up_warnings(replace(c, optimizer=enough), {**spends, "elapsed_s": 5.0}) == []


def test_a_warm_up_that_is_too_long_is_said_at_the_start_and_in_the_dry_run(corpora, tmp_path, capsys):
    for dry_run in (True, False):
        reset_accelerate()
        train_lm.main(config(corpora["two"], tmp_path / "run", steps=2, dry_run=dry_run))
        assert "warmup_steps 5) is longer than the run, of 2 steps" in capsys.readouterr().out
