"""Hidden states step by step, with a cache of keys and values: one that grows, or one of fixed size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from slm.model.acoustic_lm import AcousticLM
from slm.model.attention import plain_attention


class Decoder:
    """The body of a model over `rows` documents of up to `length` steps, all at the same step.

    `static`: the cache has its full size from the start, so that every step has the same shapes (transformers'
    StaticCache). `compile`: a step is compiled, on CUDA as a graph that is captured once (needs `static`).
    """

    def __init__(self, model: AcousticLM, length: int, static: bool, compile: bool):
        self.model, self.static = model, static
        self.compiled = compile
        self._config = model.causal_lm.base_model.config
        self._length = length
        self._trained_compiled = any(module._compiled_call_impl is not None for module in model.modules())
        self._step: Callable[..., Tensor] = compiled(self._hidden) if compile else self._hidden
        self._cache: Any = None
        self._fed = 0
        self.restart()

    def restart(self) -> None:
        """Forget all documents. A cache of fixed size is kept, and what is compiled for it with it."""
        from transformers import DynamicCache, StaticCache

        self._fed = 0
        if not self.static:
            self._cache = DynamicCache(config=self._config)
        elif self._cache is None:
            self._cache = StaticCache(config=self._config, max_cache_len=self._length)
        else:
            self._cache.reset()

    def feed(self, ids: Tensor) -> Tensor:
        """The next steps `[B, n, Q]` -> the hidden states of the last of them, `[B, H]`. Within `as_it_grows`."""
        run = self._step if ids.shape[1] == 1 and self._fed else self._hidden
        positions = torch.arange(self._fed, self._fed + ids.shape[1], device=ids.device)[None]
        self._fed += ids.shape[1]
        return run(ids, positions, self._cache)

    def _hidden(self, ids: Tensor, positions: Tensor, cache: Any) -> Tensor:
        return self.model.hidden_states(ids, positions, cache)[
            :, -1
        ].contiguous()  # the same strides after a prompt as after a step

    @contextmanager
    def as_it_grows(self) -> Iterator[None]:
        """A model in training may have weights in float32, and be compiled for rows of one length: nothing that was
        compiled for those is used, and plain attention takes the place of flash, flex and by documents."""
        backend = self._config._attn_implementation
        other = backend not in ("eager", "sdpa")  # else nothing is set, which takes transformers 4 % of a small step
        eager = self._trained_compiled and not self.compiled
        if other:
            self._config._attn_implementation = plain_attention(self.model.causal_lm.base_model)
        try:
            with torch.compiler.set_stance("force_eager") if eager else nullcontext():
                yield
        finally:
            if other:
                self._config._attn_implementation = backend


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled for fixed shapes; on CUDA it is one graph, captured at the second call."""
    return torch.compile(function, mode="reduce-overhead", dynamic=False)
