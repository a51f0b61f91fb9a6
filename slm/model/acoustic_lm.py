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

from slm.errors import UsageError
from slm.model.attention import depends_on_length, document_attention, is_flattened, reference_attention
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
        self.register_buffer("id_offsets", offsets, persistent=False)
        self.register_buffer("codebook_of_id", codebook, persistent=False)
        self.register_buffer("weight_of_id", weight, persistent=False)

    def hidden_states(self, ids: Tensor, positions: Tensor | None = None, cache: Any = None) -> Tensor:
        """Ids `[B, S, Q]` -> hidden states `[B, S, H]`; step s holds what predicts step s + 1.

        Documents packed in a row are kept apart by `positions [B, S]` that restart at 0.
        """
        body = self.causal_lm.base_model
        embedded = self.causal_lm.get_input_embeddings()(ids + self.id_offsets).sum(dim=2)
        attention: dict[str, Any] = {}
        if positions is not None and cache is None:
            backend = body.config._attn_implementation
            attention = document_attention(backend, positions, embedded.dtype)
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

    def _heads(self, hidden: Tensor, codes: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Any]]:
        """For each stream: the states that predict it, and the weights and biases of its head. `codes [N, q]` are the
        first streams of the step that is predicted: without a depth transformer nothing depends on them."""
        depth = getattr(self.causal_lm, "depth", None)
        head = self.causal_lm.get_output_embeddings() if depth is None else depth.lm_head
        if depth is None:
            states = (hidden if self._logit_scale == 1 else hidden * self._logit_scale,) * len(self.stream_sizes)
        else:
            states = depth(hidden, codes).unbind(dim=1)
        bias = getattr(head, "bias", None)
        biases = [None] * len(self.stream_sizes) if bias is None else bias.split(self.stream_sizes)
        return states, head.weight.split(self.stream_sizes), biases

    def _stream_nlls(self, hidden: Tensor, targets: Tensor, weights: Tensor | None = None,
                     with_hits: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
        """Of steps `[N, Q]` that hidden states `[N, H]` predict: the weighted sum, nats `[N, Q]`, hits `[N, Q]`."""
        heads = enumerate(zip(*self._heads(hidden, targets[:, :-1]), strict=True))
        made = [
            linear_nll(state, weight, bias, targets[:, q], None if weights is None else weights[:, q],
                       self._softcap, with_hits)
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

    def forward(self, ids: Tensor, loss_mask: Tensor, positions: Tensor, with_hits: bool = False) -> LossSums:
        """The loss of packed rows; see `Batch` for the shapes. Heads are computed where something is predicted."""
        return self._loss_sums(self.hidden_states(ids, positions), ids, loss_mask, with_hits)

    @torch.compiler.disable  # how many steps are predicted differs from batch to batch
    def _loss_sums(self, hidden: Tensor, ids: Tensor, loss_mask: Tensor, with_hits: bool) -> LossSums:
        predicted = loss_mask[:, 1:].any(dim=-1)
        hidden, targets, mask = hidden[:, :-1][predicted], ids[:, 1:][predicted], loss_mask[:, 1:][predicted]
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


@torch.no_grad()
def check_attention(model: AcousticLM, pattern: Pattern, row_length: int) -> None:
    """Refuse a family that the loss would train otherwise than scoring reads it: UsageError.

    Two random documents that fill a row must be predicted as each alone (state-space models and sliding windows
    shorter than the row are not), no code may see what follows it (bidirectional models let it), and for one stream
    the loss must be that of the family's own logits. The row is short unless the configuration has something that
    depends on its length. Flash attention is stood in for by a slow equal that runs anywhere, which shows that the
    family hands on where documents begin. A model without weights (on the meta device) cannot be checked.
    """
    causal_lm, device = model.causal_lm, model.id_offsets.device
    if any(p.is_meta for p in model.parameters()):
        return
    kind = causal_lm.base_model.config.model_type
    length = row_length if depends_on_length(causal_lm.base_model.config, row_length) else min(row_length, 64)
    generator = torch.Generator().manual_seed(0)
    sizes = [v.num_codes for v in pattern.streams]
    ids = torch.stack([torch.randint(size, (1, length), generator=generator) for size in sizes], dim=-1).to(device)
    short = min(4, length // 2)
    positions = torch.cat([torch.arange(short), torch.arange(length - short)])[None].to(device)
    changed = ids.clone()
    changed[:, -1, -1] = (changed[:, -1, -1] + 1) % sizes[-1]
    training = model.training
    model.eval()
    try:
        with reference_attention(causal_lm.base_model):
            packed, alone = model.log_probs(ids, positions)[:, short:], model.log_probs(ids[:, short:])
            future = model.log_probs(changed[:, short:])
            own = _own_log_probs(model, ids) if len(sizes) == 1 else None
            ours = model.log_probs(ids)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UsageError(f"model_type {kind!r} cannot be trained on packed documents ({reason})") from error
    finally:
        model.train(training)
    if not torch.allclose(packed[:, 1:], alone[:, 1:], atol=1e-3):
        remedy = "take a family with full causal attention (llama, qwen2, opt, ..), or row_length within its window"
        raise UsageError(f"model_type {kind!r} does not keep packed documents apart; {remedy}")
    alone[:, -1, -1] = future[:, -1, -1] = 0  # the code that was changed itself
    if not torch.allclose(alone[:, 1:], future[:, 1:], atol=1e-4):
        raise UsageError(f"model_type {kind!r} sees the future: it is no causal language model")
    if own is not None and not torch.allclose(own, ours, atol=1e-3):
        raise UsageError(f"model_type {kind!r} makes its logits in a way that the loss does not know; take another")


def _own_log_probs(model: AcousticLM, ids: Tensor) -> Tensor:
    """What the causal LM itself makes of one stream, by its own logits."""
    logits = model.causal_lm(input_ids=ids[..., 0]).logits[:, :-1].float().log_softmax(dim=-1)
    return F.pad(logits.gather(-1, ids[:, 1:]), (0, 0, 1, 0))
