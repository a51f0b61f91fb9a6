from __future__ import annotations

import pytest

from slm.errors import UsageError
from slm.training.budget import Budget, Progress, duration_text


@pytest.mark.parametrize(
    ("text", "amount", "field"),
    [
        ("24h", 86400, "elapsed_s"), ("90 min", 5400, "elapsed_s"), ("1.5 d", 129600, "elapsed_s"),
        ("30s", 30, "elapsed_s"), ("50k steps", 50_000, "steps"), ("1.4G tokens", 1.4e9, "codes"),
        ("145k audio-h", 145_000 * 3600, "audio_s"), ("2.6 epochs", 2.6, "epochs"), ("1e19 flops", 1e19, "flops"),
        ("1 step", 1, "steps"), ("7M codes", 7e6, "codes"), ("3 token", 3, "codes"), ("5 audio-s", 5, "audio_s"),
        ("2 flop", 2, "flops"), ("1 epoch", 1, "epochs"), ("2.5e-1 epochs", 0.25, "epochs"),
        ("3T tokens", 3e12, "codes"),
    ],
)  # fmt: skip
def test_budgets_are_read(text, amount, field):
    made = Budget.parse(text)
    assert (made.amount, made.field) == (pytest.approx(amount), field)


@pytest.mark.parametrize(
    "text",
    ["", "24", "h", "24 fortnights", "-1h", "0 steps", "1.5 steps", "1..2h", "24H", "1e400 steps", "1e309 tokens"],
)
def test_what_is_no_budget_is_one_line_with_the_remedy(text):
    with pytest.raises(UsageError, match="budget") as caught:
        Budget.parse(text)
    assert "\n" not in str(caught.value)


def test_durations_are_told_in_the_unit_that_has_digits():
    told = {12.84: "12.8 s", 99: "99 s", 100: "1.67 min", 570: "9.5 min", 5999: "100 min", 6000: "1.7 h",
            145_000 * 3600: "145,000.0 h"}  # fmt: skip
    assert {seconds: duration_text(seconds) for seconds in told} == told


def test_progress_adds_up_and_the_budget_ends_it():
    budget, progress = Budget.parse("250 tokens"), Progress()
    fractions = []
    while not budget.is_spent(progress):
        progress = progress.after_step(
            codes=100, audio_s=2.0, epochs=0.1 * (progress.steps + 1), flops=5.0, elapsed_s=1
        )
        fractions.append(budget.fraction(progress))
    assert fractions == pytest.approx([0.4, 0.8, 1.0])
    assert (progress.steps, progress.codes, progress.audio_s, progress.flops) == (3, 300, 6.0, 15.0)
    assert progress.epochs == pytest.approx(0.3)
