"""Which families of transformers are trained, and how those that cannot be are refused."""

from __future__ import annotations

import pytest
import torch

from slm.errors import UsageError
from slm.model.acoustic_lm import AcousticLM
from slm.model.backbone import build_causal_lm
from slm.model.check import check_attention
from slm.patterns import PATTERNS

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.mark.parametrize("streams", ["flat", "delay"])
@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({**SMALL, "model_type": "jamba", "num_key_value_heads": 2}, "cannot be trained on packed|not keep packed"),
        ({**SMALL, "model_type": "roberta"}, "cannot be trained on packed documents; take a decoder-only family"),
        ({**SMALL, "model_type": "electra"}, "cannot be trained on packed documents; take a decoder-only family"),
        ({"model_type": "t5", "d_model": 32}, "no causal language model of type 't5'; take a decoder-only family"),
        ({"model_type": "vit"}, "no causal language model of type 'vit'; take a decoder-only family"),
        ({"model_type": "gemma3"}, "'gemma3' is made of several models; take 'gemma3_text'"),
        ({"model_type": "musicgen"}, "'musicgen' is made of several models; take one that is a language model only"),
    ],
    ids=lambda v: v["model_type"] if isinstance(v, dict) else "",
)  # fmt: skip
def test_what_is_no_decoder_only_family_is_refused_in_a_line_that_names_one(streams, backbone, message):
    pattern = PATTERNS.create(streams, codebook_sizes=(8,) if streams == "flat" else (8, 8))
    with pytest.raises(UsageError, match=message) as caught:
        check_attention(AcousticLM(build_causal_lm(backbone, pattern, 0), pattern), pattern, 64)
    assert "\n" not in str(caught.value)


def test_what_a_family_needs_is_said_in_the_line():
    streams = PATTERNS.create("flat", codebook_sizes=(8,))
    backbone = {"model_type": "qwen2", "hidden_size": 16, "num_attention_heads": 4}
    with pytest.raises(UsageError, match="4 num_attention_heads cannot share 32 num_key_value_heads, qwen2's"):
        build_causal_lm(backbone, streams, 0)
    with pytest.raises(UsageError, match=r"4 num_attention_heads cannot share 3 num_key_value_heads$"):
        build_causal_lm({**backbone, "num_key_value_heads": 3}, streams, 0)
    with pytest.raises(UsageError, match="cannot share 0 num_key_value_heads"):
        build_causal_lm({**backbone, "num_key_value_heads": 0}, streams, 0)
    with pytest.raises(UsageError, match=r"no modernbert-decoder can be made of this .*'pad_token_id' expected int"):
        build_causal_lm({**SMALL, "model_type": "modernbert-decoder"}, streams, 0)


def test_a_leak_is_seen_however_little_fresh_weights_make_of_it():
    """A state-space layer hands the document before on, by less than a thousandth of a nat while weights are fresh."""
    pattern = PATTERNS.create("delay", codebook_sizes=(16, 16))
    fields = {**SMALL, "model_type": "jamba", "num_key_value_heads": 2}
    model = AcousticLM(build_causal_lm(fields, pattern, 0), pattern).eval()
    ids = torch.randint(16, (2, 12, 2), generator=torch.Generator().manual_seed(0))
    ids[1, 4:] = ids[0, 4:]  # the same second document beside two others
    positions = torch.tensor([*range(4), *range(8)]).repeat(2, 1)
    with torch.no_grad():
        first, second = model.log_probs(ids, positions)[:, 5:]
    assert 1e-5 < (first - second).abs().max() < 1e-3
    with pytest.raises(UsageError, match="does not keep packed documents apart"):
        check_attention(model, pattern, 64)
