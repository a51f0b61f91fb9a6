"""The loss without logits, against plain cross-entropy of all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from slm.model import loss
from slm.model.loss import linear_nll


def inputs(rows=50, width=12, vocabulary=30, dtype=torch.float64, bias=False, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    targets = torch.randint(vocabulary, (rows,), generator=generator)
    weights = torch.rand(rows, generator=generator) * (torch.rand(rows, generator=generator) > 0.2)
    return normal(rows, width), normal(vocabulary, width), normal(vocabulary) if bias else None, targets, weights


def plain(hidden, weight, bias, targets, softcap=None):
    logits = F.linear(hidden, weight, bias)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="none"
    ), logits


@pytest.fixture
def few_rows(monkeypatch):
    """Chunks of 7 rows, so that the last one is short; and a vocabulary that is padded, as on a GPU."""
    monkeypatch.setattr(loss, "MIN_CHUNK_ROWS", 7)
    monkeypatch.setattr(loss, "CHUNK_LOGITS", {"cpu": 1})
    monkeypatch.setattr(loss, "ALIGNED", {"cpu": 8})


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_those_of_plain_cross_entropy(few_rows, bias, softcap):
    hidden, weight, b, targets, weights = inputs(bias=bias)
    parameters = [p for p in (hidden, weight, b) if p is not None]
    nlls, logits = plain(hidden, weight, b, targets, softcap)
    expected = torch.autograd.grad((nlls * weights).sum() * 2.5, parameters)
    weighted, made, hits = linear_nll(hidden, weight, b, targets, weights, softcap, with_hits=True)
    torch.testing.assert_close(weighted, (nlls * weights).sum())
    torch.testing.assert_close(made, nlls.detach())
    assert torch.equal(hits, logits.argmax(dim=-1) == targets)
    assert 0 < hits.sum() < len(hits)
    assert not made.requires_grad
    for one, other in zip(torch.autograd.grad(weighted * 2.5, parameters), expected, strict=True):
        torch.testing.assert_close(one, other)
    frozen, _, _ = linear_nll(hidden, weight.detach(), b, targets, weights, softcap)
    torch.testing.assert_close(torch.autograd.grad(frozen * 2.5, hidden)[0], expected[0])


def test_compiled_it_is_the_same(few_rows, monkeypatch):
    """Captured whole, without a break; inductor's own code is for GPUs."""
    captured = torch.compile(loss._of_rows, dynamic=True, fullgraph=True, backend="aot_eager")
    monkeypatch.setattr(loss, "_compiled_rows", lambda: captured)
    hidden, weight, b, targets, weights = inputs(bias=True)
    made = [linear_nll(hidden, weight, b, targets, weights, 3.0, True, compiled) for compiled in (False, True)]
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other)
    gradients = [torch.autograd.grad(value, [hidden, weight, b]) for value, *_ in made]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_one_weight_matrix_in_several_losses_gets_the_sum_of_gradients():
    hidden, weight, _, targets, weights = inputs()
    made, expected = hidden.new_zeros(()), hidden.new_zeros(())
    for head in weight.split([10, 20]):
        here = targets % len(head)
        made = made + linear_nll(hidden, head, None, here, weights)[0]
        expected = expected + (plain(hidden, head, None, here)[0] * weights).sum()
    gradients = [torch.autograd.grad(value, [hidden, weight]) for value in (made, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_in_bf16_the_loss_is_that_of_bf16_logits_and_gradients_are_no_worse(few_rows):
    """Autocast: the product in bf16, all else in float32. Errors are against float64."""
    hidden, weight, _, targets, weights = inputs(rows=200, width=64, dtype=torch.float32)
    exact = [p.detach().double().requires_grad_() for p in (hidden, weight)]
    truth = torch.autograd.grad((plain(*exact, None, targets)[0] * weights).sum(), exact)
    with torch.autocast("cpu", torch.bfloat16):
        nlls, _ = plain(hidden, weight, None, targets)
        weighted, made, _ = linear_nll(hidden, weight, None, targets, weights)
    assert made.dtype == weighted.dtype == torch.float32
    torch.testing.assert_close(made, nlls.detach())
    usual = torch.autograd.grad((nlls * weights).sum(), [hidden, weight])
    fused = torch.autograd.grad(weighted, [hidden, weight])
    for one, other, exactly in zip(fused, usual, truth, strict=True):
        assert one.dtype == torch.float32
        assert (one - exactly).norm() < 1.1 * (other - exactly).norm()


def test_nothing_to_predict_costs_nothing_and_has_gradients():
    hidden, weight, _, targets, weights = inputs(rows=0)
    weighted, nlls, hits = linear_nll(hidden, weight, None, targets, weights, with_hits=True)
    assert weighted == 0
    assert nlls.shape == hits.shape == (0,)
    weighted.backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_logits_are_never_whole_and_no_gradient_is_made_where_none_is_asked(monkeypatch, few_rows):
    sizes, made = [], []
    logits, gradient = loss._finished, loss._add_gradients
    monkeypatch.setattr(loss, "_finished", lambda *a: sizes.append(len(a[0])) or logits(*a))
    monkeypatch.setattr(loss, "_add_gradients", lambda *a: made.append(1) or gradient(*a))
    arguments = inputs()
    with torch.no_grad():
        linear_nll(*arguments)
    assert (sizes, made) == ([7] * 7 + [1], [])
    linear_nll(*arguments)
    assert len(made) == 8
