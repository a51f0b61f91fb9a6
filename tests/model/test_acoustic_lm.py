"""The model's log-probabilities and loss against plain transformers and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slm.errors import UsageError
from slm.model.acoustic_lm import AcousticLM
from slm.model.backbone import build_causal_lm, twist_causal_lm
from slm.patterns import PATTERNS
from tests.fakes import TINY_BACKBONE

FAMILIES = [
    TINY_BACKBONE,
    {**TINY_BACKBONE, "model_type": "qwen2"},
    {"model_type": "opt", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64,
     "word_embed_proj_dim": 32, "dropout": 0.0, "max_position_embeddings": 512},
    {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512},
]  # fmt: skip


def make(name="delay", sizes=(8, 8, 8), backbone=TINY_BACKBONE, weights=None, seed=0):
    pattern = PATTERNS.create(name, codebook_sizes=sizes)
    return AcousticLM(build_causal_lm(backbone, pattern, seed), pattern, weights).eval(), pattern


def steps_of(pattern, frames, seed=0):
    codes = np.random.default_rng(seed).integers(0, pattern.codebook_sizes, (frames, pattern.num_codebooks))
    return pattern.apply(codes)


# These do more to their logits than the output layer: a cap, factors, a bias.
SHAPED = [
    {**TINY_BACKBONE, "model_type": "gemma2", "head_dim": 16, "final_logit_softcapping": 0.5},
    {**TINY_BACKBONE, "model_type": "cohere", "logit_scale": 0.25},
    {**TINY_BACKBONE, "model_type": "granite", "logits_scaling": 4.0},
    {"model_type": "gptj", "n_embd": 32, "n_layer": 1, "n_head": 2, "rotary_dim": 8, "n_positions": 64},
]


@pytest.mark.parametrize("backbone", [*FAMILIES, *SHAPED], ids=lambda b: b["model_type"])
def test_one_stream_is_an_ordinary_causal_lm(backbone):
    model, pattern = make("flat", (8,), backbone)
    ids = torch.from_numpy(steps_of(pattern, 11).steps)[None]
    with torch.no_grad():
        logits = model.causal_lm(input_ids=ids[..., 0]).logits.log_softmax(-1)
        made = model.log_probs(ids)[0, :, 0]
    expected = logits[0, :-1].gather(1, ids[0, 1:])[:, 0]
    assert made[0] == 0
    torch.testing.assert_close(made[1:], expected)


def test_weights_follow_from_the_seed_alone_and_no_gpu_is_woken_for_them(monkeypatch):
    """As on a machine of two GPUs, whose state PyTorch would read here and fail: what they draw is not touched."""
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU was seeded"))
    before = torch.get_rng_state()
    made = make("flat", (8,), seed=3)[0].causal_lm
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        expected = AutoModelForCausalLM.from_config(made.config)
    for name, weight in expected.named_parameters():
        assert torch.equal(made.get_parameter(name), weight), name


def test_several_streams_equal_a_slow_reference():
    """Embeddings summed, one softmax a head: computed entry by entry."""
    model, pattern = make()
    ids = torch.from_numpy(steps_of(pattern, 7).steps)
    table, size = model.causal_lm.get_input_embeddings().weight, pattern.streams[0].size
    with torch.no_grad():
        embedded = torch.stack([sum(table[q * size + int(i)] for q, i in enumerate(row)) for row in ids])
        body, heads = model.causal_lm.model, model.causal_lm.lm_head.weight
        logits = body(inputs_embeds=embedded[None]).last_hidden_state[0] @ heads.T
        made = model.log_probs(ids[None])[0]
        for s in range(1, len(ids)):
            for q in range(3):
                head = logits[s - 1, q * size : (q + 1) * size].log_softmax(-1)
                assert made[s, q].item() == pytest.approx(head[ids[s, q]].item(), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "weights"), [("delay", None), ("delay", [100.0, 1.0, 0.5]), ("flat", [2.0, 1.0, 1.0])]
)
def test_loss_sums_equal_a_plain_loop(name, weights):
    model, pattern = make(name, (8, 8, 8), weights=weights)
    steps = steps_of(pattern, 6)
    ids, mask = torch.from_numpy(steps.steps)[None], torch.from_numpy(steps.valid)[None]
    with torch.no_grad():
        log_probs = model.log_probs(ids)[0]
        sums = model(ids, mask, torch.arange(ids.shape[1])[None], with_hits=True)
        logits = model.causal_lm(ids if ids.shape[-1] > 1 else ids[..., 0]).logits[0].split(model.stream_sizes, dim=-1)
        assert model(ids, mask, torch.arange(ids.shape[1])[None]).hits is None
    layout, use = pattern.layout(6), weights or [1.0, 1.0, 1.0]
    nlls, counts, hits, weighted, total = [0.0] * 4, [0] * 4, [0] * 4, 0.0, 0.0
    for s, q in zip(*np.nonzero(steps.valid), strict=True):
        k = layout[s, q] % 3 if layout[s, q] >= 0 else 3
        weight = use[k] if k < 3 else use[q]
        nlls[k] -= log_probs[s, q].item()
        counts[k] += 1
        hits[k] += int(logits[q][s - 1].argmax() == ids[0, s, q])
        weighted -= weight * log_probs[s, q].item()
        total += weight
    assert sums.counts.tolist() == counts
    assert sums.hits.tolist() == hits
    assert sums.nlls.tolist() == pytest.approx(nlls, rel=1e-4)
    assert sums.weighted_nll.item() == pytest.approx(weighted, rel=1e-4)
    assert model.target_weight(ids, mask).item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_sums_and_gradients_of_parts_add_up_to_those_of_the_whole(rows):
    """Rows of different numbers of targets, in batches of 1, 2 or 4: the loss has one denominator for all of them."""
    model, pattern = make("delay", (8, 8), weights=[100.0, 1.0])
    ids, mask = torch.zeros(4, 16, 2, dtype=torch.long), torch.zeros(4, 16, 2, dtype=torch.bool)
    positions = torch.arange(16).repeat(4, 1)
    for row, frames in enumerate((3, 12, 7, 5)):
        made = steps_of(pattern, frames, seed=row)
        ids[row, : len(made.steps)], mask[row, : len(made.steps)] = map(torch.from_numpy, (made.steps, made.valid))
    weight = model.target_weight(ids, mask)
    (model(ids, mask, positions).weighted_nll / weight).backward()
    whole = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    parts = [(ids[i : i + rows], mask[i : i + rows], positions[i : i + rows]) for i in range(0, 4, rows)]
    assert sum(model.target_weight(*part[:2]) for part in parts) == weight
    for part in parts:
        (model(*part).weighted_nll / weight).backward()
    for one, other in zip(whole, (p.grad for p in model.parameters()), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("tied", [True, False])
def test_twist_keeps_the_body_and_starts_a_new_vocabulary(tmp_path, tied):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**TINY_BACKBONE, vocab_size=50, tie_word_embeddings=tied)
    torch.manual_seed(1)
    text = AutoModelForCausalLM.from_config(config)
    text.save_pretrained(tmp_path / "text")
    pattern = PATTERNS.create("flat", codebook_sizes=(8,))
    warm = twist_causal_lm(str(tmp_path / "text"), pattern, seed=0)
    before, after = text.state_dict(), warm.state_dict()
    for name, value in before.items():
        if "embed_tokens" in name or "lm_head" in name:
            assert after[name].shape[0] == pattern.streams[0].size
        else:
            assert torch.equal(after[name], value), name
    assert warm.config.eos_token_id == pattern.streams[0].eos_id
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"]) == tied


def text_model(folder, change):
    """A text model of one layer, its weights changed by `change`."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {**TINY_BACKBONE, "num_hidden_layers": 1, "vocab_size": 50}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields)).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return weights


@pytest.mark.parametrize("change", [
    lambda weights: weights.pop("model.layers.0.mlp.up_proj.weight"),
    lambda weights: weights.update({"model.norm.weight": torch.ones(3)}),
], ids=["missing", "of another shape"])  # fmt: skip
def test_twist_refuses_a_body_whose_weights_would_be_drawn(tmp_path, change):
    text_model(tmp_path, change)
    with pytest.raises(UsageError, match=r"lacks 1 weights of a LlamaForCausalLM, such as model\.(layers|norm)"):
        twist_causal_lm(str(tmp_path), PATTERNS.create("flat", codebook_sizes=(8,)), 0)


@pytest.mark.parametrize("change", [
    lambda weights: weights.pop("lm_head.weight"),
    lambda weights: weights.pop("model.embed_tokens.weight"),
    lambda weights: weights.update({"model.embed_tokens.weight": torch.ones(7, 32)}),
], ids=["no head", "no embeddings", "embeddings of another vocabulary"])  # fmt: skip
def test_twist_may_lack_the_vocabulary_that_it_makes_anew(tmp_path, change):
    weights = text_model(tmp_path, change)
    warm = twist_causal_lm(str(tmp_path), PATTERNS.create("flat", codebook_sizes=(8,)), 0).state_dict()
    for name in weights.keys() - {"lm_head.weight", "model.embed_tokens.weight"}:
        assert torch.equal(warm[name], weights[name]), name


def test_twist_keeps_what_was_learned_in_buffers(tmp_path):
    """By such a bias DeepSeek-V3 and GLM-4 choose experts."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {"model_type": "glm4_moe", "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
              "first_k_dense_replace": 0, "n_group": 1, "topk_group": 1}  # fmt: skip
    text = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**TINY_BACKBONE, **fields}, vocab_size=50))
    biases = [name for name, _ in text.named_buffers() if name.endswith("e_score_correction_bias")]
    for name in biases:
        text.get_buffer(name).copy_(torch.arange(4.0))
    text.save_pretrained(tmp_path)
    warm = twist_causal_lm(str(tmp_path), PATTERNS.create("flat", codebook_sizes=(8,)), 0)
    assert biases
    assert all(torch.equal(warm.get_buffer(name), torch.arange(4.0)) for name in biases)


def test_twist_says_of_a_damaged_file_that_it_is(tmp_path):
    text_model(tmp_path, dict)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UsageError, match=r"init_from: cannot load .*header"):
        twist_causal_lm(str(tmp_path), PATTERNS.create("flat", codebook_sizes=(8,)), 0)


def test_wrong_backbones_are_one_clear_line(tmp_path):
    pattern = PATTERNS.create("flat", codebook_sizes=(8,))
    with pytest.raises(UsageError, match=r"did you mean.*llama"):
        build_causal_lm({"model_type": "lama"}, pattern, 0)
    with pytest.raises(UsageError, match="did you mean 'hidden_size'"):
        build_causal_lm({"model_type": "llama", "hiden_size": 8}, pattern, 0)
    with pytest.raises(UsageError, match=r"init_from: cannot load"):
        twist_causal_lm(str(tmp_path), pattern, 0)


def test_a_model_predicts_what_it_was_taught():
    """Teach one sequence: its log-probability must approach 0, another's must not."""
    model, pattern = make("delay", (8, 8))
    taught, other = steps_of(pattern, 6, 1), steps_of(pattern, 6, 2)
    ids, mask = torch.from_numpy(taught.steps)[None], torch.from_numpy(taught.valid)[None]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        sums = model(ids, mask, torch.arange(ids.shape[1])[None])
        optimizer.zero_grad()
        (sums.weighted_nll / mask.sum()).backward()
        optimizer.step()
    with torch.no_grad():
        known = (model.log_probs(ids) * mask).sum().item()
        unseen = torch.from_numpy(other.steps)[None]
        unknown = (model.log_probs(unseen) * torch.from_numpy(other.valid)[None]).sum().item()
    assert known > -1 > -10 > unknown
