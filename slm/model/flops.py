"""How much work a model is: for budgets in FLOPs, and for the share of the hardware that is used (MFU)."""

from __future__ import annotations

from typing import Any

from torch import nn

from slm.model.acoustic_lm import AcousticLM


def flops_per_step_position(model: AcousticLM, row_length: int) -> float:
    """Training FLOPs (forward and backward) for one position of a row, matrix products and attention counted.

    A matrix of N weights costs 2 N forward and 4 N backward (arXiv 2001.08361); attention over c positions costs
    12 c x heads x head size in a layer. c is taken as half a row: what causal attention over a whole row sees, and so
    more than documents packed into it do. A depth transformer takes as many positions as there are streams. Embeddings
    are looked up and cost nothing; what is computed twice to save memory counts once.
    """
    body, head = model.causal_lm.base_model, model.causal_lm.get_output_embeddings()
    depth = getattr(model.causal_lm, "depth", None)
    flops = 6.0 * _matrix_weights(body) + _attention_flops(body.config, (row_length + 1) / 2)
    if depth is None:
        return flops + 6.0 * head.weight.numel()
    streams = len(model.stream_sizes)
    inner = 6.0 * _matrix_weights(depth.model) + _attention_flops(depth.model.config, (streams + 1) / 2)
    return flops + streams * inner + 6.0 * (depth.projection.weight.numel() + depth.lm_head.weight.numel())


def _matrix_weights(module: nn.Module) -> int:
    """The weights of all layers that multiply by a matrix: linear ones, and GPT-2's Conv1D."""
    matrices: list[Any] = [m for m in module.modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"]
    return sum(m.weight.numel() for m in matrices)


def _attention_flops(config: Any, context: float) -> float:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 12.0 * config.num_hidden_layers * config.num_attention_heads * size * context
