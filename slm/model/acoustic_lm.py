"""Any `transformers` causal LM over Q streams of codes, with log-probabilities aligned with what they predict.

For Q = 1 that is exactly an ordinary causal LM, and it is saved as one; for Q > 1 it is a `MultiStreamLM`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slm.model.attention import document_attention, document_starts, is_flattened
from slm.model.loss import head_logits, linear_nll
from slm.patterns import Pattern


class LossSums(NamedTuple):
    """What a batch cost. `weighted_nll` (scalar) is to be divided by the sum of target weights of the whole step;
    `nlls [K + 1]` and `counts [K + 1]` are plain sums in nats per codebook, ends of streams last, and `hits [K + 1]`,
    where asked for, counts the targets that the model held likeliest."""

    weighted_nll: Tensor
    nlls: Tensor
    counts: Tensor
    hits: Tensor | None = None


class Places(NamedTuple):
    """Where things are in packed rows laid end to end: `predicting [N]`, the steps whose next one holds a target (at
    least one step, so that every parameter has a gradient), and `starts [D + 1]`, int32, where documents begin, and
    the end."""

    predicting: Tensor
    starts: Tensor


def places_of(loss_mask: Tensor, positions: Tensor) -> Places:
    """Of a mask `[B, L, Q]` and positions `[B, L]`; on a GPU it is waited for."""
    predicting = F.pad(loss_mask[:, 1:].any(dim=-1), (0, 1)).flatten().nonzero()[:, 0]
    return Places(predicting if len(predicting) else predicting.new_zeros(1), document_starts(positions))


class AcousticLM(nn.Module):
    """`causal_lm` must have as many input embeddings as the streams have ids together.

    `codebook_weights [K]` weigh the loss of each codebook (Moshi: 100 on the semantic one); the end of a stream
    weighs as much as that stream's first codebook. Weighted sums are divided by the sum of weights.
    """

    id_offsets: Tensor
    codebook_of_id: Tensor
    weight_of_id: Tensor

    def __init__(self, causal_lm: Any, pattern: Pattern, codebook_weights: Sequence[float] | None = None):
        super().__init__()
        self.causal_lm = causal_lm
        self._no_split_modules = sorted(causal_lm._no_split_modules or [])
        self._logit_scale, self._softcap = _logit_form(causal_lm.config)
        self.stream_sizes = [v.size for v in pattern.streams]
        if causal_lm.get_input_embeddings().num_embeddings != sum(self.stream_sizes):
            raise ValueError("the model's vocabulary does not match the pattern's streams")
        offsets = torch.tensor([0, *self.stream_sizes[:-1]]).cumsum(0)
        codebook, weight = _target_tables(pattern, codebook_weights or [1.0] * pattern.num_codebooks)
        self.num_buckets = pattern.num_codebooks + 1
        self._compiled = False
        self.register_buffer("id_offsets", offsets, persistent=False)
        self.register_buffer("codebook_of_id", codebook, persistent=False)
        self.register_buffer("weight_of_id", weight, persistent=False)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """torch.compile, in place: of the layers of the transformers, whose shapes are the same from batch to batch,
        and of what the loss does to logits. A layer is compiled once for all that are like it: to compile a whole
        transformer takes as many times as long and makes it no faster."""
        self._compiled = True
        depth = getattr(self.causal_lm, "depth", None)
        for body in (self.causal_lm.base_model, *(() if depth is None else (depth.model,))):
            kinds = set(body._no_split_modules or ())
            layers = [module for module in body.modules() if type(module).__name__ in kinds]
            for module in layers or [body]:
                module.compile(*args, **kwargs)

    def embed(self, ids: Tensor) -> Tensor:
        """Ids `[B, S, Q]` -> what the body reads `[B, S, H]`: the sum over streams."""
        embedded: Tensor = self.causal_lm.get_input_embeddings()(ids + self.id_offsets).sum(dim=2)
        if torch.is_autocast_enabled(embedded.device.type):  # or all that layers hand on would be float32
            return embedded.to(torch.get_autocast_dtype(embedded.device.type))
        return embedded

    def hidden_states(self, ids: Tensor, positions: Tensor | None = None, cache: Any = None,
                      starts: Tensor | None = None) -> Tensor:  # fmt: skip
        """Ids `[B, S, Q]` -> hidden states `[B, S, H]`; step s holds what predicts step s + 1.

        Documents packed in a row are kept apart by `positions [B, S]` that restart at 0; see `Places` for `starts`.
        """
        body, embedded = self.causal_lm.base_model, self.embed(ids)
        attention: dict[str, Any] = {}
        if positions is not None and cache is None:
            backend = body.config._attn_implementation
            attention = document_attention(backend, positions, embedded.dtype, starts)
            if is_flattened(backend):
                embedded, positions = embedded.flatten(0, 1)[None], positions.flatten()[None]
        made = body(inputs_embeds=embedded, position_ids=positions, past_key_values=cache,
                    use_cache=cache is not None, **attention)  # fmt: skip
        return made.last_hidden_state.view(*ids.shape[:2], -1)

    def stream_logits(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Hidden states `[N, H]` and the first q codes of the next step `[N, q]` -> logits of stream q `[N, V_q]`."""
        states, weights, biases = self._heads(hidden, codes)
        q = codes.shape[1]
        return head_logits(states[q], weights[q], biases[q], self._softcap)

    def logits_side_by_side(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """As `stream_logits` of every stream, in one product, where there is no depth transformer."""
        head = self.causal_lm.get_output_embeddings()
        states = hidden if self._logit_scale == 1 else hidden * self._logit_scale
        return head_logits(states, head.weight, getattr(head, "bias", None), self._softcap).split(self.stream_sizes, 1)

    def _heads(self, hidden: Tensor, codes: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Any]]:
        """For each stream: the states that predict it, and the weights and biases of its head. `codes [N, q]` are the
        first streams of the step that is predicted: without a depth transformer nothing depends on them."""
        depth = getattr(self.causal_lm, "depth", None)
        head = self.causal_lm.get_output_embeddings() if depth is None else depth.lm_head
        if depth is None:
            states = (hidden if self._logit_scale == 1 else hidden * self._logit_scale,) * len(self.stream_sizes)
        else:
            states = depth(hidden, codes + self.id_offsets[: codes.shape[1]]).unbind(dim=1)
        bias = getattr(head, "bias", None)
        biases = [None] * len(self.stream_sizes) if bias is None else bias.split(self.stream_sizes)
        return states, head.weight.split(self.stream_sizes), biases

    def _stream_nlls(self, hidden: Tensor, targets: Tensor, weights: Tensor | None = None,
                     with_hits: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
        """Of steps `[N, Q]` that hidden states `[N, H]` predict: the weighted sum, nats `[N, Q]`, hits `[N, Q]`."""
        if torch.is_autocast_enabled(hidden.device.type):  # once, not for each stream
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        heads = enumerate(zip(*self._heads(hidden, targets[:, :-1]), strict=True))
        made = [
            linear_nll(state, weight, bias, targets[:, q], None if weights is None else weights[:, q],
                       self._softcap, with_hits, self._compiled)
            for q, (state, weight, bias) in heads
        ]  # fmt: skip
        sums, nlls, hits = zip(*made, strict=True)
        return torch.stack(sums).sum(), torch.stack(nlls, dim=-1), torch.stack(hits, dim=-1) if with_hits else None

    def log_probs(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """float32 `[B, S, Q]`: ln P(ids[b, s, q] | steps before s, and with a depth transformer streams before q).
        Step 0, which nothing predicts, holds 0. They carry no gradient: that of the loss is made by `forward`."""
        targets = ids[:, 1:]
        hidden = self.hidden_states(ids, positions)[:, :-1]
        _, nlls, _ = self._stream_nlls(hidden.flatten(0, 1), targets.flatten(0, 1))
        return F.pad(-nlls.view(targets.shape), (0, 0, 1, 0))

    def forward(self, ids: Tensor, loss_mask: Tensor, positions: Tensor, places: Places | None = None,
                with_hits: bool = False) -> LossSums:  # fmt: skip
        """The loss of packed rows; see `Batch` for the shapes. Heads are computed where something is predicted.
        `places`, found before the batch went to a GPU, spare waiting for it."""
        rows, starts = places or places_of(loss_mask, positions)
        hidden = self.hidden_states(ids, positions, starts=starts).flatten(0, 1).index_select(0, rows)
        targets, mask = ids.flatten(0, 1)[rows + 1], loss_mask.flatten(0, 1)[rows + 1]
        index = targets + self.id_offsets
        weighted, nlls, hits = self._stream_nlls(hidden, targets, self.weight_of_id[index] * mask, with_hits)
        bucket = torch.where(mask, self.codebook_of_id[index], -1)
        here = [bucket == k for k in range(self.num_buckets)]
        return LossSums(
            weighted_nll=weighted,
            nlls=torch.stack([(nlls * h).sum() for h in here]),
            counts=torch.stack([h.sum() for h in here]),
            hits=None if hits is None else torch.stack([(hits & h).sum() for h in here]),
        )

    def target_weight(self, ids: Tensor, loss_mask: Tensor) -> Tensor:
        """The sum of weights of what a batch predicts: the loss' denominator, added up over an optimizer step."""
        return (self.weight_of_id[ids + self.id_offsets] * loss_mask).sum()


def _target_tables(pattern: Pattern, codebook_weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """For each id of the joint vocabulary: its codebook (K for an end) and its weight in the loss."""
    layout = pattern.full().layout(1)  # a cut one may leave codebooks out
    stream_of = [int(np.nonzero(layout == k)[1][0]) for k in range(pattern.num_codebooks)]
    k_of_stream = [[k for k, q in enumerate(stream_of) if q == s] for s in range(len(pattern.streams))]
    codebook: list[int] = []
    weight: list[float] = []
    for books in k_of_stream:
        for k in books:
            codebook += [k] * pattern.codebook_sizes[k]
            weight += [codebook_weights[k]] * pattern.codebook_sizes[k]
        codebook += [pattern.num_codebooks] * 3
        weight += [codebook_weights[books[0]]] * 3
    return torch.tensor(codebook), torch.tensor(weight, dtype=torch.float32)


def _logit_form(config: Any) -> tuple[float, float | None]:
    """What a family does to its logits after the output layer: a factor (Cohere, Granite), a soft cap (Gemma)."""
    factor = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    return float(factor), getattr(config, "final_logit_softcapping", None)
