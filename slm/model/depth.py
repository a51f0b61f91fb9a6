"""The depth transformer: within a step, each stream given the streams before it (RQ-Transformer, arXiv 2203.01941; in
Moshi, arXiv 2410.00037)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK_TOKENS = 8192


class DepthTransformer(nn.Module):
    """A small causal transformer over the Q streams of one step, with embeddings, body and heads of its own.

    Its input at stream q is a projection, one for each stream, of the temporal transformer's hidden state, plus the
    embedding of the code that stands in stream q - 1 of the step that is predicted. From its output there, `lm_head`
    predicts the code of stream q. `config` is the body's; its vocabulary is that of all streams.
    """

    def __init__(self, config: Any, input_size: int, stream_sizes: Sequence[int]):
        from transformers import AutoModel

        super().__init__()
        self.num_streams = len(stream_sizes)
        self.model = AutoModel.from_config(config, dtype=torch.get_default_dtype())
        self._no_split_modules = self.model._no_split_modules
        self.width = self.model.get_input_embeddings().embedding_dim
        self.projection = nn.Linear(input_size, self.num_streams * self.width, bias=False)
        self.lm_head = nn.Linear(self.width, sum(stream_sizes), bias=False)

    def forward(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Hidden states `[N, H]` and the first q codes of the next step, `[N, q]` as ids of the joint vocabulary ->
        states `[N, q + 1, W]` that predict streams 0 to q."""
        size = CHUNK_TOKENS // self.num_streams
        chunks = list(zip(hidden.split(size), ids.split(size), strict=True))
        if len(chunks) == 1 or not torch.is_grad_enabled():
            return torch.cat([self._states(*chunk) for chunk in chunks])
        # What the backward pass needs is made again, for one chunk at a time.
        return torch.cat([checkpoint(self._states, *chunk, use_reentrant=False) for chunk in chunks])

    def _states(self, hidden: Tensor, ids: Tensor) -> Tensor:
        known = ids.shape[1]
        inputs = self.projection(hidden).unflatten(1, (self.num_streams, self.width))[:, : known + 1]
        embedded = F.pad(self.model.get_input_embeddings()(ids), (0, 0, 1, 0))
        return self.model(inputs_embeds=inputs + embedded, use_cache=False).last_hidden_state
