"""Any `transformers` causal LM over Q streams of codes, with log-probabilities aligned with what they predict.

The Q vocabularies stand one after the other in a single table. A step's input is the sum of its Q embeddings, and the
output layer's rows are Q heads side by side (MusicGen's arrangement). For Q = 1 that is exactly an ordinary causal
LM, and it is saved as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slm.patterns import Pattern


class LossSums(NamedTuple):
    """What a batch cost. `weighted_nll` (scalar) is to be divided by the sum of target weights of the whole step;
    `nlls [K + 1]` and `counts [K + 1]` are plain sums in nats per codebook, ends of streams last."""

    weighted_nll: Tensor
    nlls: Tensor
    counts: Tensor


class AcousticLM(nn.Module):
    """`causal_lm` must have as many input embeddings as the streams have ids together.

    `codebook_weights [K]` weigh the loss of each codebook (Moshi: 100 on the semantic one); the end of a stream
    weighs as much as that stream's first codebook. Weighted sums are divided by the sum of weights.
    """

    id_offsets: Tensor
    codebook_of_id: Tensor
    weight_of_id: Tensor

    def __init__(self, causal_lm: nn.Module, pattern: Pattern, codebook_weights: Sequence[float] | None = None):
        super().__init__()
        self.causal_lm: Any = causal_lm
        self.stream_sizes = [v.size for v in pattern.streams]
        if causal_lm.get_input_embeddings().num_embeddings != sum(self.stream_sizes):  # type: ignore[operator]
            raise ValueError("the model's vocabulary does not match the pattern's streams")
        offsets = torch.tensor([0, *self.stream_sizes[:-1]]).cumsum(0)
        codebook, weight = _target_tables(pattern, codebook_weights or [1.0] * pattern.num_codebooks)
        self.num_buckets = pattern.num_codebooks + 1
        self.register_buffer("id_offsets", offsets, persistent=False)
        self.register_buffer("codebook_of_id", codebook, persistent=False)
        self.register_buffer("weight_of_id", weight, persistent=False)

    def hidden_logits(self, ids: Tensor, positions: Tensor | None = None, cache: Any = None) -> Tensor:
        """Ids `[B, S, Q]` -> logits `[B, S, sum of vocabulary sizes]`; step s holds the prediction for step s + 1.

        Documents packed in a row are kept apart by `positions [B, S]` that restart at 0.
        """
        embedding = self.causal_lm.get_input_embeddings()
        embedded = embedding(ids + self.id_offsets).sum(dim=2)
        mask = self._document_mask(positions, embedded.dtype) if positions is not None and cache is None else None
        return self.causal_lm(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).logits

    def _document_mask(self, positions: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Causal attention within each document, `[B, 1, S, S]`, in the form the attention backend takes.

        Given outright, because some families (OPT) do not derive it from positions. Flash attention does, and takes
        no mask.
        """
        backend = self.causal_lm.config._attn_implementation
        if backend not in ("sdpa", "eager"):
            return None
        document = (positions == 0).cumsum(dim=1)
        length = positions.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=positions.device).tril()
        visible = ((document[:, :, None] == document[:, None, :]) & causal)[:, None]
        if backend == "sdpa":
            return visible
        open_mask = torch.zeros(visible.shape, dtype=dtype, device=positions.device)
        return open_mask.masked_fill(~visible, torch.finfo(dtype).min)

    def log_probs(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """float32 `[B, S, Q]`: ln P(ids[b, s, q] | steps before s). Step 0, which nothing predicts, holds 0."""
        logits = self.hidden_logits(ids, positions)[:, :-1]
        return F.pad(-_nll(logits, ids[:, 1:], self.stream_sizes), (0, 0, 1, 0))

    def forward(self, ids: Tensor, loss_mask: Tensor, positions: Tensor) -> LossSums:
        """The loss of packed rows; see `Batch` for the shapes."""
        targets, mask = ids[:, 1:], loss_mask[:, 1:]
        nll = _nll(self.hidden_logits(ids, positions)[:, :-1], targets, self.stream_sizes) * mask
        index = targets + self.id_offsets
        bucket = torch.where(mask, self.codebook_of_id[index], -1)
        per_bucket = torch.stack([(nll * (bucket == k)).sum() for k in range(self.num_buckets)])
        counts = torch.stack([(bucket == k).sum() for k in range(self.num_buckets)])
        return LossSums((nll * self.weight_of_id[index]).sum(), per_bucket.detach(), counts)

    def target_weight(self, ids: Tensor, loss_mask: Tensor) -> Tensor:
        """The sum of weights of what a batch predicts: the loss' denominator, added up over an optimizer step."""
        return (self.weight_of_id[ids + self.id_offsets] * loss_mask).sum()


def _nll(logits: Tensor, targets: Tensor, sizes: Sequence[int]) -> Tensor:
    """Negative log-likelihood in nats, float32 `[B, S, Q]`, one softmax for each stream's slice of the logits."""
    streams = logits.split(list(sizes), dim=-1)
    made = [
        F.cross_entropy(s.float().transpose(1, 2), targets[..., q], reduction="none") for q, s in enumerate(streams)
    ]
    return torch.stack(made, dim=-1)


def _target_tables(pattern: Pattern, codebook_weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """For each id of the joint vocabulary: its codebook (K for an end) and its weight in the loss."""
    k_of_stream: list[list[int]] = [[] for _ in pattern.streams]
    for k in range(pattern.num_codebooks):
        k_of_stream[k if len(pattern.streams) > 1 else 0].append(k)
    codebook: list[int] = []
    weight: list[float] = []
    for books in k_of_stream:
        for k in books:
            codebook += [k] * pattern.codebook_sizes[k]
            weight += [codebook_weights[k]] * pattern.codebook_sizes[k]
        codebook += [pattern.num_codebooks] * 3
        weight += [codebook_weights[books[0]]] * 3
    return torch.tensor(codebook), torch.tensor(weight, dtype=torch.float32)
