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

    offsets: Tensor

    def __init__(self, config: Any, input_size: int, stream_sizes: Sequence[int]):
        from transformers import AutoModel

        super().__init__()
        self.num_streams = len(stream_sizes)
        self.model = AutoModel.from_config(config, dtype=torch.get_default_dtype())
        width = self.model.get_input_embeddings().embedding_dim
        self.projection = nn.Linear(input_size, self.num_streams * width, bias=False)
        self.lm_head = nn.Linear(width, sum(stream_sizes), bias=False)
        starts = torch.tensor([0, *stream_sizes[:-1]]).cumsum(0)
        self.register_buffer("offsets", starts, persistent=False)

    def forward(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Hidden states `[N, H]` and the first q codes of the next step `[N, q]` -> states `[N, q + 1, W]` that
        predict streams 0 to q."""
        size = CHUNK_TOKENS // self.num_streams
        if not torch.is_grad_enabled() or len(hidden) <= size:
            made = [self._states(h, c) for h, c in zip(hidden.split(size), codes.split(size), strict=True)]
        else:  # what the backward pass needs of one chunk at a time, made again
            made = [
                checkpoint(self._states, h, c, use_reentrant=False)
                for h, c in zip(hidden.split(size), codes.split(size), strict=True)
            ]
        return torch.cat(made)

    def _states(self, hidden: Tensor, codes: Tensor) -> Tensor:
        known = codes.shape[1]
        inputs = self.projection(hidden).view(len(hidden), self.num_streams, -1)[:, : known + 1]
        embedded = self.model.get_input_embeddings()(codes + self.offsets[:known])
        return self.model(inputs_embeds=inputs + F.pad(embedded, (0, 0, 1, 0)), use_cache=False).last_hidden_state
