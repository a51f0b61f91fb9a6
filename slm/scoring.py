"""Log-probabilities of many documents at once: packed in rows, sorted by length, a common beginning computed once.

Documents are laid in rows as trees (`slm.data.trees`): each step attends to its own way back to the root. Long ones
that share nothing have a row each, beside others about as long, where attention is causal and needs no mask. Which
documents are scored together, and in batches of which size, changes float32 results in their last bits only; in which
order they are given, nothing at all. Equal documents are one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from slm.data.trees import MIN_ROW, MIN_SHARED, Rows, find_families, lay_out, pack_families
from slm.devices import exact_float32, sent
from slm.errors import is_out_of_memory
from slm.patterns import EOS, Pattern

if TYPE_CHECKING:
    import torch

    from slm.model.acoustic_lm import AcousticLM

Precision = Literal["float32", "bf16"]
BATCH_STEPS = {"cpu": 1_024, "cuda": 32_768}
LONG_STEPS = 64
"""From here on a document that shares nothing with others is worth a row of its own."""
LEAST_FILLED = 0.75
"""Of a row of such a document, how much it fills at least."""


class Layouts:
    """Where the codes and ends of a document of T frames stand in its steps, worked out once for each T."""

    def __init__(self, pattern: Pattern):
        self.pattern = pattern
        self._known: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def _of(self, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if frames not in self._known:
            layout = self.pattern.layout(frames)
            where = np.flatnonzero(layout.reshape(-1) >= 0)
            codes = where[np.argsort(layout.reshape(-1)[where])]
            if len(codes) != frames * self.pattern.num_codebooks:
                raise ValueError(f"this {self.pattern.name} layout leaves codes out: use its full()")
            steps, streams = np.nonzero(layout == EOS)
            order = np.argsort(streams)
            self._known[frames] = layout, codes, steps[order] * layout.shape[1] + streams[order]
        return self._known[frames]

    def steps(self, document: np.ndarray) -> np.ndarray:
        """Units `[T, K]` -> int64 steps `[S, Q]`: those of `Pattern.apply`."""
        ids = (document.astype(np.int64) + self.pattern.id_offsets).reshape(-1)
        return self.pattern.place(self._of(len(document))[0], ids)

    def align(self, values: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Values `[S, Q]` at the steps of a document -> `[T, K]`, aligned with its codes, and `[Q]`, with its ends."""
        _, codes, ends = self._of(frames)
        flat = values.reshape(-1)
        return flat[codes].reshape(frames, self.pattern.num_codebooks), flat[ends]


class DocumentScorer:
    """What `model` makes of documents under `pattern` (a full one). `precision` is that of the matrix products: exact
    float32 (never TF32), or bf16, in which near ties may fall otherwise. `batch_steps`: at most so many steps at a
    time, where a call does not say it; None for what suits the device."""

    batch_steps: int | None = None

    def __init__(self, model: AcousticLM, pattern: Pattern, precision: Precision = "float32"):
        self.model, self.pattern, self.precision = model, pattern, precision
        self.layouts = Layouts(pattern)

    def score(self, documents: Sequence[np.ndarray], max_steps: int | None = None, share: bool = True,
              pack: bool | None = None) -> list[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
        """Units `[T, K]` of each document -> float64 log-probabilities `[T, K]` of its units and `[Q]` of its ends.

        At most `max_steps` steps at a time (at least one row). `share` and `pack` can be turned off to compare;
        packing is off by itself for a model whose attention cannot be told what to see.
        """
        steps = [self.layouts.steps(d) for d in documents]
        made = self.score_steps(steps, max_steps, share, pack)
        return [self.layouts.align(v, len(d)) for v, d in zip(made, documents, strict=True)]

    def score_steps(self, steps: Sequence[np.ndarray], max_steps: int | None = None, share: bool = True,
                    pack: bool | None = None) -> list[np.ndarray]:  # fmt: skip
        """Steps `[S, Q]` of each document -> float64 log-probabilities `[S, Q]` of each given those before it; the
        first is given, and gets 0."""
        first: dict[bytes, int] = {}
        of = [first.setdefault(s.tobytes(), i) for i, s in enumerate(steps)]
        unique = sorted(set(of))
        batch = max_steps or self.batch_steps or BATCH_STEPS.get(self.device_type, BATCH_STEPS["cuda"])
        packed = self._packs(max((len(s) for s in steps), default=0)) if pack is None else pack
        distinct = [steps[i] for i in unique]
        made = self._packed(distinct, batch, share) if packed else self._padded(distinct, batch)
        values = dict(zip(unique, made, strict=True))
        return [values[i] for i in of]

    @property
    def device_type(self) -> str:
        return str(self.model.id_offsets.device.type)

    def _packed(self, steps: Sequence[np.ndarray], max_steps: int, share: bool = True) -> list[np.ndarray]:
        empty = np.array([v.empty_id for v in self.pattern.streams])
        families, waiting = find_families(steps, share), []
        lone = [len(f.members) == 1 and f.size >= LONG_STEPS for f in families]
        for length, rows in pack_families([f for f, apart in zip(families, lone, strict=True) if not apart], max_steps):
            laid = lay_out(rows, length, steps, empty)
            waiting.append((laid, self._run(laid)))  # a GPU goes on while the next rows are laid out
        made: list[np.ndarray] = [np.zeros(0)] * len(steps)
        members = [f.members[0] for f, apart in zip(families, lone, strict=True) if apart]
        found = self._padded([steps[i] for i in members], max_steps, LEAST_FILLED)
        for member, alone in zip(members, found, strict=True):
            made[member] = alone
        for laid, values in waiting:
            flat = values.cpu().double().numpy()
            for member, way in laid.ways:
                made[member] = flat[way]
        return made

    def _run(self, rows: Rows) -> torch.Tensor:
        """float32 `[B * L, Q]`: the log-probability of each step given its parent and what that sees; 0 for roots."""
        import torch

        on = self.model.id_offsets.device
        ids, depths, ends, parents = (
            sent(torch.from_numpy(a), on) for a in (rows.ids, rows.depths, rows.ends, rows.parents)
        )
        batch, length, streams = ids.shape
        with torch.no_grad(), self._arithmetic():
            hidden = _tree_states(self.model, ids, depths, ends).flatten(0, 1)
            # What is predicted is known here, so that a GPU need not be waited for.
            at = np.flatnonzero(rows.parents >= 0)
            predicted = sent(torch.from_numpy(at), on)
            parents = parents + torch.arange(batch, device=on)[:, None] * length
            states = hidden.index_select(0, parents.flatten().index_select(0, predicted))
            _, nlls, _ = self.model._stream_nlls(states, ids.flatten(0, 1).index_select(0, predicted))
            values = nlls.new_zeros(batch * length, streams)
            return values.index_copy_(0, predicted, -nlls)

    def _padded(self, steps: Sequence[np.ndarray], max_steps: int, least_filled: float = 0.0) -> list[np.ndarray]:
        """One document a row, padded behind, where attention is causal and cannot see it; sorted by length."""
        import torch

        waiting = []
        for group in length_groups([len(s) for s in steps], max_steps, least_filled):
            ids = np.empty((len(group), max(len(steps[i]) for i in group), len(self.pattern.streams)), np.int64)
            ids[:] = [v.empty_id for v in self.pattern.streams]
            for row, i in zip(ids, group, strict=True):
                row[: len(steps[i])] = steps[i]
            with torch.no_grad(), self._arithmetic(), self._attention():
                waiting.append((group, self.model.log_probs(sent(torch.from_numpy(ids), self.model.id_offsets.device))))
        made: list[np.ndarray] = [np.zeros(0)] * len(steps)
        for group, values in waiting:
            for row, i in zip(values.cpu().double().numpy(), group, strict=True):
                made[i] = row[: len(steps[i])]
        return made

    def _packs(self, longest: int) -> bool:
        from slm.model.attention import depends_on_length

        config = self.model.causal_lm.base_model.config
        return not depends_on_length(config, max(longest, 2)) and self._trees_agree

    @cached_property
    def _trees_agree(self) -> bool:
        """Whether this family of models takes the mask and the positions that it is given (state-space models, and
        those that make their positions by themselves, do not): two short documents tell."""
        if self.model.causal_lm.base_model.config._attn_implementation not in ("sdpa", "eager"):
            return False
        rng, sizes = np.random.default_rng(0), self.pattern.codebook_sizes
        a = self.layouts.steps(rng.integers(0, sizes, (MIN_SHARED + 4, len(sizes))))
        b = np.concatenate([a[: MIN_SHARED + 1], a[2:4], a[MIN_SHARED + 1 :]])
        c = self.layouts.steps(rng.integers(0, sizes, (3, len(sizes))))
        try:
            packed = self._packed([a, b, c], MIN_ROW)
        except (TypeError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            # Told, since a fault cannot be told from a model that takes no such mask, and costs time.
            reason = f"{type(error).__name__}: {(str(error).strip() or 'no reason').splitlines()[0]}"
            print(f"what clips have in common is computed for each, as the model takes no trees ({reason})",
                  file=sys.stderr)  # fmt: skip
            return False
        return all(
            np.allclose(p, q, atol=0.05 if self.precision == "bf16" else 1e-3)
            for p, q in zip(packed, self._padded([a, b, c], MIN_ROW), strict=True)
        )

    def _arithmetic(self) -> AbstractContextManager[Any]:
        import torch

        if self.precision == "bf16":
            return torch.autocast(self.device_type, torch.bfloat16)
        return exact_float32()

    def _attention(self) -> AbstractContextManager[Any]:
        """Of rows without a mask."""
        from slm.model.attention import full_heads

        in_full = self.device_type == "cuda" and self.precision == "float32"
        return full_heads(self.model.causal_lm.base_model) if in_full else nullcontext()


def _tree_states(model: AcousticLM, ids: torch.Tensor, depths: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Hidden states `[B, L, H]` of trees in rows."""
    import torch

    body, embedded = model.causal_lm.base_model, model.embed(ids)
    place = torch.arange(ids.shape[1], device=ids.device)
    visible = ((place[:, None] >= place) & (place[:, None] < ends[:, None, :]))[:, None]
    if body.config._attn_implementation == "eager":
        visible = embedded.new_zeros(visible.shape).masked_fill(~visible, torch.finfo(embedded.dtype).min)
    made = body(inputs_embeds=embedded, position_ids=depths, attention_mask=visible, use_cache=False)
    return made.last_hidden_state  # type: ignore[no-any-return]


def length_groups(lengths: Sequence[int], max_steps: int, least_filled: float = 0.0) -> Iterator[list[int]]:
    """Indices by length, longest first, in groups of at most `max_steps` padded steps (at least one item), each item at
    least `least_filled` of the longest of its group."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    at = 0
    while at < len(order):
        longest = lengths[order[at]]
        group = order[at : at + max(1, max_steps // longest)]
        yield (group := [i for i in group if lengths[i] >= least_filled * longest])
        at += len(group)
