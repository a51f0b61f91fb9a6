"""From what a model says of the next step to the ids that stand there: only codes that may stand there can come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slm.generation.decoder import compiled
from slm.generation.noise import gumbel
from slm.generation.plan import KNOWN, MIXED
from slm.generation.sampling import Sampling, guide, penalize
from slm.model.acoustic_lm import AcousticLM
from slm.patterns import Pattern


@dataclass(frozen=True)
class Grammar:
    """Which units may follow which, where units are strings of codes of several codebooks: unit v may stand where
    codebook `begins[v]` is due, and `lengths[v]` codebooks later the next is. A document ends where 0 is due."""

    begins: np.ndarray
    lengths: np.ndarray
    num_codebooks: int


class Memory(NamedTuple):
    """What drawing depends on beside hidden states: `seen`, bool `[B, V]` of the joint vocabulary, for a repetition
    penalty; `due [B]`, the codebook that a grammar wants next."""

    seen: Tensor | None
    due: Tensor | None


class Drawer:
    """Draws the ids of a step, one stream after the other."""

    def __init__(self, model: AcousticLM, pattern: Pattern, sampling: Sampling, grammar: Grammar | None):
        device = next(model.parameters()).device
        self.model, self.sampling, self.grammar = model, sampling, grammar
        self.num_codebooks = pattern.num_codebooks
        self.eos = [v.eos_id for v in pattern.streams]
        self.sizes = [v.size for v in pattern.streams]
        self.offsets = np.cumsum([0, *self.sizes[:-1]]).tolist()
        self._offsets = torch.tensor(self.offsets, device=device)
        self.forbidden = [~table.to(device) for table in _allowed(pattern)]
        self.places = torch.arange(sum(self.sizes), device=device).split(self.sizes)
        self.begins = self.lengths = None
        if grammar is not None:
            specials = self.sizes[0] - len(grammar.begins)  # the end stands where codebook 0 does
            self.begins = torch.from_numpy(np.pad(grammar.begins, (0, specials)).astype(np.int64)).to(device)
            self.lengths = torch.from_numpy(np.pad(grammar.lengths, (0, specials)).astype(np.int64)).to(device)
            self._grammar_books = grammar.num_codebooks

    @cached_property
    def compiled_draw(self) -> Callable:
        return compiled(self.draw)

    def start(self, ids: Tensor) -> Memory:
        """After the steps `[S, B, Q]` that all documents begin with."""
        seen = due = None
        if self.sampling.repetition_penalty != 1:
            seen = torch.zeros(ids.shape[1], sum(self.sizes), dtype=torch.bool, device=ids.device)
            for one in ids:
                seen = self._see(seen, one)
        if self.lengths is not None:
            due = self.lengths[ids[1:, :, 0]].sum(dim=0) % self._grammar_books
        return Memory(seen, due)

    def draw(self, hidden: Tensor, placed: Tensor, kind: Tensor, if_ended: Tensor, keys: Tensor, memory: Memory,
             shared: Sequence[int] | None = None) -> tuple[Tensor, Tensor, Memory]:  # fmt: skip
        """Hidden states `[R, H]` (R = B, or 2 B where guided: those without the prompt come second), a step of a plan
        `[B, Q]`, keys `[B, 2]` of the noise -> ids `[B, Q]`, which documents were ended `[B]`, and what to remember.

        `shared [Q]`, of the plan too (`Plan.shared`), tells without asking a device what need not be done; it changes
        nothing.
        """
        logits_of = _heads(self.model, self.sizes, self.offsets, hidden)
        shared = shared or [MIXED] * len(self.eos)
        ended = torch.zeros(len(kind), dtype=torch.bool, device=kind.device)
        may_have_ended = False
        made: list[Tensor] = []
        for q, eos in enumerate(self.eos):
            logits = logits_of(made, len(hidden) // len(kind))
            if shared[q] == KNOWN:
                ids = placed[:, q]
            else:
                logits = self._possible(q, logits, shared[q] if shared[q] >= 0 else kind[:, q].clamp(min=0), memory)
                noise = None if self.sampling.temperature == 0 else gumbel(keys, self.places[q])
                ids = self.sampling.choose(logits, noise)
                ids = ids if shared[q] >= 0 else torch.where(kind[:, q] == KNOWN, placed[:, q], ids)
            if may_have_ended:
                ids = torch.where(ended & (if_ended[:, q] != KNOWN), if_ended[:, q], ids)
            if self.sampling.may_stop and shared[q] in (MIXED, self.num_codebooks):
                ended = ended | ((kind[:, q] == self.num_codebooks) & (ids == eos))
                may_have_ended = True
            made.append(ids)
        ids = torch.stack(made, dim=1)
        return ids, ended, self._remember(memory, ids)

    def _possible(self, q: int, logits: Tensor, kind: Tensor | int, memory: Memory) -> Tensor:
        """Logits `[R, V]` of a stream -> `[B, V]`, guided and penalized, -inf where nothing may come out. `kind` is one
        for all documents, or `[B]`."""
        if self.sampling.guidance != 1:
            conditional, unconditional = logits.chunk(2)
            logits = guide(conditional, unconditional, self.sampling.guidance)
        if memory.seen is not None:
            seen = memory.seen[:, self.offsets[q] : self.offsets[q] + self.sizes[q]]
            logits = penalize(logits, seen, self.sampling.repetition_penalty)
        forbidden = self.forbidden[q][kind]
        if memory.due is not None and self.begins is not None:
            forbidden = forbidden | (self.begins != memory.due[:, None])
        return logits.masked_fill(forbidden, float("-inf"))

    def _remember(self, memory: Memory, ids: Tensor) -> Memory:
        seen = None if memory.seen is None else self._see(memory.seen, ids)
        due = memory.due
        if due is not None and self.lengths is not None:
            due = (due + self.lengths[ids[:, 0]]) % self._grammar_books
        return Memory(seen, due)

    def _see(self, seen: Tensor, ids: Tensor) -> Tensor:
        joint = ids + self._offsets
        return seen.scatter(1, joint, torch.ones_like(joint, dtype=torch.bool))


def _allowed(pattern: Pattern) -> list[Tensor]:
    """For each stream bool `[K + 1, V_q]`: the codes of each codebook; last those of codebook 0 and the end."""
    books = pattern.num_codebooks
    tables = []
    for vocabulary in pattern.streams:
        table = torch.zeros(books + 1, vocabulary.size, dtype=torch.bool)
        for k, (offset, size) in enumerate(zip(pattern.id_offsets.tolist(), pattern.codebook_sizes, strict=True)):
            table[k, offset : offset + size] = True
        table[books] = table[0]
        table[books, vocabulary.eos_id] = True
        tables.append(table)
    return tables


def _heads(model: AcousticLM, sizes: Sequence[int], offsets: Sequence[int], hidden: Tensor) -> Any:
    """A function of the ids of the streams so far (each `[B]`) and how often they are repeated over the rows of hidden
    states `[R, H]` -> logits of the next stream, float32 `[R, V]`. A depth transformer keeps a cache from one to the
    next."""
    depth = getattr(model.causal_lm, "depth", None)
    if depth is None:
        side_by_side = model.logits_side_by_side(hidden)
        return lambda made, _: side_by_side[len(made)]
    from transformers import DynamicCache

    cache, inputs = DynamicCache(), depth.projection(hidden).unflatten(1, (len(sizes), depth.width))

    def logits_of(made: Sequence[Tensor], times: int) -> Tensor:
        q = len(made)
        entering = inputs[:, q]
        if made:
            before = (made[-1] + offsets[q - 1]).repeat(times)
            entering = entering + depth.model.get_input_embeddings()(before)
        state = depth.model(inputs_embeds=entering[:, None], past_key_values=cache, use_cache=True).last_hidden_state
        return F.linear(state[:, 0], depth.lm_head.weight[offsets[q] : offsets[q] + sizes[q]]).float()

    return logits_of
