"""w2v-BERT's attention by relative positions, some queries at a time and without a vector for each pair of frames."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention

_SCORES_AT_A_TIME = 2**26
_LEAST_QUERIES = 768
"""Of fewer at a time, attention on a CPU is blocked, and so rounded, otherwise than of a whole clip."""
_SHORT = 16
"""Clips up to here, which gain nothing, have their products with distances rounded otherwise too."""


class RelativeKeyAttention(Wav2Vec2BertSelfAttention):
    """transformers looks up the embedding of the distance of each pair of frames (20 GB for 3 minutes) and multiplies
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
        at_a_time = max(_LEAST_QUERIES, _SCORES_AT_A_TIME // (batch * self.num_heads * steps))
        made = []
        for first in range(0, steps, at_a_time):
            rows = slice(first, first + at_a_time)
            bias = self._look_up(by_distance[:, :, rows], first, steps)
            bias = bias if attention_mask is None else bias + attention_mask
            attend = functional.scaled_dot_product_attention
            made.append(attend(query[:, :, rows], key, value, bias, scale=self.scaling))
        return self.linear_out(torch.cat(made, dim=2).transpose(1, 2).flatten(2)), None

    def _look_up(self, by_distance: torch.Tensor, first: int, steps: int) -> torch.Tensor:
        """Products `[B, H, R, D]` of queries from `first` on with each distance -> `[B, H, R, T]`, with each frame."""
        frames = torch.arange(steps, device=by_distance.device)
        queries = frames[first : first + by_distance.shape[2], None]
        left, right = self.left_max_position_embeddings, self.right_max_position_embeddings
        distances = (frames - queries).clamp(-left, right) + left
        return by_distance.gather(-1, distances.expand(*by_distance.shape[:2], -1, -1))
