"""Attention by relative positions of w2v-BERT and WavLM, some queries at a time.

transformers holds a value, or a vector, for each pair of frames, several times over: of 3 minutes 20 GB, for w2v-BERT
2.0 as for WavLM large. Distances are few, or two for each frame: what is of a distance is computed once and looked up,
for some queries, and attention is PyTorch's own, which holds no scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

_SCORES_AT_A_TIME = 2**26
_LEAST_QUERIES = 768
"""Of fewer at a time, attention on a CPU is blocked, and so rounded, otherwise than of a whole clip."""
_SHORT = 16
"""Clips up to here, which gain nothing, have their products with distances rounded otherwise too."""


class RelativeKeyAttention(Wav2Vec2BertSelfAttention):
    """w2v-BERT's. The published one looks up the embedding of the distance of each pair of frames and multiplies
    queries by it. Here they are multiplied by each of the distances that there are, 73, and products looked up: at the
    published size, on the CPUs tried, the same to the bit."""

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *rest: Any, **others: Any
    ) -> Any:
        """`[B, T, C]` -> `[B, T, C]` and nothing. `attention_mask` is added to the scores `[B, H, T, T]`."""
        batch, steps, _ = hidden_states.shape
        if steps <= _SHORT:
            return super().forward(hidden_states, attention_mask, *rest, **others)
        query, key, value = (
            layer(hidden_states).view(batch, steps, -1, self.head_size).transpose(1, 2)
            for layer in (self.linear_q, self.linear_k, self.linear_v)
        )
        by_distance = (query @ self.distance_embedding.weight.to(query.dtype).T) * self.scaling

        def bias(first: int, last: int) -> torch.Tensor:
            made = self._look_up(by_distance[:, :, first:last], first, steps)
            return made if attention_mask is None else made + attention_mask

        made = _attend_in_parts(query, key, value, bias, self.scaling)
        return self.linear_out(made.transpose(1, 2).flatten(2)), None

    def _look_up(self, by_distance: torch.Tensor, first: int, steps: int) -> torch.Tensor:
        """Products `[B, H, R, D]` of queries from `first` on with each distance -> `[B, H, R, T]`, with each frame."""
        frames = torch.arange(steps, device=by_distance.device)
        queries = frames[first : first + by_distance.shape[2], None]
        left, right = self.left_max_position_embeddings, self.right_max_position_embeddings
        distances = (frames - queries).clamp(-left, right) + left
        return by_distance.gather(-1, distances.expand(*by_distance.shape[:2], -1, -1))


class GatedBiasAttention(WavLMAttention):
    """WavLM's. The published one keeps the bias of each pair of frames from layer to layer, gates it, and averages
    over heads the weights that nobody asks for. Here biases are kept by distance."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        index: int = 0,
        **others: Any,
    ) -> Any:
        """`[B, T, C]` -> `[B, T, C]`, nothing, and the biases by distance `[H, 2 T - 1]`, which the next layer is given
        as its `position_bias`. `attention_mask` `[B, T]` is true at frames of a clip."""
        steps = hidden_states.shape[1]
        if position_bias is None:
            distances = torch.arange(1 - steps, steps, device=hidden_states.device)
            position_bias = self.rel_attn_embed(self._relative_positions_bucket(distances)).T.contiguous()
        heads = hidden_states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        query, key, value = (
            layer(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        inner, outer = self.gru_rel_pos_linear(heads).unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)
        gate = inner * (outer * self.gru_rel_pos_const - 1.0) + 2.0
        windows = position_bias.unfold(1, steps, 1)  # the n-th is of the n-th query from behind

        def bias(first: int, last: int) -> torch.Tensor:
            made = gate[:, :, first:last] * windows[:, steps - last : steps - first].flip(1)
            return made if attention_mask is None else made.masked_fill(~attention_mask[:, None, None], -torch.inf)

        made = _attend_in_parts(query, key, value, bias, self.scaling)
        return self.out_proj(made.transpose(1, 2).flatten(2)), None, position_bias


def _attend_in_parts(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: Callable[[int, int], torch.Tensor],
    scale: float,
) -> torch.Tensor:
    """Attention of `[B, H, T, D]`, where `bias(first, last)` is added to the scores of those queries `[B, H, R, T]`."""
    batch, heads, steps, _ = query.shape
    at_a_time = max(_LEAST_QUERIES, _SCORES_AT_A_TIME // (batch * heads * steps))
    made = []
    for first in range(0, steps, at_a_time):
        last = min(first + at_a_time, steps)
        attend = functional.scaled_dot_product_attention
        made.append(attend(query[:, :, first:last], key, value, bias(first, last), scale=scale))
    return torch.cat(made, dim=2)
