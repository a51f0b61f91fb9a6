"""How the next code is drawn from logits. The order and the meaning of the filters are those of transformers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slm.errors import UsageError, did_you_mean

_NEVER = float("-inf")
_HOT = 1e30  # far beyond it -inf is divided by what float32 takes for infinity: NaN, and any code could come out
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


def sampling_of(**settings: Any) -> Sampling:
    """The `Sampling` of these fields. UsageError that names what is right where one is not a field."""
    known = [field.name for field in fields(Sampling)]
    if "sampling" in settings:
        raise UsageError("for one document give the fields of Sampling themselves, such as temperature=0.8, top_p=0.95")
    if wrong := [name for name in settings if name not in known]:
        raise UsageError(f"Sampling has no {wrong[0]!r}{did_you_mean(wrong[0], known)}; it has {', '.join(known)}")
    return Sampling(**settings)


def _complaints(settings: Sampling) -> Iterator[str]:
    """Of types first: what is no number cannot be compared with one."""
    wrong = list(_wrong_types(settings))
    yield from wrong or _wrong_values(settings)


def _wrong_types(settings: Sampling) -> Iterator[str]:
    if not isinstance(settings.may_stop, bool | np.bool_):
        yield f"may_stop must be True or False, not {settings.may_stop!r}"
    for name in ("temperature", "top_p", "min_p", "repetition_penalty", "guidance"):
        value, may_be_none = getattr(settings, name), name in ("top_p", "min_p")
        if not (isinstance(value, Real) and not isinstance(value, bool)) and not (value is None and may_be_none):
            yield f"{name} must be a number{' or None' if may_be_none else ''}, not {value!r}"
    if isinstance(settings.top_k, bool):
        yield f"top_k must be a whole number of at least 1, not {settings.top_k}"


def _wrong_values(settings: Sampling) -> Iterator[str]:
    if not 0 <= settings.temperature <= _HOT:
        yield f"temperature must be from 0 to {_HOT:g}, not {settings.temperature}"
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
