"""Any `transformers` causal LM over Q streams of codes, with log-probabilities aligned with what they predict.

The Q vocabularies stand one after the other in a single table. A step's input is the sum of its Q embeddings, and the
output layer's rows are Q heads side by side (MusicGen's arrangement). For Q = 1 that is exactly an ordinary causal
LM, and it is saved as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slm.errors import UsageError
from slm.patterns import Pattern


class LossSums(NamedTuple):
    """What a batch cost. `weighted_nll` (scalar) is to be divided by the sum of target weights of the whole step;
    `nlls [K + 1]` and `counts [K + 1]` are plain sums in nats per codebook, ends of streams last, and `hits [K + 1]`,
    where asked for, counts the targets that the model held likeliest."""

    weighted_nll: Tensor
    nlls: Tensor
    counts: Tensor
    hits: Tensor | None = None


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
        self._no_split_modules = list(causal_lm._no_split_modules or [])
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

        Given outright, because some families (OPT) do not derive it from positions, and none does for several rows
        under flash attention. `check_attention` finds the families for which it is not the whole truth.
        """
        backend = self.causal_lm.config._attn_implementation
        if backend not in ("sdpa", "eager"):
            raise ValueError(f"attention backend {backend!r} takes no mask that keeps packed documents apart")
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

    def forward(self, ids: Tensor, loss_mask: Tensor, positions: Tensor, with_hits: bool = False) -> LossSums:
        """The loss of packed rows; see `Batch` for the shapes."""
        targets, mask = ids[:, 1:], loss_mask[:, 1:]
        logits = self.hidden_logits(ids, positions)[:, :-1]
        nll = _nll(logits, targets, self.stream_sizes) * mask
        index = targets + self.id_offsets
        bucket = torch.where(mask, self.codebook_of_id[index], -1)
        per_bucket = torch.stack([(nll * (bucket == k)).sum() for k in range(self.num_buckets)])
        counts = torch.stack([(bucket == k).sum() for k in range(self.num_buckets)])
        hits = None
        if with_hits:
            likeliest = torch.stack([stream.argmax(-1) for stream in logits.split(self.stream_sizes, dim=-1)], dim=-1)
            hits = torch.stack([((likeliest == targets) & (bucket == k)).sum() for k in range(self.num_buckets)])
        return LossSums((nll * self.weight_of_id[index]).sum(), per_bucket.detach(), counts, hits)

    def target_weight(self, ids: Tensor, loss_mask: Tensor) -> Tensor:
        """The sum of weights of what a batch predicts: the loss' denominator, added up over an optimizer step."""
        return (self.weight_of_id[ids + self.id_offsets] * loss_mask).sum()


def _nll(logits: Tensor, targets: Tensor, sizes: Sequence[int]) -> Tensor:
    """Negative log-likelihood in nats, float32 `[B, S, Q]`, one softmax for each stream's slice of the logits."""
    streams = logits.split(list(sizes), dim=-1)
    made = [
        F.cross_entropy(stream.float().flatten(0, 1), targets[..., q].flatten(), reduction="none")
        for q, stream in enumerate(streams)
    ]
    return torch.stack(made, dim=-1).view(targets.shape)


def _target_tables(pattern: Pattern, codebook_weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """For each id of the joint vocabulary: its codebook (K for an end) and its weight in the loss."""
    layout = pattern.layout(1)
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


@torch.no_grad()
def check_attention(model: AcousticLM, pattern: Pattern, row_length: int) -> None:
    """Refuse a family that the loss would train otherwise than scoring reads it: UsageError.

    Two random documents that fill a row must be predicted as each alone (state-space models and sliding windows
    shorter than the row are not), and no code may see what follows it (bidirectional models let it).
    """
    kind = model.causal_lm.config.model_type
    generator = torch.Generator().manual_seed(0)
    sizes = [v.num_codes for v in pattern.streams]
    ids = torch.stack([torch.randint(size, (1, row_length), generator=generator) for size in sizes], dim=-1)
    short = min(4, row_length // 2)
    positions = torch.cat([torch.arange(short), torch.arange(row_length - short)])[None]
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % torch.tensor(sizes)
    training = model.training
    model.eval()
    try:
        packed, alone = model.log_probs(ids, positions)[:, short:], model.log_probs(ids[:, short:])
        future = model.log_probs(changed[:, short:])
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UsageError(f"model_type {kind!r} cannot be trained on packed documents ({reason})") from error
    finally:
        model.train(training)
    if not torch.allclose(packed[:, 1:], alone[:, 1:], atol=1e-3):
        remedy = "take a family with full causal attention (llama, qwen2, opt, ..), or row_length within its window"
        raise UsageError(f"model_type {kind!r} does not keep packed documents apart; {remedy}")
    if not torch.allclose(alone[:, 1:-1], future[:, 1:-1], atol=1e-4):
        raise UsageError(f"model_type {kind!r} sees the future: it is no causal language model")
