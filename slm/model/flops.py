"""How much work a model is: for budgets in FLOPs, and for the share of the hardware that is used (MFU)."""

from __future__ import annotations

from typing import Any

from torch import nn

from slm.model.acoustic_lm import AcousticLM


def flops_per_step_position(model: AcousticLM, row_length: int) -> float:
    """Training FLOPs (forward and backward) for one position of a row, matrix products and attention counted.

    A matrix of N weights costs 2 N forward and 4 N backward (arXiv 2001.08361); attention over c positions costs
    12 c x heads x head size in a layer. c is taken as half a row: what causal attention over a whole row sees, and so
    more than documents packed into it do. Embeddings are looked up and cost nothing.
    """
    body, head = model.causal_lm.base_model, model.causal_lm.get_output_embeddings()
    weights = _matrix_weights(body) + (head.weight.numel() if head is not None else 0)
    return 6.0 * weights + _attention_flops(body.config, (row_length + 1) / 2)


def _matrix_weights(module: nn.Module) -> int:
    """The weights of all layers that multiply by a matrix: linear ones, and GPT-2's Conv1D."""
    matrices: list[Any] = [m for m in module.modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"]
    return sum(m.weight.numel() for m in matrices)


def _attention_flops(config: Any, context: float) -> float:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 12.0 * config.num_hidden_layers * config.num_attention_heads * size * context
