"""Cross-entropy straight from hidden states: the logits of a batch, its largest tensor by far, never exist at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK_LOGITS = 2**22  # 16 MB in float32
MIN_CHUNK_ROWS = 256  # or a large vocabulary's gradient would be gone over too often


def linear_nll(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weights: Tensor | None = None,
    softcap: float | None = None,
    with_hits: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cross-entropy of softmax(hidden weight^T + bias): hidden `[N, H]`, weight `[V, H]`, targets and weights `[N]`.

    Returns the sum of weights times nats (a scalar, the only output with a gradient), the nats `[N]` in float32 at
    least, and whether each target was the likeliest `[N]`, where asked for. The logits exist for a few rows at a
    time, and their gradient is made while they do (as in Liger, arXiv 2410.10989): nothing is computed twice.
    `softcap` is Gemma's: logits become c tanh(logits / c).
    """
    needs_gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    if weights is None:
        weights = hidden.new_zeros(len(hidden), dtype=torch.float32)
    return _LinearNLL.apply(hidden, weight, bias, targets, weights, softcap, with_hits, needs_gradient)


class _LinearNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, weights: Tensor,
                softcap: float | None, with_hits: bool, needs_gradient: bool) -> Any:  # fmt: skip
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else torch.promote_types(hidden.dtype, weight.dtype)
        exact = torch.promote_types(dtype, torch.float32)
        inputs, matrix = hidden.to(dtype), weight.to(dtype)
        nll = torch.empty(len(hidden), dtype=exact, device=hidden.device)
        hits = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device) if with_hits else None
        grads = None
        if needs_gradient:
            grads = (torch.empty_like(hidden), torch.zeros_like(weight, dtype=exact),
                     None if bias is None else torch.zeros_like(bias, dtype=exact))  # fmt: skip
        size = max(MIN_CHUNK_ROWS, CHUNK_LOGITS // len(weight))
        with torch.autocast(device, enabled=False):
            for start in range(0, len(hidden), size):
                rows = slice(start, start + size)
                logits = head_logits(inputs[rows], matrix, bias, softcap)
                if hits is not None:
                    hits[rows] = logits.argmax(dim=-1) == targets[rows]
                log_probs = logits.log_softmax(dim=-1)
                nll[rows] = -log_probs.gather(1, targets[rows, None])[:, 0]
                if grads is not None:
                    gradient = _logit_gradient(log_probs, targets[rows], weights[rows])
                    if softcap is not None:
                        gradient *= 1 - (logits / softcap) ** 2
                    _add_gradients(grads, rows, gradient, inputs[rows], matrix)
        if grads is not None:
            dtypes = (hidden.dtype, weight.dtype, weight.dtype)
            ctx.save_for_backward(*(None if g is None else g.to(d) for g, d in zip(grads, dtypes, strict=True)))
        ctx.mark_non_differentiable(nll, *(() if hits is None else (hits,)))
        return (nll * weights).sum(), nll, hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        made = [None if g is None else g * gradient.to(g.dtype) for g in ctx.saved_tensors]
        return *made, None, None, None, None, None


def head_logits(inputs: Tensor, matrix: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """`[N, H]`, `[V, H]` -> `[N, V]`, in float32 at least."""
    made = F.linear(inputs, matrix, None if bias is None else bias.to(matrix.dtype))
    made = made.to(torch.promote_types(made.dtype, torch.float32))
    return made if softcap is None else softcap * torch.tanh(made / softcap)


def _logit_gradient(log_probs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Of weights times nats: (probabilities - one-hot targets) x weights. Overwrites `log_probs`."""
    gradient = log_probs.exp_()
    gradient.scatter_add_(1, targets[:, None], -torch.ones_like(gradient[:, :1]))
    return gradient.mul_(weights[:, None])


def _add_gradients(grads: tuple[Tensor, Tensor, Tensor | None], rows: slice, gradient: Tensor, inputs: Tensor,
                   matrix: Tensor) -> None:  # fmt: skip
    of_hidden, of_weight, of_bias = grads
    narrow = gradient.to(matrix.dtype)
    of_hidden[rows] = narrow @ matrix
    if of_weight.dtype == matrix.dtype:
        of_weight.addmm_(narrow.T, inputs)
    else:
        of_weight += narrow.T @ inputs
    if of_bias is not None:
        of_bias += gradient.sum(dim=0)
