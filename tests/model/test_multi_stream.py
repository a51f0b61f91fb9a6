"""What transformers opens, saves, shards and ties: an ordinary causal LM for one stream, our class for several."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from slm.errors import UsageError
from slm.model.acoustic_lm import AcousticLM
from slm.model.backbone import build_causal_lm, twist_causal_lm, use_liger
from slm.model.multi_stream import MultiStreamConfig, MultiStreamLM
from slm.patterns import PATTERNS
from tests.fakes import TINY_BACKBONE
from tests.model.test_acoustic_lm import FAMILIES
from tests.model.test_depth import DEPTH, steps_of

SIZES = (8, 5)


def build(backbone=TINY_BACKBONE, fields=None, seed=0, **changes):
    pattern = PATTERNS.create("delay", codebook_sizes=SIZES)
    return build_causal_lm({**backbone, **changes}, pattern, seed, depth=fields), pattern


@pytest.mark.parametrize("fields", [None, DEPTH], ids=["heads", "depth"])
@pytest.mark.parametrize("backbone", FAMILIES, ids=lambda b: b["model_type"])
def test_what_is_saved_in_shards_is_what_is_opened(tmp_path, backbone, fields):
    lm, pattern = build(backbone, fields)
    lm.save_pretrained(tmp_path, max_shard_size="16KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32")
    assert type(loaded) is MultiStreamLM
    ids, _ = steps_of(pattern, 5)
    with torch.no_grad():
        made = [AcousticLM(one.eval(), pattern).log_probs(ids) for one in (lm, loaded)]
    assert torch.equal(*made)
    assert loaded.config.to_diff_dict() | {"_name_or_path": ""} == lm.config.to_diff_dict() | {"_name_or_path": ""}


def test_a_family_without_sdpa_has_several_streams_too(tmp_path):
    lm, pattern = build({"model_type": "gpt_neo", "hidden_size": 32, "num_layers": 1, "num_heads": 2,
                         "attention_types": [[["global"], 1]], "max_position_embeddings": 64})  # fmt: skip
    assert lm.model.config._attn_implementation == "eager"
    lm.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32")
    ids, _ = steps_of(pattern, 5)
    with torch.no_grad():
        assert torch.equal(*(AcousticLM(one.eval(), pattern).log_probs(ids) for one in (lm, loaded)))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("backbone", FAMILIES, ids=lambda b: b["model_type"])
def test_heads_are_tied_to_embeddings_where_the_family_says_so(tmp_path, backbone, tied):
    lm, _ = build(backbone, tie_word_embeddings=tied)
    lm.save_pretrained(tmp_path)
    for one in (lm, AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert (one.get_output_embeddings().weight is one.get_input_embeddings().weight) == tied


def test_its_own_forward_pass_gives_the_heads(tmp_path):
    lm, pattern = build()
    ids, _ = steps_of(pattern, 6)
    with torch.no_grad():
        logits = lm(ids).logits[0]
        expected = AcousticLM(lm, pattern).log_probs(ids)[0]
    assert logits.shape == (ids.shape[1], sum(v.size for v in pattern.streams))
    for q, head in enumerate(logits.split(lm.config.stream_sizes, dim=-1)):
        made = head.log_softmax(dim=-1)[:-1].gather(1, ids[0, 1:, q : q + 1])[:, 0]
        torch.testing.assert_close(made, expected[1:, q])
    deep, _ = build(fields=DEPTH)
    assert deep(ids).logits is None


def test_the_configuration_is_the_bodys_where_others_ask():
    lm, pattern = build()
    config = lm.config
    assert config.vocab_size == sum(v.size for v in pattern.streams) == lm.get_input_embeddings().num_embeddings
    assert config.max_position_embeddings == TINY_BACKBONE["max_position_embeddings"]
    assert config.hidden_size == TINY_BACKBONE["hidden_size"]
    assert config.eos_token_id == pattern.streams[0].eos_id
    again = AutoConfig.for_model(**config.to_dict())
    assert isinstance(again, MultiStreamConfig)
    assert again.to_dict() == config.to_dict()
    assert AcousticLM(lm, pattern)._no_split_modules == ["LlamaDecoderLayer"]
    with pytest.raises(NotImplementedError, match="make a new model"):
        lm.resize_token_embeddings(100)


@pytest.mark.parametrize("fields", [None, DEPTH], ids=["heads", "depth"])
@pytest.mark.parametrize("backbone", FAMILIES, ids=lambda b: b["model_type"])
def test_twist_keeps_the_body_under_several_streams(tmp_path, backbone, fields):
    fields_of_text = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    text = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**backbone, **fields_of_text}))
    text.half().save_pretrained(tmp_path)
    pattern = PATTERNS.create("delay", codebook_sizes=SIZES)
    warm = twist_causal_lm(str(tmp_path), pattern, seed=0, depth=fields)
    table = {id(p) for p in text.get_input_embeddings().parameters()}
    kept = {n: p for n, p in text.base_model.named_parameters() if id(p) not in table}
    made = warm.base_model.state_dict()
    assert len(kept) == len(made) - 1
    for name, value in kept.items():
        assert torch.equal(made[name], value.float()), name
    assert {p.dtype for p in warm.parameters()} == {torch.float32}
    assert (warm.get_output_embeddings() is None) == (fields is not None)
    assert getattr(warm, "depth", None) is None or warm.depth.lm_head.out_features == 8 + 5 + 6


def test_one_stream_opens_without_this_package_and_several_with_it(tmp_path):
    """Without it: nothing of it can be imported, and transformers has forgotten the class that it registers. (That
    importing registers it is seen in every other test here.)"""
    pattern = PATTERNS.create("flat", codebook_sizes=(8,))
    one, (two, _) = build_causal_lm(TINY_BACKBONE, pattern, 0), build()
    one.save_pretrained(tmp_path / "one")
    two.save_pretrained(tmp_path / "two")
    with pytest.MonkeyPatch.context() as without:
        for name in [name for name in sys.modules if name.split(".")[0] == "slm"]:
            without.setitem(sys.modules, name, None)
        without.delitem(CONFIG_MAPPING._extra_content, "slm_multi_stream")
        opened, told = AutoModelForCausalLM.from_pretrained(tmp_path / "one", output_loading_info=True)
        with pytest.raises(ValueError, match="slm_multi_stream"):
            AutoModelForCausalLM.from_pretrained(tmp_path / "two")
    assert (type(opened).__name__, type(opened).__module__.split(".")[0]) == ("LlamaForCausalLM", "transformers")
    assert not any(told.values())
    ids = torch.arange(8)[None]
    assert torch.equal(opened.eval()(ids).logits, one.eval()(ids).logits)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "two")
    assert isinstance(again, MultiStreamLM)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), two.parameters(), strict=True))


def test_liger_that_is_not_there_is_one_clear_line():
    with pytest.raises(UsageError, match="pip install liger-kernel"):
        use_liger(build()[0])


def test_liger_gets_the_body_and_leaves_the_loss(monkeypatch):
    """A stand-in for the package, of which two names are used."""
    calls = []
    package = ModuleType("liger_kernel.transformers.monkey_patch")
    package.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None}
    package._apply_liger_kernel_to_instance = lambda model, **kwargs: calls.append((model, kwargs))
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, package.__name__, package)
    lm, _ = build()
    use_liger(lm)
    assert calls == [(lm.model, {"cross_entropy": False, "fused_linear_cross_entropy": False})]
    with pytest.raises(UsageError, match="liger does not know 'opt'"):
        use_liger(build(next(b for b in FAMILIES if b["model_type"] == "opt"))[0])
