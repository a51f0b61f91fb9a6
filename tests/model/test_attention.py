"""Packed documents are as if alone under every attention backend; what would leak is refused."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch

from slm.errors import UsageError
from slm.model import attention
from slm.model.acoustic_lm import AcousticLM
from slm.model.attention import depends_on_length
from slm.model.backbone import build_causal_lm
from slm.model.check import check_attention
from slm.patterns import PATTERNS
from tests.fakes import TINY_BACKBONE
from tests.model.test_acoustic_lm import FAMILIES, make, steps_of

BACKENDS = ["sdpa", "eager", "by_document", "flex_attention", "varlen", "flash_attention_2", "flash_attention_3"]


def softmax_by_hand(q, k, v, scale):
    """Causal attention of one document `[N, heads, D]`, query by query; keys and values may have fewer heads."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    rows = []
    for t in range(len(q)):
        weights = (torch.einsum("hd,shd->hs", q[t], k[: t + 1]) * scale).softmax(dim=-1)
        rows.append(torch.einsum("hs,shd->hd", weights, v[: t + 1]))
    return torch.stack(rows)


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1)):
    assert causal
    return torch.stack([softmax_by_hand(*one, softmax_scale) for one in zip(q, k, v, strict=True)])


def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
                           softmax_scale=None, causal=False, window_size=(-1, -1)):  # fmt: skip
    """The contract of flash_attn's: `[total, heads, D]`, int32 starts and the total, a bound on lengths."""
    assert causal
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    spans = cu_seqlens_q.tolist()
    assert spans == cu_seqlens_k.tolist()
    assert spans[0] == 0
    assert spans[-1] == len(q)
    assert np.diff(spans).min() > 0
    assert np.diff(spans).max() <= max_seqlen_q == max_seqlen_k
    parts = [slice(a, b) for a, b in pairwise(spans)]
    return torch.cat([softmax_by_hand(q[p], k[p], v[p], softmax_scale) for p in parts])


def varlen_attn(q, k, v, starts, starts_again, longest, longest_again, scale=None):
    """The contract of torch's, of which what this project asks for is bound already."""
    return flash_attn_varlen_func(q, k, v, starts, starts_again, longest, longest_again, 0.0, scale, causal=True)


def dense_flex_attention(q, k, v, block_mask, scale, **_):
    """What torch's flex attention computes of a block mask, which has no gradient on a CPU."""
    from torch.nn.attention.flex_attention import create_mask

    visible = create_mask(block_mask.mask_mod, len(q), q.shape[1], q.shape[2], k.shape[2], device="cpu")
    scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~visible, float("-inf"))
    return scores.softmax(dim=-1) @ v


@pytest.fixture
def on(monkeypatch):
    """`on(model, backend)`: a context in which the model computes with that backend on the CPU, flash attention by
    the functions above under transformers' own code, flex attention not compiled."""
    from transformers import modeling_flash_attention_utils as flash
    from transformers.integrations import flash_attention

    monkeypatch.setattr(attention, "_varlen_attention", lambda: varlen_attn)
    attention.register_attention("varlen")
    attention.register_attention("by_document")
    monkeypatch.setattr(flash_attention, "get_target_dtype", lambda *_: None)  # else it casts to half precision
    monkeypatch.setattr(flash, "_loaded_implementation", None)
    monkeypatch.setattr(flash, "_lazy_imports", lambda *_, **__: (flash_attn_func, flash_attn_varlen_func, *[None] * 3))

    def choose(model, backend):
        model.causal_lm.base_model.config._attn_implementation = backend
        return torch.compiler.set_stance("force_eager") if backend == "flex_attention" else nullcontext()

    return choose


PAIRS = [
    pytest.param(backbone, backend, id=f"{backbone['model_type']}-{backend}")
    for backbone in FAMILIES
    for backend in BACKENDS
    if (backbone["model_type"], backend) != ("gpt2", "flex_attention")  # which transformers' GPT-2 cannot do
]


@pytest.mark.parametrize(("backbone", "backend"), PAIRS)
@pytest.mark.parametrize("name", ["flat", "delay"])
def test_packed_documents_are_as_if_alone(on, backbone, name, backend):
    """Two rows, one with padding, against each document by itself under sdpa."""
    model, pattern = make(name, (8, 8), backbone)
    rows = [(5, 9, 2), (11,)] if name == "delay" else [(5, 9, 2), (13,)]
    length = max(sum(pattern.num_steps(frames) for frames in row) for row in rows)
    ids = torch.zeros(2, length, len(pattern.streams), dtype=torch.long)
    positions, places = torch.zeros(2, length, dtype=torch.long), []
    for b, row in enumerate(rows):
        at = 0
        for frames in row:
            steps = torch.from_numpy(steps_of(pattern, frames, seed=frames).steps)
            ids[b, at : at + len(steps)], positions[b, at : at + len(steps)] = steps, torch.arange(len(steps))
            places.append((b, at, steps))
            at += len(steps)
        positions[b, at:] = torch.arange(length - at)
    assert at < length
    with torch.no_grad():
        expected = [model.log_probs(steps[None])[0] for _, _, steps in places]
        with on(model, backend):
            packed = model.log_probs(ids, positions)
    for (b, at, steps), alone in zip(places, expected, strict=True):
        torch.testing.assert_close(packed[b, at + 1 : at + len(steps)], alone[1:], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_do_not_cross_documents_and_are_those_of_sdpa(on, backend, monkeypatch):
    from transformers.integrations import flex_attention

    monkeypatch.setattr(flex_attention, "compile_friendly_flex_attention", dense_flex_attention)
    model, pattern = make("flat", (8,))
    first, second = steps_of(pattern, 5, 1), steps_of(pattern, 6, 2)
    start = len(first.steps)
    ids = torch.from_numpy(np.concatenate([first.steps, second.steps]))[None].repeat(2, 1, 1)
    positions = torch.cat([torch.arange(start), torch.arange(len(second.steps))])[None].repeat(2, 1)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    mask[0, start + 1 :] = True
    embedded: list[torch.Tensor] = []

    def keep(module, args, output):
        output.retain_grad()
        embedded.append(output)

    model.causal_lm.get_input_embeddings().register_forward_hook(keep)
    gradients = []
    for one in ("sdpa", backend):
        with on(model, one):
            model(ids, mask, positions).weighted_nll.backward()
        gradients.append(embedded[-1].grad[..., 0, :])
    reach = gradients[1].abs().sum(dim=-1)
    assert (reach[1] == 0).all()
    assert (reach[0, :start] == 0).all()
    assert (reach[0, start:-1] > 0).all()
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("backbone", "backend"), PAIRS)
def test_families_that_do_not_leak_pass(backbone, backend):
    """Without any flash attention to be had, which is how it is checked before a run on GPUs."""
    model, pattern = make("delay", (8, 8), backbone)
    model.causal_lm.base_model.config._attn_implementation = backend
    check_attention(model, pattern, 512)
    assert model.causal_lm.base_model.config._attn_implementation == backend


def test_varlen_binds_what_torch_calls_it():
    """Causal, and grouped heads where they must be asked for: by the names of the torch that is installed."""
    bound = attention._varlen_attention()
    if bound is None:
        pytest.skip("torch before 2.11 has none")
    assert bound.keywords["window_size"] == (-1, 0)
    assert set(bound.keywords) <= set(inspect.signature(bound.func).parameters)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({**TINY_BACKBONE, "model_type": "mistral", "sliding_window": 100}, "does not keep packed documents apart"),
        ({"model_type": "mamba2", "hidden_size": 32, "num_hidden_layers": 1, "state_size": 8, "num_heads": 4,
          "head_dim": 16, "n_groups": 1}, "does not keep packed documents apart|cannot be trained on packed"),
        ({"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
          "intermediate_size": 64}, "sees the future"),
    ],
    ids=lambda v: v.get("model_type") if isinstance(v, dict) else "",
)  # fmt: skip
def test_families_that_would_leak_are_refused(backbone, message):
    model, pattern = make("flat", (8,), backbone)
    with pytest.raises(UsageError, match=message):
        check_attention(model, pattern, 160)


@pytest.mark.parametrize("backend", ["by_document", "varlen", "flash_attention_2"])
@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({**TINY_BACKBONE, "model_type": "mistral", "sliding_window": 16}, "does not keep packed documents apart"),
        ({**TINY_BACKBONE, "model_type": "gemma2", "head_dim": 16, "sliding_window": 16},
         "does not keep packed documents apart|cannot be trained"),
        ({"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
          "intermediate_size": 64}, "sees the future"),
    ],
    ids=lambda v: v["model_type"] if isinstance(v, dict) else "",
)  # fmt: skip
def test_what_documents_would_hide_in_training_is_refused(backbone, message, backend):
    """Windows and a look at the future are gone where attention is by documents, but scoring has them."""
    model, pattern = make("delay", (8, 8), backbone)
    model.causal_lm.base_model.config._attn_implementation = backend
    with pytest.raises(UsageError, match=message):
        check_attention(model, pattern, 64)
    assert model.causal_lm.base_model.config._attn_implementation == backend


def test_a_soft_cap_of_scores_is_that_of_the_family():
    """Gemma 2's own eager attention is the truth; with weights at which the cap matters."""
    model, _ = make("flat", (8,), {**TINY_BACKBONE, "model_type": "gemma2", "head_dim": 16, "sliding_window": 512,
                                   "num_key_value_heads": 1, "attn_logit_softcapping": 1.0})  # fmt: skip
    body, ids = model.causal_lm.base_model, torch.randint(8, (1, 12, 1), generator=torch.Generator().manual_seed(0))
    for name, weight in body.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            weight.data *= 20
    attention.register_attention("by_document")
    found = {}
    for backend, cap in [("by_document", 1.0), ("eager", 1.0), ("eager", 50.0)]:
        body.config._attn_implementation = backend
        for layer in body.layers:
            layer.self_attn.attn_logit_softcapping = cap
        found[backend, cap] = model.eval().log_probs(ids, torch.arange(12)[None])
    torch.testing.assert_close(found["by_document", 1.0], found["eager", 1.0], atol=1e-5, rtol=1e-5)
    assert (found["eager", 1.0] - found["eager", 50.0]).abs().max() > 1e-3
    body.config._attn_implementation = "varlen"
    with pytest.raises(UsageError, match="no soft cap"):
        check_attention(model, PATTERNS.create("flat", codebook_sizes=(8,)), 64)


def test_a_family_that_a_backend_cannot_do_is_refused_with_the_remedy():
    model, pattern = make("flat", (8,), next(b for b in FAMILIES if b["model_type"] == "gpt2"))
    model.causal_lm.base_model.config._attn_implementation = "flex_attention"
    with pytest.raises(UsageError, match=r"'gpt2' with 'flex_attention' attention .* model\.attention auto"):
        check_attention(model, pattern, 64)


def test_logits_that_are_made_otherwise_are_refused(monkeypatch):
    """As if a family did more after its output layer than `AcousticLM` knows."""
    model, pattern = make("flat", (8,))
    forward = model.causal_lm.forward

    def sharper(*args, **kwargs):
        made = forward(*args, **kwargs)
        made.logits = made.logits * 2
        return made

    monkeypatch.setattr(model.causal_lm, "forward", sharper)
    with pytest.raises(UsageError, match="makes its logits in a way"):
        check_attention(model, pattern, 64)


def test_by_document_goes_on_from_no_cache():
    query, longer = torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 5, 4)
    with pytest.raises(ValueError, match="whole documents"):
        attention.by_document(None, query, longer, longer, None)


def test_a_depth_transformer_that_sees_the_future_is_refused():
    bidirectional = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "intermediate_size": 32}  # fmt: skip
    pattern = PATTERNS.create("delay", codebook_sizes=(8, 8))
    model = AcousticLM(build_causal_lm(TINY_BACKBONE, pattern, 0, depth=bidirectional), pattern)
    with pytest.raises(UsageError, match="sees the future"):
        check_attention(model, pattern, 64)


@pytest.mark.parametrize(
    ("model_type", "fields", "expected"),
    [
        ("llama", {}, False), ("qwen2", {}, False), ("opt", {}, False), ("gpt2", {}, False), ("gpt_neox", {}, False),
        ("mistral", {"sliding_window": 4096}, False), ("mistral", {"sliding_window": 512}, True),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 512}, True), ("gpt_neo", {"window_size": 256}, True),
        ("gemma2", {"sliding_window": 512}, True),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, True),
    ],
)  # fmt: skip
def test_only_what_depends_on_length_is_checked_at_length(model_type, fields, expected):
    from transformers import AutoConfig

    assert depends_on_length(AutoConfig.for_model(model_type, **fields), 1024) == expected


def test_a_long_row_is_checked_on_a_short_one():
    model, pattern = make("flat", (8,), {**TINY_BACKBONE, "max_position_embeddings": 10**6})
    lengths = []
    model.causal_lm.get_input_embeddings().register_forward_hook(lambda _, a, o: lengths.append(a[0].shape[1]))
    check_attention(model, pattern, 500_000)
    assert max(lengths) == 16
