"""Documents made step by step, many at a time.

All documents of a batch are at the same step. Where one is still given (a longer prompt) its ids are fed, not drawn:
so nothing is padded, no mask is needed, and each is made as if it were alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from slm.errors import UsageError
from slm.generation.decoder import Decoder
from slm.generation.drawing import Drawer
from slm.generation.noise import step_keys
from slm.generation.plan import Plan, Request
from slm.patterns import Pattern

Enough = Callable[[np.ndarray], bool]
CHECK_EVERY = 16  # steps between two questions whether there is enough: each waits for the device


class Run:
    """One batch. Iterating makes a step at a time and gives its number; `codes(row)` is what a document has become.

    `enough` may end documents of one codebook, flat: the shortest beginning (longer than the prompt) of which
    `enough[row](codes)` is true. It must stay true for longer ones.
    """

    def __init__(self, drawer: Drawer, decoders: Sequence[Decoder], pattern: Pattern, requests: Sequence[Request],
                 enough: Sequence[Enough] | None = None):  # fmt: skip
        self.drawer, self.decoders, self.pattern = drawer, decoders, pattern
        self.plan = Plan(pattern, requests, drawer.sampling.may_stop)
        self.enough = enough
        self._checked = [len(request.prompt) for request in requests]
        self._settled = [enough is None] * len(requests)
        self._device = next(drawer.model.parameters()).device
        self._placed, self._kind, self._if_ended = (
            torch.from_numpy(a).to(self._device) for a in (self.plan.placed, self.plan.kind, self.plan.if_ended)
        )
        keys = np.stack([step_keys(request.seed, self.plan.num_steps) for request in requests], axis=1)
        self._keys = torch.from_numpy(keys).to(self._device)
        self.steps = self._placed.clone()
        self._shadow = Shadow(pattern, requests[0], self.steps) if len(decoders) == 2 else None
        self._last = max(map(self.plan.last_step, range(len(requests))))
        self._step = 0
        self._whole_at: dict[tuple[int, int], np.ndarray] = {}

    @torch.no_grad()
    def __iter__(self) -> Iterator[int]:
        step = self.plan.first_step
        memory = self.drawer.start(self.steps[:step])
        fed = 0
        draw = self._draw_function()
        while step < self._last:
            self._mark()
            with self.decoders[0].as_it_grows():
                ids, ended, memory = draw(self._hidden(fed, step), self._placed[step], self._kind[step],
                                          self._if_ended[step], self._keys[step], memory,
                                          None if self._compiled else self.plan.shared(step))  # fmt: skip
            self.steps[step] = ids
            if self._compiled:  # the next step would overwrite them
                memory = type(memory)(*(None if m is None else m.clone() for m in memory))
            if (self.plan.kind[step] == self.pattern.num_codebooks).any():
                self._end(step, ended)
            self._step = fed = step
            step += 1
            if self.enough is not None and ((step - 1) % CHECK_EVERY == 0 or step == self._last):
                self._settle(step - 1)
            yield step - 1

    def codes(self, row: int, frames: int | None = None) -> np.ndarray:
        """A document `[T, K]`, or its first `frames`, as far as they are whole."""
        most = self.plan.frames[row]
        steps = self.steps[: self.pattern.num_steps(most), row].cpu().numpy()
        return self.pattern.invert(steps, most)[:frames]

    def whole_frames(self, row: int) -> int:
        """How many frames of a document have all their codes by now."""
        frames = self.plan.frames[row]
        if (row, frames) not in self._whole_at:
            layout = self.pattern.layout(frames)
            steps, streams = np.nonzero(layout >= 0)
            last = np.zeros(frames, np.int64)
            np.maximum.at(last, layout[steps, streams] // self.pattern.num_codebooks, steps)
            self._whole_at[row, frames] = np.maximum.accumulate(last)
        return int(np.searchsorted(self._whole_at[row, frames], self._step, side="right"))

    @property
    def _compiled(self) -> bool:
        return self.decoders[0].compiled

    def _draw_function(self) -> Callable:
        return self.drawer.compiled_draw if self._compiled else self.drawer.draw

    def _mark(self) -> None:
        if self._compiled and self._device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()

    def _hidden(self, fed: int, step: int) -> Tensor:
        """Feed the steps that are known by now: hidden states `[B, H]`, or `[2 B, H]` where guided."""
        hidden = self.decoders[0].feed(self.steps[fed:step].transpose(0, 1))
        if self._shadow is None:
            return hidden
        other = self.decoders[1].feed(self._shadow.ids(fed, step).transpose(0, 1))
        return torch.cat([hidden, other])

    def _end(self, step: int, ended: Tensor) -> None:
        """Lay out anew what has ended at a step (here a GPU is waited for)."""
        for row in ended.nonzero()[:, 0].tolist():
            if self.enough is not None and self._settled[row]:
                continue
            self.plan.end(row, step, self.plan.frame_due(row, step))
            later = (self._placed, self.plan.placed), (self._kind, self.plan.kind), (self.steps, self.plan.placed)
            for mine, planned in later:
                mine[step + 1 :, row] = torch.from_numpy(planned[step + 1 :, row]).to(self._device)
        self._last = max(map(self.plan.last_step, range(len(self.plan.frames))))

    def _settle(self, step: int) -> None:
        """Which documents, whose units stand at steps 1 to `step`, have enough of them."""
        assert self.enough is not None
        made = self.steps[1 : step + 1].cpu().numpy()
        for row, enough in enumerate(self.enough):
            here = min(step, self.plan.frames[row])
            units = made[:here, row]
            if self._settled[row] or here <= self._checked[row] or not enough(units):
                self._checked[row] = max(self._checked[row], here)
                continue
            self.plan.frames[row] = next(n for n in range(self._checked[row] + 1, here + 1) if enough(units[:n]))
            self._settled[row] = True
        self._last = max(map(self.plan.last_step, range(len(self._settled))))


class Shadow:
    """The documents of a batch as they would be without their prompt, for guidance: the same steps, `shift` earlier.

    UsageError where a pattern moves what comes after the prompt in another way.
    """

    def __init__(self, pattern: Pattern, request: Request, steps: Tensor):
        heard, frames = len(request.prompt), request.max_frames
        if not heard:
            raise UsageError("guidance compares with and without the prompt: give one, or set guidance to 1")
        whole, rest = pattern.layout(frames), pattern.layout(frames - heard)
        self.shift = len(whole) - len(rest)
        given = heard * pattern.num_codebooks
        mine = whole[self.shift + 1 :]
        if not np.array_equal(np.where(mine >= given, mine - given, -1), np.maximum(rest[1:], -1)):
            raise UsageError(f"no guidance under pattern {pattern.name!r}: in it the prompt does not come first")
        self._steps = steps
        on = steps.device
        ids = torch.tensor([[v.bos_id, v.empty_id] for v in pattern.streams], device=on)
        self._bos, self._empty = ids[:, 0], ids[:, 1]
        self._is_prompt = torch.from_numpy((whole >= 0) & (whole < given)).to(on)

    def ids(self, fed: int, step: int) -> Tensor:
        """Ids `[n, B, Q]` of the shadows of steps `fed` to `step`."""
        start = max(fed, self.shift)
        made = torch.where(self._is_prompt[start:step, None], self._empty, self._steps[start:step])
        if start == self.shift:
            made[0] = self._bos
        return made
