"""How much work a model is: for budgets in FLOPs, and for the share of the hardware that is used (MFU)."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from slm.model.acoustic_lm import AcousticLM

_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk")
"""Fields of configurations that say to how many experts a position goes."""


def flops_per_step_position(model: AcousticLM, row_length: int) -> float:
    """Training FLOPs (forward and backward) for one position of a row, matrix products and attention counted.

    A matrix of N weights costs 2 N forward and 4 N backward (arXiv 2001.08361); attention over c positions costs
    12 c x heads x head size in a layer. c is taken as half a row: what causal attention over a whole row sees, and so
    more than documents packed into it do. A depth transformer takes as many positions as there are streams. Of experts
    those count that a position goes to. Embeddings are looked up and cost nothing; what is computed twice to save
    memory counts once.
    """
    body, head = model.causal_lm.base_model, model.causal_lm.get_output_embeddings()
    depth = getattr(model.causal_lm, "depth", None)
    flops = 6.0 * _matrix_weights(body) + _attention_flops(body.config, (row_length + 1) / 2)
    if depth is None:
        return flops + 6.0 * head.weight.numel()
    streams = len(model.stream_sizes)
    inner = 6.0 * _matrix_weights(depth.model) + _attention_flops(depth.model.config, (streams + 1) / 2)
    return flops + streams * inner + 6.0 * (depth.projection.weight.numel() + depth.lm_head.weight.numel())


def _matrix_weights(module: Any) -> float:
    """The weights of all layers that multiply by a matrix, as far as a position meets them: linear ones, GPT-2's
    Conv1D, routers, and of experts, whose matrices lie in tensors `[experts, .., ..]`, as many as a position goes to.
    """
    chosen = next((n for name in _CHOSEN if (n := getattr(module.config, name, None))), math.inf)
    weights = 0.0
    for part in module.modules():
        kind = type(part).__name__
        if isinstance(part, nn.Linear) or kind == "Conv1D":
            weights += part.weight.numel()
        elif kind.endswith("Router"):  # some hold a linear layer, which is met by itself
            weights += sum(p.numel() for p in part.parameters(recurse=False) if p.ndim == 2)
        elif kind.endswith("Experts"):
            stacked = (p for p in part.parameters(recurse=False) if p.ndim == 3)
            weights += sum(p.numel() * min(1.0, chosen / len(p)) for p in stacked)
    return weights


def _attention_flops(config: Any, context: float) -> float:
    """Of all layers, which may differ; none of those without heads, such as state-space ones."""
    layers = list(getattr(config, "per_layer_config", None) or [config] * config.num_hidden_layers)
    return 12.0 * sum(map(_width_of_heads, layers)) * context


def _width_of_heads(layer: Any) -> int:
    heads = getattr(layer, "num_attention_heads", None) or 0
    return heads and heads * (getattr(layer, "head_dim", None) or layer.hidden_size // heads)
