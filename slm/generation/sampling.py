"""How the next code is drawn from logits. The order and the meaning of the filters are those of transformers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from slm.errors import UsageError

_NEVER = float("-inf")
_COLD = 1e-30  # a quotient would be infinite for others than the likeliest, and noise is nothing beside any difference


@dataclass(frozen=True)
class Sampling:
    """Logits are guided, penalized and divided by `temperature`; then the codes that are likely enough are kept.

    `temperature` 0 takes the likeliest code. `top_k` keeps the k likeliest, `top_p` the fewest that hold so much of
    the probability together (nucleus sampling, arXiv 1904.09751), `min_p` those at least so likely as this share of
    the likeliest (arXiv 2407.01082). `repetition_penalty` above 1 makes codes less likely that the stream holds
    already, the prompt included (CTRL, arXiv 1909.05858). `guidance` above 1 strengthens what the prompt makes of the
    document, by what the model says without it (classifier-free guidance, arXiv 2306.17806). `may_stop=False` forbids
    the end of the document, so that the length asked for is the length made.
    """

    temperature: float = 1.0
    top_k: int | None = None
    may_stop: bool = True
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        wrong = list(_complaints(self))
        if wrong:
            raise UsageError("; ".join(wrong))

    def filter(self, logits: Tensor) -> Tensor:
        """Logits `[..., V]` -> logits at this temperature (above 0), -inf where a code is not likely enough."""
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[..., -1:], _NEVER)
        if self.top_p is not None and self.top_p < 1:
            logits = _nucleus(logits, self.top_p)
        if self.min_p:
            floor = logits.amax(dim=-1, keepdim=True) + math.log(self.min_p)
            logits = logits.masked_fill(logits < floor, _NEVER)
        return logits

    def choose(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """Logits `[B, V]` (-inf where a code cannot stand) and Gumbel noise `[B, V]` -> codes `[B]`."""
        if self.temperature < _COLD or noise is None:
            return logits.argmax(dim=-1)
        return (self.filter(logits) + noise).argmax(dim=-1)


def _complaints(settings: Sampling) -> Iterator[str]:
    if not (settings.temperature >= 0 and math.isfinite(settings.temperature)):
        yield f"temperature must not be below 0, but is {settings.temperature}"
    if settings.top_k is not None and not (isinstance(settings.top_k, Integral) and settings.top_k >= 1):
        yield f"top_k must be a whole number of at least 1, not {settings.top_k}"
    for name in ("top_p", "min_p"):
        value = getattr(settings, name)
        if value is not None and not 0 < value <= 1:
            yield f"{name} must be above 0 and at most 1, not {value}"
    if not (settings.repetition_penalty > 0 and math.isfinite(settings.repetition_penalty)):
        yield f"repetition_penalty must be above 0 (1 for none), not {settings.repetition_penalty}"
    if not (settings.guidance >= 0 and math.isfinite(settings.guidance)):
        yield f"guidance must not be below 0 (1 for none), but is {settings.guidance}"


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    ordered, places = logits.sort(dim=-1, descending=True)
    shares = ordered.softmax(dim=-1)
    before = shares.cumsum(dim=-1) - shares
    ordered = ordered.masked_fill(before >= top_p, _NEVER)
    return torch.empty_like(logits).scatter_(-1, places, ordered)


def penalize(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits `[B, V]` made less likely where `seen`, bool `[B, V]`: divided where positive, else multiplied."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Two sets of logits `[B, V]`, with a condition and without -> `scale` times the step from the second to the
    first, in log-probabilities: 1 gives the conditional, 0 the unconditional."""
    with_it, without = conditional.log_softmax(dim=-1), unconditional.log_softmax(dim=-1)
    return without + scale * (with_it - without)
