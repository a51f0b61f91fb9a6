"""Transformers' table of lacking weights is left out where a line says it, and nowhere else."""

from __future__ import annotations

import logging

import pytest
from safetensors.torch import load_file, save_file

from eval.judges._whole import whole_model
from eval.judges.base import MissingJudgeError
from slm.errors import UsageError
from slm.load_report import refused_in_a_line
from slm.model.checkpoint import load_causal_lm

TABLE = "LlamaForCausalLM LOAD REPORT from: x"


@pytest.fixture
def said(caplog):
    """What transformers says, which it does beside the root logger."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield lambda: list(dict.fromkeys(caplog.messages))
    logger.removeHandler(caplog.handler)


@pytest.fixture
def incomplete(tmp_path):
    """A checkpoint of a text model without its last norm, and with a weight too many."""
    from transformers import LlamaConfig, LlamaForCausalLM

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=9, num_key_value_heads=1, **small)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["too_many"] = weights.pop("model.norm.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


def test_a_checkpoint_that_lacks_weights_is_refused_in_a_line(incomplete, said):
    from transformers import AutoModelForCausalLM

    with pytest.raises(UsageError, match=r"lacks 1 of its weights, such as model\.norm\.weight"):
        load_causal_lm(incomplete)
    with pytest.raises(MissingJudgeError, match=r"lacks 1 weights of a LlamaForCausalLM, such as model\.norm\.weight"):
        whole_model(AutoModelForCausalLM, str(incomplete), "a test")
    assert not [line for line in said() if "LOAD REPORT" in line]
    AutoModelForCausalLM.from_pretrained(incomplete)
    assert [line for line in said() if "LOAD REPORT" in line], "transformers says it otherwise now"


def test_the_table_of_what_is_loaded_all_the_same_comes(incomplete, said):
    weights = load_file(incomplete / "model.safetensors")
    weights["model.norm.weight"] = weights["too_many"].clone()
    save_file(weights, incomplete / "model.safetensors", {"format": "pt"})
    load_causal_lm(incomplete)
    assert ["too_many" in line for line in said() if "LOAD REPORT" in line] == [True]


@pytest.mark.parametrize(("error", "shown"), [
    (None, True),
    (UsageError("lacks one"), False),
    (ValueError("another"), True),
])  # fmt: skip
def test_it_is_left_out_for_a_refusal_only(caplog, said, error, shown):
    logger = logging.getLogger("transformers.modeling_utils")

    @refused_in_a_line(UsageError)
    def load():
        logger.warning(TABLE)
        logger.warning("another line")
        assert said() == ["another line"]
        if error:
            raise error

    for _ in range(2):
        try:
            load()
        except (UsageError, ValueError) as raised:
            assert raised is error  # noqa: PT017
        assert said() == ["another line"] + [TABLE] * shown
        caplog.clear()
    logger.warning(TABLE)
    assert said() == [TABLE]


def test_an_error_of_transformers_may_point_to_the_table(said):
    @refused_in_a_line(UsageError)
    def load():
        logging.getLogger("transformers.modeling_utils").warning(TABLE)
        raise UsageError("see above") from RuntimeError("for details look at the report above")

    with pytest.raises(UsageError):
        load()
    assert said() == [TABLE]
