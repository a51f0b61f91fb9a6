"""Any number of documents from one model: in batches of like length, order kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from slm.errors import UsageError
from slm.generation.decoder import Decoder
from slm.generation.drawing import Drawer, Grammar
from slm.generation.plan import Request
from slm.generation.run import Enough, Run
from slm.generation.sampling import Sampling
from slm.model.acoustic_lm import AcousticLM
from slm.patterns import Pattern

_ROUND_STEPS = 64  # sizes of static caches are multiples of it, so that few of them have to be compiled for


@dataclass(frozen=True)
class Speed:
    """How documents are computed; it changes none of them, but for rounding.

    `batch_size` at a time. `static_cache` has its full size from the start; `compile` compiles each step for it, which
    takes a minute once for each size and is worth it on a GPU, where a step becomes two captured graphs.
    """

    batch_size: int = 32
    compile: bool = False
    static_cache: bool = False

    def __post_init__(self) -> None:
        size = self.batch_size
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
            raise UsageError(f"batch_size must be a whole number of at least 1, not {size!r}")
        for name in ("compile", "static_cache"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise UsageError(f"{name} must be True or False, not {getattr(self, name)!r}")

    @property
    def fixed(self) -> bool:
        return self.compile or self.static_cache


class Generator:
    """Makes documents under the full layout of a pattern. What is compiled is kept from call to call."""

    def __init__(self, model: AcousticLM, pattern: Pattern, grammar: Grammar | None = None):
        self.model, self.pattern, self.grammar = model, pattern, grammar
        self._decoders: dict[tuple[int, int, bool, int], Decoder] = {}
        self._drawer: Drawer | None = None

    def make(self, requests: Sequence[Request], sampling: Sampling, speed: Speed = Speed(),
             enough: Sequence[Enough] | None = None) -> list[np.ndarray]:  # fmt: skip
        """Documents `[T, K]`, each with its prompt. `enough`: see `Run`."""
        made: dict[int, np.ndarray] = {}
        rows = min(speed.batch_size, len(requests))
        for group in self._groups(requests, sampling, speed.batch_size):
            filled = group + group[-1:] * (rows - len(group)) if speed.compile else group
            run = self.start([requests[i] for i in filled], sampling, speed,
                             None if enough is None else [enough[i] for i in filled])  # fmt: skip
            for _ in run:
                pass
            made |= {i: run.codes(row) for row, i in enumerate(group)}
        return [made[i] for i in range(len(requests))]

    def start(self, requests: Sequence[Request], sampling: Sampling, speed: Speed = Speed(),
              enough: Sequence[Enough] | None = None) -> Run:  # fmt: skip
        """One batch, to be iterated before another is started."""
        if self._drawer is None or self._drawer.sampling != sampling:
            self._drawer = Drawer(self.model, self.pattern, sampling, self.grammar)
        steps = max(self.pattern.num_steps(request.max_frames) for request in requests)
        branches = range(1 if sampling.guidance == 1 else 2)
        decoders = [self._decoder(len(requests), steps, speed, branch) for branch in branches]
        return Run(self._drawer, decoders, self.pattern, requests, enough)

    def _decoder(self, rows: int, steps: int, speed: Speed, branch: int) -> Decoder:
        if not speed.fixed:
            return Decoder(self.model, steps, static=False, compile=False)
        key = (rows, -(-steps // _ROUND_STEPS) * _ROUND_STEPS, speed.compile, branch)
        if key not in self._decoders:
            # Caches are large: those of another size make room.
            self._decoders = {k: d for k, d in self._decoders.items() if k[:3] == key[:3]}
            self._decoders[key] = Decoder(self.model, key[1], static=True, compile=speed.compile)
        self._decoders[key].restart()
        return self._decoders[key]

    def _groups(self, requests: Sequence[Request], sampling: Sampling, batch_size: int) -> Iterator[list[int]]:
        """Indices by length of the prompt. A much longer prompt begins a group of its own: walking through it would
        take more steps than making another batch. Shadows of guidance need prompts of the same length."""
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt), requests[i].max_frames))
        group: list[int] = []
        for i in order:
            prompt, most = len(requests[i].prompt), requests[i].max_frames
            first = requests[group[0]] if group else requests[i]
            far = prompt - len(first.prompt) > most - prompt
            unlike = sampling.guidance != 1 and (prompt, most) != (len(first.prompt), first.max_frames)
            if len(group) == batch_size or far or unlike:
                yield group
                group = []
            group.append(i)
        if group:
            yield group


def generate_codes(model: AcousticLM, pattern: Pattern, prompt: np.ndarray, max_frames: int, sampling: Sampling,
                   seed: int, grammar: Grammar | None = None, speed: Speed = Speed()) -> np.ndarray:  # fmt: skip
    """Continue `prompt [T, K]` to at most `max_frames` frames in all; the prompt is part of what is returned."""
    return Generator(model, pattern, grammar).make([Request(prompt, max_frames, seed)], sampling, speed)[0]
