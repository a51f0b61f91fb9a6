"""Sampling codes step by step, where only codes that the pattern allows can come out.

The schedule is the pattern's own layout: at each step and stream it says which codebook is due, or that BOS or EMPTY
stands there. The end of the document may be drawn where a frame's first code is due; from then on the layout of the
now known length applies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slm.errors import UsageError
from slm.model.acoustic_lm import AcousticLM
from slm.patterns import EMPTY, Pattern


@dataclass(frozen=True)
class Sampling:
    """How the next code is drawn: logits / `temperature`, then the `top_k` likeliest. Temperature 0 is greedy.

    `may_stop=False` forbids the end of the document, so that the length asked for is the length made.
    """

    temperature: float = 1.0
    top_k: int | None = None
    may_stop: bool = True

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UsageError(f"temperature must not be below 0, but is {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top_k must be at least 1, not {self.top_k}")

    def draw(self, logits: Tensor, generator: torch.Generator) -> int:
        """Logits `[V]` (already masked with -inf) -> an index. Drawn on the CPU, so that a seed means the same on
        every device."""
        logits = logits.float().cpu()
        if self.temperature == 0:
            return int(logits.argmax())
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < len(logits):
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[-1], float("-inf"))
        return int(torch.multinomial(logits.softmax(dim=0), 1, generator=generator))


@torch.no_grad()
def generate_codes(model: AcousticLM, pattern: Pattern, prompt: np.ndarray, max_frames: int, sampling: Sampling,
                   seed: int, enough: Callable[[np.ndarray], bool] | None = None,
                   allowed: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:  # fmt: skip
    """Continue `prompt [T, K]` to at most `max_frames` frames in all; the prompt is part of what is returned.

    For one codebook, where every step ends a frame, what has been made so far may decide: `enough(codes)` whether to
    stop, `allowed(codes)`, bool `[V + 1]`, which code may come next, or (last) the end.
    """
    from transformers import DynamicCache

    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    num_frames = max_frames
    schedule = pattern.layout(max_frames)
    known = (prompt.astype(np.int64) + pattern.id_offsets).reshape(-1)
    steps = pattern.place(schedule, known)
    first = int(np.argmax((schedule >= len(known)).any(axis=1)))
    cache, fed = DynamicCache(), 0
    with _as_it_grows(model):
        for step in range(first, pattern.num_steps(max_frames)):
            if step >= pattern.num_steps(num_frames):
                break
            ids, positions = torch.from_numpy(steps[None, fed:step]), torch.arange(fed, step)[None]
            hidden = model.hidden_states(ids.to(device), positions.to(device), cache)[:, -1]
            fed = step
            for q in range(len(pattern.streams)):
                if schedule[step, q] < len(known):
                    continue
                due = int(schedule[step, q])
                may_stop = sampling.may_stop and due // pattern.num_codebooks > len(prompt)
                logits = model.stream_logits(hidden, torch.from_numpy(steps[None, step, :q]).to(device))[0]
                if allowed is not None:
                    may_follow = torch.from_numpy(allowed(steps[1:step])).to(device)
                    logits[: len(may_follow)].masked_fill_(~may_follow, float("-inf"))
                steps[step, q], stopped = _draw(pattern, q, due, logits, sampling, may_stop, generator)
                if stopped:
                    num_frames = due // pattern.num_codebooks
                    schedule = _pad(pattern.layout(num_frames), len(schedule))
                    placed = pattern.place(schedule, known)
                    steps[step + 1 :], steps[step, q + 1 :] = placed[step + 1 :], placed[step, q + 1 :]
            if enough is not None and num_frames == max_frames and enough(steps[1 : step + 1]):
                num_frames = step
                break
    return pattern.invert(steps[: pattern.num_steps(num_frames)], num_frames)


@contextmanager
def _as_it_grows(model: AcousticLM) -> Iterator[None]:
    """Lengths change with every step, and a model in training may have weights in float32: nothing is compiled for
    them, and sdpa takes the place of flash and flex attention."""
    config = model.causal_lm.base_model.config
    backend = config._attn_implementation
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    config._attn_implementation = "eager" if backend == "eager" else "sdpa"
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield
    finally:
        config._attn_implementation = backend


def _pad(layout: np.ndarray, num_steps: int) -> np.ndarray:
    return np.pad(layout, ((0, num_steps - len(layout)), (0, 0)), constant_values=EMPTY)


def _draw(pattern: Pattern, stream: int, due: int, logits: Tensor, sampling: Sampling, may_stop: bool,
          generator: torch.Generator) -> tuple[int, bool]:  # fmt: skip
    """The id of the code that is due, and whether the document was ended instead. A document ends between frames,
    so only where the first codebook is due, and only under a pattern whose layout does not depend on the length."""
    codebook = due % pattern.num_codebooks
    offset, eos = int(pattern.id_offsets[codebook]), pattern.streams[stream].eos_id
    allowed = torch.full_like(logits, float("-inf"))
    span = slice(offset, offset + pattern.codebook_sizes[codebook])
    allowed[span] = logits[span]
    if may_stop and pattern.open_ended and codebook == 0:
        allowed[eos] = logits[eos]
    drawn = sampling.draw(allowed, generator)
    return drawn, drawn == eos
