"""Cross-entropy straight from hidden states: the logits of a batch, its largest tensor by far, never exist at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**25}  # 16 MB in float32; a GPU wants much to do at once
ALIGNED = {"cuda": 8}  # GPUs multiply half-precision matrices several times slower where rows are not whole 16 bytes
MIN_CHUNK_ROWS = 256  # or a large vocabulary's gradient would be gone over too often


def linear_nll(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weights: Tensor | None = None,
    softcap: float | None = None,
    with_hits: bool = False,
    compiled: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cross-entropy of softmax(hidden weight^T + bias): hidden `[N, H]`, weight `[V, H]`, targets and weights `[N]`.

    Returns the sum of weights times nats (a scalar, the only output with a gradient), the nats `[N]` in float32 at
    least, and whether each target was the likeliest `[N]`, where asked for. The logits exist for a few rows at a
    time, and their gradient is made while they do (as in Liger, arXiv 2410.10989): nothing is computed twice.
    `softcap` is Gemma's: logits become c tanh(logits / c). `compiled`: what is done to the logits is one or two
    kernels of torch.compile, for GPUs.
    """
    needs_gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    if weights is None:
        weights = hidden.new_zeros(len(hidden), dtype=torch.float32)
    return _LinearNLL.apply(hidden, weight, bias, targets, weights, softcap, with_hits, compiled,
                            needs_gradient)  # fmt: skip


class _LinearNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, weights: Tensor,
                softcap: float | None, with_hits: bool, compiled: bool, needs_gradient: bool) -> Any:  # fmt: skip
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else torch.promote_types(hidden.dtype, weight.dtype)
        exact = torch.promote_types(dtype, torch.float32)
        inputs, matrix = hidden.to(dtype), _with_aligned_rows(weight.to(dtype))
        nll = torch.empty(len(hidden), dtype=exact, device=hidden.device)
        hits = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device) if with_hits else None
        grads = None
        if needs_gradient:
            grads = (torch.empty_like(hidden), torch.zeros_like(matrix, dtype=exact),
                     None if bias is None else torch.zeros_like(bias, dtype=exact))  # fmt: skip
        size = max(MIN_CHUNK_ROWS, CHUNK_LOGITS.get(device, CHUNK_LOGITS["cpu"]) // len(weight))
        of_rows = _compiled_rows() if compiled else _of_rows
        with torch.autocast(device, enabled=False):
            for start in range(0, len(hidden), size):
                rows = slice(start, start + size)
                nll[rows], found, gradient, of_bias = of_rows(
                    inputs[rows],
                    matrix,
                    bias,
                    targets[rows],
                    weights[rows],
                    len(weight),
                    softcap,
                    with_hits,
                    needs_gradient,
                )
                if hits is not None:
                    hits[rows] = found
                if grads is not None:
                    _add_gradients(grads, rows, gradient, of_bias, inputs[rows], matrix)
        if grads is not None:
            of_hidden, of_weight, of_bias = grads
            ctx.save_for_backward(of_hidden.to(hidden.dtype), of_weight[: len(weight)].to(weight.dtype),
                                  None if of_bias is None else of_bias.to(weight.dtype))  # fmt: skip
        ctx.mark_non_differentiable(nll, *(() if hits is None else (hits,)))
        return (nll * weights).sum(), nll, hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        made = [None if g is None else g * gradient.to(g.dtype) for g in ctx.saved_tensors]
        return *made, None, None, None, None, None, None


def head_logits(inputs: Tensor, matrix: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """`[N, H]`, `[V, H]` -> `[N, V]`, in float32 at least."""
    return _finished(F.linear(inputs, matrix, None if bias is None else bias.to(matrix.dtype)), softcap)


def _finished(logits: Tensor, softcap: float | None) -> Tensor:
    made = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return made if softcap is None else softcap * torch.tanh(made / softcap)


def _with_aligned_rows(matrix: Tensor) -> Tensor:
    """`[V, H]`, and rows of zeros that make V a multiple of what the device wants."""
    return F.pad(matrix, (0, 0, 0, -len(matrix) % ALIGNED.get(matrix.device.type, 1)))


def _of_rows(inputs: Tensor, matrix: Tensor, bias: Tensor | None, targets: Tensor, weights: Tensor, vocabulary: int,
             softcap: float | None, with_hits: bool, with_gradient: bool) -> tuple[Tensor, Any, Any, Any]:  # fmt: skip
    """Of a few rows: nats `[n]`, hits `[n]`, and the gradients of weights times nats by the logits before the soft cap
    `[n, len(matrix)]`, (probabilities - one-hot targets) x weights, in the dtype of `matrix`, and by the bias `[V]`.
    Rows of `matrix` beyond the vocabulary are nobody's logits."""
    products = F.linear(inputs, matrix)[:, :vocabulary]
    logits = _finished(products if bias is None else products + bias.to(matrix.dtype), softcap)
    hits = logits.argmax(dim=-1) == targets if with_hits else None
    log_probs = logits.log_softmax(dim=-1)
    nll = -log_probs.gather(1, targets[:, None])[:, 0]
    if not with_gradient:
        return nll, hits, None, None
    is_target = torch.arange(vocabulary, device=targets.device) == targets[:, None]
    gradient = log_probs.exp_().sub_(is_target.to(log_probs.dtype)).mul_(weights[:, None])
    if softcap is not None:
        gradient *= 1 - (logits / softcap) ** 2
    of_bias = None if bias is None else gradient.sum(dim=0)
    return nll, hits, F.pad(gradient.to(matrix.dtype), (0, len(matrix) - vocabulary)), of_bias


@cache
def _compiled_rows() -> Callable[..., tuple[Tensor, Any, Any, Any]]:
    return torch.compile(_of_rows, dynamic=True)


def _add_gradients(grads: tuple[Tensor, Tensor, Tensor | None], rows: slice, gradient: Tensor, of_bias: Any,
                   inputs: Tensor, matrix: Tensor) -> None:  # fmt: skip
    of_hidden, of_weight, total_of_bias = grads
    of_hidden[rows] = gradient @ matrix
    if of_weight.dtype == matrix.dtype:
        of_weight.addmm_(gradient.T, inputs)
    else:
        of_weight += gradient.T @ inputs
    if total_of_bias is not None:
        total_of_bias += of_bias
