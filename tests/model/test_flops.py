"""The formula against torch's own count of a forward pass."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING

from slm.model.acoustic_lm import AcousticLM
from slm.model.backbone import build_causal_lm
from slm.model.flops import flops_per_step_position
from slm.patterns import PATTERNS
from tests.fakes import TINY_BACKBONE
from tests.model.test_acoustic_lm import FAMILIES
from tests.model.test_depth import DEPTH

LENGTH = 48
EXPERTS = [
    {**TINY_BACKBONE, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    {**TINY_BACKBONE, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 1,
     "moe_intermediate_size": 16},
    {**TINY_BACKBONE, "model_type": "afmoe", "num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 16,
     "num_dense_layers": 1, "num_shared_experts": 1},  # whose router holds a linear layer
]  # fmt: skip


def attention(layers, heads, size, context):
    return 12 * layers * heads * size * context


@pytest.mark.parametrize(
    ("backbone", "fields"),
    [*((b, None) for b in FAMILIES + EXPERTS), ({**TINY_BACKBONE, "num_key_value_heads": 1, "head_dim": 32}, None),
     (TINY_BACKBONE, DEPTH)],
)  # fmt: skip
def test_it_is_three_times_the_forward_pass_that_torch_counts(backbone, fields):
    """Forward once, backward twice. Torch counts attention as if every position saw the whole row."""
    pattern = PATTERNS.create("delay", codebook_sizes=(8, 8))
    model = AcousticLM(build_causal_lm(backbone, pattern, 0, attention="eager", depth=fields), pattern)
    if fields:
        model.causal_lm.depth.model.config._attn_implementation = "eager"
    model.causal_lm.base_model.config._experts_implementation = "eager"  # the way whose products torch counts
    ids = torch.zeros(1, LENGTH + 1, 2, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        hidden = model.hidden_states(ids[:, :LENGTH])
        model._stream_nlls(hidden[0], ids[0, 1:])
    config = model.causal_lm.base_model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    unseen = attention(config.num_hidden_layers, config.num_attention_heads, size, (LENGTH - 1) / 2)
    if fields:  # two streams, in each of which half a position too many is counted
        unseen += 2 * attention(2, 2, 8, 1 / 2)
    expected = 3 * counter.get_total_flops() / LENGTH - unseen
    # Some versions of transformers make rotary angles by a (tiny) matrix product.
    assert flops_per_step_position(model, LENGTH) == pytest.approx(expected, rel=1e-3)


def test_a_family_without_heads_has_no_attention():
    """For a dry run, which makes no weights that could tell that it does not keep documents apart."""
    pattern = PATTERNS.create("flat", codebook_sizes=(8,))
    model = AcousticLM(build_causal_lm({"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2}, pattern, 0),
                       pattern)  # fmt: skip
    assert flops_per_step_position(model, 10) == flops_per_step_position(model, 1000)


def test_layers_with_heads_of_their_own_are_counted_each():
    """Gemma 4 has one size of heads in most layers, and another in every sixth."""
    fields = {"model_type": "gemma4_text", "hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2,
              "num_key_value_heads": 1, "intermediate_size": 64, "head_dim": 16}  # fmt: skip
    if fields["model_type"] not in CONFIG_MAPPING:
        pytest.skip("these transformers do not have it")
    pattern = PATTERNS.create("flat", codebook_sizes=(8,))
    with torch.device("meta"):  # as for a dry run
        model = AcousticLM(build_causal_lm(fields, pattern, 0), pattern)
    layers = model.causal_lm.base_model.layers
    width = sum(2 * layer.self_attn.head_dim for layer in layers)
    assert len({layer.self_attn.head_dim for layer in layers}) == 2
    assert flops_per_step_position(model, 101) - flops_per_step_position(model, 1) == pytest.approx(12 * width * 50)
