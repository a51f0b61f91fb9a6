"""Which attention a run computes with: what was asked for, or the fastest that the model keeps documents apart with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slm.errors import UsageError
from slm.model import attention
from slm.model.attention import choose_attention
from slm.model.check import check_attention
from slm.patterns import PATTERNS
from slm.training.config import ModelConfig, TrainConfig
from slm.training.setup import make_model
from tests.fakes import TINY_BACKBONE
from tests.model.test_acoustic_lm import make


def test_the_backend_that_an_option_means(monkeypatch):
    import transformers.utils as utils

    installed = {"cuda": True, "compiled": True, "bf16": True}
    assert choose_attention("auto", cuda=False, compiled=True, bf16=True) == "auto"
    assert choose_attention("auto", cuda=False, compiled=False, bf16=False) == "by_document"
    assert choose_attention("auto", **installed) == "varlen"
    assert choose_attention("auto", cuda=True, compiled=False, bf16=False) == "auto"
    assert choose_attention("auto", cuda=True, compiled=True, bf16=False) == "auto"
    monkeypatch.setattr(attention, "_varlen_attention", lambda: None)
    assert choose_attention("auto", **installed) == "auto"
    assert choose_attention("auto", cuda=True, compiled=False, bf16=True) == "auto"
    assert choose_attention("eager", cuda=False, compiled=False, bf16=False) == "eager"
    for name in ("flash_attention_2", "varlen"):
        with pytest.raises(UsageError, match="not installed"):
            choose_attention(name, **installed)
    monkeypatch.setattr(utils, "is_flash_attn_2_available", lambda: True)
    assert choose_attention("auto", **installed) == "flash_attention_2"
    assert choose_attention("auto", cuda=True, compiled=False, bf16=False) == "auto"
    with pytest.raises(UsageError, match="half precision"):
        choose_attention("flash_attention_2", cuda=True, compiled=False, bf16=False)
    with pytest.raises(UsageError, match="needs a CUDA device"):
        choose_attention("flex_attention", cuda=False, compiled=False, bf16=False)
    with pytest.raises(UsageError, match="by_document cannot be compiled"):
        choose_attention("by_document", cuda=False, compiled=True, bf16=False)
    with pytest.raises(UsageError, match="did you mean 'flash_attention_2'"):
        choose_attention("flash_attention2", **installed)


@pytest.fixture
def drops_spans(monkeypatch):
    """A family that drops on their way the arguments that say where documents begin."""
    from transformers.models.llama.modeling_llama import LlamaAttention

    forward = LlamaAttention.forward
    drop = {"cu_seq_lens_q": None, "cu_seq_lens_k": None}
    monkeypatch.setattr(LlamaAttention, "forward", lambda self, *a, **k: forward(self, *a, **{**k, **drop}))


@pytest.mark.usefixtures("drops_spans")
@pytest.mark.parametrize("backend", ["flash_attention_2", "by_document"])
def test_a_family_that_hands_no_spans_on_is_refused(backend):
    model, pattern = make()
    model.causal_lm.base_model.config._attn_implementation = backend
    with pytest.raises(UsageError, match="does not keep packed documents apart"):
        check_attention(model, pattern, 64)


@pytest.mark.usefixtures("drops_spans")
def test_where_nobody_asked_for_a_backend_such_a_family_has_a_mask():
    config = TrainConfig("corpus", "out", model=ModelConfig(TINY_BACKBONE), row_length=64)
    model = make_model(config, PATTERNS.create("flat", codebook_sizes=(8,)))
    assert model.causal_lm.base_model.config._attn_implementation == "sdpa"
    asked = replace(config, model=replace(config.model, attention="by_document"))
    with pytest.raises(UsageError, match=r"does not keep packed documents apart; take .*, or model\.attention auto$"):
        make_model(asked, PATTERNS.create("flat", codebook_sizes=(8,)))


def test_a_text_model_of_a_family_with_backends_of_its_own_is_continued_with_one_of_them(tmp_path):
    from transformers import AutoModelForCausalLM, GPTNeoConfig

    fields = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]}
    AutoModelForCausalLM.from_config(GPTNeoConfig(vocab_size=50, **fields)).save_pretrained(tmp_path)
    config, pattern = ModelConfig(init_from=str(tmp_path)), PATTERNS.create("flat", codebook_sizes=(8,))
    model = make_model(TrainConfig("corpus", "out", model=config, row_length=64), pattern)
    assert model.causal_lm.base_model.config._attn_implementation == "eager"
    asked = TrainConfig("corpus", "out", model=replace(config, attention="by_document"), row_length=64)
    with pytest.raises(UsageError, match=r"init_from: no gpt_neo .* no attention 'by_document': take .*attention auto"):
        make_model(asked, pattern)


def test_a_cpu_computes_document_by_document():
    config = TrainConfig("corpus", "out", model=ModelConfig(TINY_BACKBONE), row_length=64)
    model = make_model(config, PATTERNS.create("flat", codebook_sizes=(8,)))
    assert model.causal_lm.base_model.config._attn_implementation == "by_document"
