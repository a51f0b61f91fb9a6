"""The depth transformer against a plain loop, what it may see, and what it can learn that heads cannot."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch

from slm.errors import UsageError
from slm.generation import Sampling, generate_codes
from slm.model import depth, loss
from slm.model.acoustic_lm import AcousticLM
from slm.model.backbone import build_causal_lm
from slm.patterns import PATTERNS
from tests.fakes import TINY_BACKBONE

DEPTH = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
MOSHI = {"delays": [0, 1, 1]}


def make(sizes=(8, 5, 6), settings=MOSHI, fields=DEPTH, seed=0, name="delay", body=TINY_BACKBONE):
    pattern = PATTERNS.create(name, codebook_sizes=sizes, **settings)
    return AcousticLM(build_causal_lm(body, pattern, seed, depth=fields), pattern).eval(), pattern


def steps_of(pattern, frames, seed=0):
    codes = np.random.default_rng(seed).integers(0, pattern.codebook_sizes, (frames, pattern.num_codebooks))
    made = pattern.apply(codes)
    return torch.from_numpy(made.steps)[None], torch.from_numpy(made.valid)[None]


def test_it_equals_a_plain_loop():
    """Step by step and stream by stream: embeddings looked up one by one, the body asked anew for every stream."""
    model, pattern = make()
    ids, _ = steps_of(pattern, 6)
    lm, sizes = model.causal_lm, [v.size for v in pattern.streams]
    starts = np.cumsum([0, *sizes[:-1]])
    temporal, inner = lm.model.embed_tokens.weight, lm.depth.model.embed_tokens.weight
    with torch.no_grad():
        made = model.log_probs(ids)[0]
        for s in range(1, ids.shape[1]):
            read = torch.stack([sum(temporal[starts[q] + ids[0, t, q]] for q in range(3)) for t in range(s)])
            hidden = lm.model(inputs_embeds=read[None]).last_hidden_state[0, -1]
            inputs = []
            for q in range(3):
                one = lm.depth.projection.weight[16 * q : 16 * (q + 1)] @ hidden
                if q > 0:
                    one = one + inner[starts[q - 1] + ids[0, s, q - 1]]
                inputs.append(one)
                state = lm.depth.model(inputs_embeds=torch.stack(inputs)[None]).last_hidden_state[0, -1]
                head = lm.depth.lm_head.weight[starts[q] : starts[q] + sizes[q]]
                expected = (head @ state).log_softmax(dim=0)[ids[0, s, q]]
                assert made[s, q].item() == pytest.approx(expected.item(), abs=1e-5), (s, q)


def test_a_stream_sees_earlier_steps_and_earlier_streams_and_nothing_else():
    model, pattern = make()
    ids, _ = steps_of(pattern, 8)
    with torch.no_grad():
        before = model.log_probs(ids)[0]
        for step, stream in [(3, 0), (4, 1), (5, 2)]:
            changed = ids.clone()
            changed[0, step, stream] = (changed[0, step, stream] + 1) % pattern.codebook_sizes[stream]
            differs = (model.log_probs(changed)[0] - before).abs() > 1e-7
            assert not differs[:step].any()
            assert not differs[step, :stream].any()
            assert differs[step, stream:].all()
            assert differs[step + 1 :].all()


def test_in_chunks_and_with_recomputation_it_is_the_same(monkeypatch):
    """Values and gradients of one pass over all positions, against passes over four at a time."""
    model, pattern = make()
    ids, mask = steps_of(pattern, 17)
    positions = torch.arange(ids.shape[1])[None]
    results = []
    for tokens in (8192, 12):
        monkeypatch.setattr(depth, "CHUNK_TOKENS", tokens)
        model.zero_grad()
        sums = model(ids, mask, positions, with_hits=True)
        sums.weighted_nll.backward()
        results.append((sums, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
        assert len(results[-1][1]) == len(list(model.parameters()))
    (whole, gradients), (parts, others) = results
    assert torch.equal(whole.hits, parts.hits)
    torch.testing.assert_close(whole.nlls, parts.nlls)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], atol=1e-5, rtol=1e-4)


def test_the_loss_is_that_of_its_log_probabilities():
    model, pattern = make()
    ids, mask = steps_of(pattern, 9)
    with torch.no_grad():
        sums = model(ids, mask, torch.arange(ids.shape[1])[None])
        assert sums.weighted_nll.item() == pytest.approx(-(model.log_probs(ids) * mask).sum().item(), rel=1e-5)


def test_a_batch_without_anything_to_predict_reaches_every_parameter():
    """Or processes that wait for each other's gradients would wait for ever."""
    model, pattern = make()
    ids, mask = steps_of(pattern, 4)
    model(ids, torch.zeros_like(mask), torch.arange(ids.shape[1])[None]).weighted_nll.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("with_depth", [True, False])
def test_what_heads_side_by_side_cannot_learn_it_learns(with_depth):
    """Stream 1 repeats stream 0, which is random, in the same step: side by side, the best loss for it is ln 8."""
    pattern = PATTERNS.create("delay", codebook_sizes=(8, 8), delays=[0, 0])
    small = {**TINY_BACKBONE, "num_hidden_layers": 1}
    fields = {**DEPTH, "num_hidden_layers": 1} if with_depth else None
    model = AcousticLM(build_causal_lm(small, pattern, 0, depth=fields), pattern)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(60):
        stream = rng.integers(0, 8, (16, 12, 1))
        made = [pattern.apply(np.repeat(one, 2, axis=1), ends=False) for one in stream]
        ids, mask = (torch.from_numpy(np.stack(x)) for x in zip(*((m.steps, m.valid) for m in made), strict=True))
        sums = model(ids, mask, torch.arange(ids.shape[1]).repeat(16, 1))
        optimizer.zero_grad()
        (sums.weighted_nll / mask.sum()).backward()
        optimizer.step()
        losses.append((sums.nlls / sums.counts)[:2])
    first, second = torch.stack(losses[-10:]).mean(dim=0).tolist()
    assert first > math.log(8) - 0.05
    assert second < 0.3 if with_depth else second > math.log(8) - 0.05


@pytest.mark.parametrize(
    ("name", "settings"),
    [("delay", MOSHI), ("delay", {}), ("parallel", {}), ("coarse-first", {}), ("unrolled", {"flattening": [0, 1, 1]})],
)
def test_greedy_generation_equals_a_loop_without_a_cache(name, settings):
    model, pattern = make(settings=settings, name=name)
    prompt = np.random.default_rng(1).integers(0, 5, (3, 3))
    made = generate_codes(model, pattern, prompt, 8, Sampling(temperature=0, may_stop=False), seed=0)
    layout, codes = pattern.layout(8), np.zeros((8, 3), np.int64)
    codes[:3] = prompt
    for s, q in zip(*np.nonzero(layout >= 0), strict=True):
        if (layout[s, q] // 3) < 3:
            continue
        t, k = divmod(int(layout[s, q]), 3)
        scores = []
        for code in range(pattern.codebook_sizes[k]):
            codes[t, k] = code
            with torch.no_grad():
                scores.append(
                    model.log_probs(torch.from_numpy(pattern.apply(codes).steps)[None, : s + 1])[0, s, q].item()
                )
        codes[t, k] = int(np.argmax(scores))
    assert np.array_equal(made, codes)


def test_a_model_in_training_generates_whatever_it_trains_with():
    """Flash attention that is not there, and a compiler that must not be asked for every new length."""
    model, pattern = make()
    prompt = np.random.default_rng(1).integers(0, 5, (3, 3))
    sampling = Sampling(temperature=0, may_stop=False)
    expected = generate_codes(model, pattern, prompt, 8, sampling, seed=0)
    graphs = []
    model.compile(backend=lambda graph, _: graphs.append(graph) or graph.forward)
    model.causal_lm.base_model.config._attn_implementation = "flash_attention_2"
    assert np.array_equal(generate_codes(model, pattern, prompt, 8, sampling, seed=0), expected)
    assert graphs == []
    assert model.causal_lm.base_model.config._attn_implementation == "flash_attention_2"


def test_a_model_trained_by_documents_generates_where_its_family_has_no_sdpa():
    """Gemma 2 caps its scores."""
    pattern = PATTERNS.create("flat", codebook_sizes=(8,))
    body = {**TINY_BACKBONE, "model_type": "gemma2", "head_dim": 16, "num_hidden_layers": 1}
    prompt, sampling = np.arange(3)[:, None], Sampling(temperature=0, may_stop=False)
    made = [
        generate_codes(
            AcousticLM(build_causal_lm(body, pattern, 0, attention), pattern), pattern, prompt, 8, sampling, 0
        )
        for attention in ("eager", "by_document")
    ]
    assert np.array_equal(*made)


def test_compiled_it_is_the_same(monkeypatch):
    """Layers of both transformers are traced, for batches of different lengths; what comes of them is as without."""
    monkeypatch.setattr(loss, "_compiled_rows", lambda: loss._of_rows)  # compiled in tests of its own
    model, pattern = make(fields={**DEPTH, "num_hidden_layers": 1}, body={**TINY_BACKBONE, "num_hidden_layers": 1})
    batches = [steps_of(pattern, frames) for frames in (9, 14, 9)]
    results, graphs = [], []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    for compiled in (False, True):
        if compiled:
            model.compile(backend=count)
        model.zero_grad()
        sums = [model(ids, mask, torch.arange(ids.shape[1])[None]).weighted_nll for ids, mask in batches]
        torch.stack(sums).sum().backward()
        results.append((torch.stack(sums), [p.grad for p in model.parameters()]))
    assert 2 <= len(graphs) <= 4
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_no_special_token_of_the_family_lies_beyond_the_streams(caplog):
    """Or transformers warns whenever such a configuration is made, or a checkpoint with it is loaded."""
    monitored = logging.getLogger("transformers")
    monitored.addHandler(caplog.handler)
    try:
        model, _ = make(fields={"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2})
        build_causal_lm(
            {**TINY_BACKBONE, "model_type": "arcee"}, PATTERNS.create("flat", {"codebook_sizes": (8,)}), seed=0
        )
    finally:
        monitored.removeHandler(caplog.handler)
    fields = model.causal_lm.config.depth.to_dict()
    assert [v for name, v in fields.items() if name.endswith("_token_id") and v is not None] == []
    assert caplog.text == ""


def test_wrong_depths_are_one_clear_line():
    flat = PATTERNS.create("flat", codebook_sizes=(8, 8))
    with pytest.raises(UsageError, match="has one: leave it out"):
        build_causal_lm(TINY_BACKBONE, flat, 0, depth=DEPTH)
    with pytest.raises(UsageError, match=r"model\.depth: llama has no field 'hiden_size'; did you mean 'hidden_size'"):
        make(fields={"model_type": "llama", "hiden_size": 8})
