"""Models as slamkit saves them: the same log-probabilities as the plain transformers model gives on `<S> u.. <S>`."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GemmaConfig, OPTConfig, Qwen2Config

from slm.errors import UsageError
from slm.files import write_json
from slm.spoken_lm import load_lm
from slm.types import Codes, TokenizerSpec
from tests.fakes import random_codes, write_corpus

UNITS = 20
BODY = {"vocab_size": UNITS + 2, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2,
        "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}  # fmt: skip
BODIES = {
    "qwen2": Qwen2Config(**BODY, intermediate_size=48, num_key_value_heads=1, tie_word_embeddings=True),
    "qwen2 untied": Qwen2Config(**BODY, intermediate_size=48, num_key_value_heads=1, tie_word_embeddings=False),
    "opt": OPTConfig(**BODY, ffn_dim=48, word_embed_proj_dim=16),
    "gemma": GemmaConfig(**BODY, intermediate_size=48, num_key_value_heads=1, head_dim=16),  # scales its embeddings
}


def save(folder, body="qwen2", told=None, keep="model.embed_tokens.weight", **changes):
    """A random model as `UnitLM.save_pretrained` writes it: `lm.` before each name, tied weights once."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(BODIES[body], dtype=torch.float32).eval()
    state = {f"lm.{name}": p.detach().clone() for name, p in model.state_dict().items()}
    for name, source in dict(model.all_tied_weights_keys).items():
        del state[f"lm.{name if keep in source or 'decoder' in source else source}"]
    folder.mkdir()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    base = {**BODIES[body].to_dict(), "torch_dtype": "float32", "_name_or_path": "Qwen/Qwen2.5-0.5B"}
    config = {"architectures": ["UnitLM"], "model_type": "speech_language_model", "base_config": base,
              "base_model_name": "Qwen/Qwen2.5-0.5B", "twist_init": True, "vocab_size": UNITS + 2}  # fmt: skip
    write_json(folder / "config.json", {**config, **changes})
    if told is not None:
        write_json(folder / "tokeniser_config.json", told)
    return model


def units(spec, lengths, seed=0):
    return random_codes(SimpleNamespace(spec=spec), lengths, seed)


def plain(model, codes: np.ndarray) -> np.ndarray:
    """ln P of each deduplicated unit, then of the `<S>` that ends them, in float64, one clip at a time."""
    runs = codes[:, 0][np.r_[True, codes[1:, 0] != codes[:-1, 0]]].astype(np.int64)
    ids = torch.tensor([1, *(runs + 2), 1])
    with torch.no_grad():
        logits = model.double()(ids[None]).logits[0]
    return torch.log_softmax(logits[:-1], -1)[torch.arange(len(ids) - 1), ids[1:]].numpy()


@pytest.mark.parametrize("keep", ["model.embed_tokens.weight", "lm_head.weight"])
@pytest.mark.parametrize("body", BODIES)
def test_log_probabilities_are_those_of_the_plain_model(tmp_path, body, keep):
    model = save(tmp_path / "m", body, keep=keep)
    lm = load_lm(tmp_path / "m")
    assert lm.record.dedup
    assert lm.model.causal_lm.config.vocab_size == UNITS + 3
    codes = units(lm.spec, [30, 7, 1, 64])
    for c, made in zip(codes, lm.score_codes(codes), strict=True):
        expected = plain(model, c.codes)
        assert np.abs(made.log_probs[:, 0] - expected[:-1]).max() < 1e-5
        assert abs(made.eos_log_probs[0] - expected[-1]) < 1e-5
        assert made.eos_log_probs.shape == (1,)


def test_what_may_come_next_is_a_unit_an_end_or_padding_as_there(tmp_path):
    """The softmax is over slamkit's 22 rows: those of the units and `<S>` sum to all but padding's share."""
    model = save(tmp_path / "m")
    lm = load_lm(tmp_path / "m")
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        there = torch.softmax(model(ids).logits[0, -1], -1)
        hidden = lm.model.hidden_states(torch.tensor([[[UNITS + 1], [3], [7]]]))[:, -1]
        here = torch.softmax(lm.model.stream_logits(hidden, torch.zeros(1, 0, dtype=torch.int64))[0], -1)
    assert here[UNITS + 1] == 0
    assert torch.allclose(here[:UNITS], there[2:], atol=1e-6)
    assert torch.allclose(here[UNITS], there[1], atol=1e-6)
    assert torch.allclose(here[UNITS + 2], there[0], atol=1e-6)


def test_what_its_tokeniser_says_is_believed(tmp_path):
    told = {"dedup": False, "bos_eos_token_id": 1, "pad_token_id": 0, "num_units": UNITS, "load_fe": False}
    save(tmp_path / "m", told=told)
    lm = load_lm(tmp_path / "m")
    assert not lm.record.dedup
    repeated = Codes("a", np.zeros((5, 1), np.uint16), 5 * 640, lm.spec)
    assert lm.score_codes([repeated])[0].log_probs.shape == (5, 1)


def test_it_continues_with_units_only(tmp_path):
    save(tmp_path / "m")
    lm = load_lm(tmp_path / "m")
    [prompt] = units(lm.spec, [6])
    made = lm.continue_codes(prompt, seconds=1.0, seed=0)
    assert np.array_equal(made.codes[:6], prompt.codes)
    assert made.codes.max() < UNITS


def test_codes_of_a_corpus_are_scored_without_their_tokenizer(tmp_path):
    """A corpus says whose codes they are: the model, which does not, takes them by its word and no other's."""
    save(tmp_path / "m")
    spec = TokenizerSpec("ssl-kmeans", "f" * 64, 16_000, 640, (UNITS,))
    codes = units(spec, [9, 12])
    corpus = write_corpus(tmp_path / "corpus", codes)
    with pytest.raises(UsageError, match="two different tokenizers"):
        load_lm(tmp_path / "m").score_codes(codes)
    lm = load_lm(tmp_path / "m", tokenizer=corpus)
    assert lm.spec.fingerprint == "f" * 64
    declared = load_lm(tmp_path / "m")
    expected = declared.score_codes(units(declared.spec, [9, 12]))
    for one, other in zip(lm.score_codes(codes), expected, strict=True):
        assert np.array_equal(one.log_probs, other.log_probs)
    assert lm.fingerprint != declared.fingerprint
    with pytest.raises(UsageError, match=r"sizes \[20\], not those of .* 21 at"):
        load_lm(tmp_path / "m", tokenizer=TokenizerSpec("other", "e" * 64, 16_000, 640, (UNITS + 1,)))


def test_a_tokenizer_without_its_files_says_which_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("slm.tokenizers._of_model.load_tokenizer", _missing)
    save(tmp_path / "m")
    with pytest.raises(UsageError, match=r"slprl/mhubert-base-25hz.*--tokenizer"):
        _ = load_lm(tmp_path / "m").tokenizer


def _missing(*args, **settings):
    told = yaml.safe_load((Path(__file__).parents[2] / "configs/tokenizers/mhubert-25hz.yaml").read_text())
    assert {"name": "ssl-kmeans", **settings} == {**told, "padding_samples": 40}
    raise UsageError("no such file")


def test_a_tokenizer_that_is_found_replaces_what_was_declared(tmp_path, monkeypatch):
    class Found:
        spec = TokenizerSpec("ssl-kmeans", "a" * 64, 16_000, 640, (UNITS,))

    monkeypatch.setattr("slm.tokenizers._of_model.load_tokenizer", lambda *_, **__: Found)
    save(tmp_path / "m")
    lm = load_lm(tmp_path / "m")
    before = lm.fingerprint
    assert lm.tokenizer is Found
    assert lm.spec is Found.spec is lm.record.tokenizer
    assert lm.fingerprint != before


@pytest.mark.parametrize(
    ("changes", "told", "message"),
    [
        ({"base_config": None}, None, "no known model_type"),
        ({"base_config": {**BODIES["qwen2"].to_dict(), "num_hidden_layers": 3}}, None, "no model can be made of"),
        ({"base_config": BODIES["opt"].to_dict()}, None, "do not fit base_config"),
        ({"base_config": {**BODIES["qwen2"].to_dict(), "bos_token_id": 5}}, None, "beginning 5 and end 1 is"),
        (
            {"base_config": {**BODIES["gemma"].to_dict(), "model_type": "gemma2", "final_logit_softcapping": 30.0}},
            None,
            "a soft cap on its logits",
        ),
        ({"base_config": {**BODIES["qwen2"].to_dict(), "intermediate_size": 50}}, None, "size mismatch"),
        ({}, {"dedup": True, "text_tokeniser_path": "facebook/opt-125m", "num_units": UNITS}, "text and units"),
        ({}, {"bos_eos_token_id": 1, "pad_token_id": 0, "num_units": UNITS - 1}, "22 rows, but 19 units make 21"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, changes, told, message):
    save(tmp_path / "m", told=told, **changes)
    with pytest.raises(UsageError, match=message):
        load_lm(tmp_path / "m")


def test_a_hub_id_is_fetched_and_a_missing_one_says_so(tmp_path, monkeypatch):
    save(tmp_path / "m")
    asked = []

    def snapshot(repo_id, allow_patterns):
        asked.append((repo_id, allow_patterns))
        return str(tmp_path / "m")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert load_lm("slprl/slam").record.training["published_by"] == "slamkit"
    assert asked == [("slprl/slam", ["*.json", "*.safetensors", "*.model"])]
    monkeypatch.undo()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"no model at nobody/nothing: .*hf download nobody/nothing"):
        load_lm("nobody/nothing")
    with pytest.raises(UsageError, match=r"no model at x+: (File name too long|it has no slm.json)"):
        load_lm("x" * 300)


def test_several_files_are_one_model(tmp_path):
    save(tmp_path / "m")
    whole = load_lm(tmp_path / "m")
    state = load_file(tmp_path / "m/model.safetensors")
    (tmp_path / "m/model.safetensors").unlink()
    names = sorted(state)
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({n: state[n] for n in part}, tmp_path / f"m/model-0000{i + 1}-of-00002.safetensors")
    (tmp_path / "m/model.safetensors.index.json").write_text(json.dumps({"weight_map": {}}))
    assert load_lm(tmp_path / "m").fingerprint == whole.fingerprint


def test_a_bin_is_read_and_nothing_in_it_is_run(tmp_path, monkeypatch):
    save(tmp_path / "m")
    whole = load_lm(tmp_path / "m").fingerprint
    state = load_file(tmp_path / "m/model.safetensors")
    (tmp_path / "m/model.safetensors").unlink()
    asked = []

    def snapshot(repo_id, allow_patterns):
        asked.append(allow_patterns)
        return str(tmp_path / "m")

    for i, part in enumerate((list(state)[::2], list(state)[1::2])):
        torch.save({n: state[n] for n in part}, tmp_path / f"m/pytorch_model-0000{i + 1}-of-00002.bin")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert load_lm("slprl/old").fingerprint == load_lm(tmp_path / "m").fingerprint == whole
    assert asked == [["*.json", "*.safetensors", "*.model"], ["*.json", "*.bin", "*.model"]]

    class Evil:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    torch.save({**state, "lm.x": Evil()}, tmp_path / "m/pytorch_model-00001-of-00002.bin")
    with pytest.raises(UsageError, match=r"00001-of-00002.bin holds more than tensors"):
        load_lm(tmp_path / "m")
    assert not (tmp_path / "ran").exists()
    for contents in (b"PK no zip", b"", [1], {"lm.x": 1}):
        torch.save(contents, tmp_path / "m/pytorch_model-00001-of-00002.bin")
        if isinstance(contents, bytes):
            (tmp_path / "m/pytorch_model-00001-of-00002.bin").write_bytes(contents)
        with pytest.raises(UsageError, match=r"00001-of-00002.bin (cannot be read|holds more)"):
            load_lm(tmp_path / "m")


def test_a_twist_model_as_first_published_says_what_to_take(tmp_path):
    write_json(tmp_path / "config.json", {"model_type": "opt", "offset": 2, "vocab_size": 502})
    with pytest.raises(UsageError, match=r"a TWIST model as first published is not read; docs/evaluation.md tells how"):
        load_lm(tmp_path)


@pytest.mark.parametrize("body", ["opt", "qwen2", "qwen2 untied"])
def test_how_the_documentation_converts_a_twist_model(tmp_path, body):
    """Its lines, on a random model whose units begin at row 4: the softmax over the rows that were kept."""
    torch.manual_seed(5)
    values = {**BODIES[body].to_dict(), "vocab_size": 30, "offset": 4, "pad_token_id": 1, "bos_token_id": 2}
    model = AutoModelForCausalLM.from_config(type(BODIES[body]).from_dict(values), dtype=torch.float32).eval()
    model.save_pretrained(tmp_path / "twist")
    page = (Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")
    lines = page[page.index("    import json, torch\n") : page.index("\nScores are then over these rows")]
    told = 'source, out, units = "TWIST-350M", Path("twist-350m-unitlm"), 500'
    assert told in lines
    here = f"source, out, units = {str(tmp_path / 'twist')!r}, Path({str(tmp_path / 'm')!r}), 20"
    exec(textwrap.dedent(lines).replace(told, here), {})
    lm = load_lm(tmp_path / "m")
    [codes] = units(lm.spec, [25])
    [made] = lm.score_codes([codes])
    runs = codes.codes[:, 0][np.r_[True, codes.codes[1:, 0] != codes.codes[:-1, 0]]].astype(np.int64)
    rows = [1, 2, *range(4, 24)]
    with torch.no_grad():
        logits = model.double()(torch.tensor([[2, *(runs + 4)]])).logits[0][:, rows]
    expected = torch.log_softmax(logits, -1)[torch.arange(len(runs)), torch.tensor(runs + 2)].numpy()
    assert made.log_probs[:, 0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("file", "text", "said"), [
    ("config.json", '{"vocab_size"', "config.json is not JSON"),
    ("config.json", '{"model_type": "unit_lm", "base_config": {}}', "vocab_size is None, not a whole number"),
    ("config.json", '{"model_type": "unit_lm", "vocab_size": "x"}', "vocab_size is 'x', not a whole number"),
    ("tokeniser_config.json", "{", "tokeniser_config.json is not JSON"),
    ("tokeniser_config.json", "[]", "tokeniser_config.json is not a JSON object"),
    ("tokeniser_config.json", '{"bos_eos_token_id": "x"}', "bos_eos_token_id is 'x', not a whole number"),
    ("tokeniser_config.json", '{"bos_eos_token_id": 1, "pad_token_id": 0}', "num_units is None"),
])  # fmt: skip
def test_files_that_are_not_whole_are_one_line(tmp_path, file, text, said):
    save(tmp_path / "m")
    (tmp_path / "m" / file).write_text(text)
    with pytest.raises(UsageError, match=said):
        load_lm(tmp_path / "m")
