"""Generation against a slow loop without a cache, against transformers' own, and each document against itself alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from slm.errors import UsageError
from slm.generation import Generator, Request, Sampling, Speed, generate_codes
from slm.generation.noise import gumbel, step_keys
from slm.generation.plan import KNOWN, MIXED, Plan
from slm.generation.run import CHECK_EVERY
from slm.model.acoustic_lm import AcousticLM
from slm.model.backbone import build_causal_lm
from slm.patterns import PATTERNS
from tests.fakes import TINY_BACKBONE, ArithmeticTokenizer, random_codes
from tests.model.test_depth import DEPTH
from tests.test_spoken_lm import KINDS, describe, favour, make_lm

SIZES = (8, 5, 6)
LAYOUTS = [
    ("flat", {}, None),
    ("delay", {}, None),
    ("delay", {"delays": [0, 0, 1]}, DEPTH),
    ("parallel", {}, None),
    ("parallel", {}, DEPTH),
    ("unrolled", {"flattening": [0, 1, 1]}, None),
    ("coarse-first", {"delays": [0, 1]}, None),
    ("coarse-first", {}, DEPTH),
    ("musiclm", {"group_by": 1}, None),
]


def often(*numbers: int) -> list[Any]:
    """All layouts, of which those by these numbers are tried by `make test` too."""
    return [layout if i in numbers else pytest.param(*layout, marks=pytest.mark.thorough)
            for i, layout in enumerate(LAYOUTS)]  # fmt: skip


def named(value) -> str | None:
    return (value if isinstance(value, str) else "depth" if value is DEPTH else None) if value else None


def make(name, settings, depth=None, seed=0) -> AcousticLM:
    pattern = PATTERNS.create(name, codebook_sizes=SIZES, **settings)
    model = AcousticLM(build_causal_lm(TINY_BACKBONE, pattern, seed, depth=depth), pattern).eval()
    for p in model.parameters():
        p.data *= 3 if p.dim() > 1 else 1  # or all codes would be about as likely
    return model


def prompt_of(frames: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SIZES, (frames, 3))


def scores_of(model, pattern, layout, ids, step, stream, candidates) -> torch.Tensor:
    """ln P of each candidate at a place of a document whose ids `[T * K]` are known before it; no cache."""
    rows = np.repeat(pattern.place(layout[: step + 1], ids)[None], len(candidates), axis=0)
    rows[:, step, stream] = candidates
    with torch.no_grad():
        return model.log_probs(torch.from_numpy(rows))[:, step, stream]


def slowly(model, pattern, prompt, most, sampling: Sampling, seed: int) -> np.ndarray:
    """One place after the other: the whole document is read anew for every candidate there."""
    books, ids, frames = pattern.num_codebooks, np.zeros(most * pattern.num_codebooks, np.int64), most
    ids[: prompt.size] = (prompt + pattern.id_offsets).ravel()
    keys, seen = step_keys(seed, pattern.num_steps(most)), [set() for _ in pattern.streams]
    starts = np.cumsum([0, *(v.size for v in pattern.streams)])
    for step in count():
        if step == pattern.num_steps(frames):
            return (ids[: frames * books].reshape(frames, books) - pattern.id_offsets).astype(np.int64)
        for q in range(len(pattern.streams)):
            layout = pattern.layout(frames)
            due = int(layout[step, q])
            if due >= prompt.size:
                size, offset = pattern.codebook_sizes[due % books], int(pattern.id_offsets[due % books])
                candidates = list(range(offset, offset + size))
                if sampling.may_stop and due % books == 0 and due // books > len(prompt):
                    candidates.append(pattern.streams[q].eos_id)
                scores = scores_of(model, pattern, layout, ids, step, q, candidates)
                if sampling.guidance != 1:
                    shift, heard = len(layout) - pattern.num_steps(frames - len(prompt)), prompt.size
                    without = pattern.layout(frames - len(prompt))
                    other = scores_of(model, pattern, without, ids[heard:], step - shift, q, candidates)
                    scores = other + sampling.guidance * (scores - other)
                for i, candidate in enumerate(candidates):
                    if candidate in seen[q]:
                        scores[i] *= sampling.repetition_penalty  # ln P is never above 0
                if sampling.temperature:
                    noise = gumbel(torch.from_numpy(keys[step])[None], torch.arange(starts[-1]))[0]
                    scores = sampling.filter(scores) + noise[starts[q] + torch.tensor(candidates)]
                chosen = candidates[int(scores.argmax())]
                if chosen == pattern.streams[q].eos_id:
                    frames = due // books
                else:
                    ids[due] = chosen
        for q, due in enumerate(pattern.layout(frames)[step]):
            if due >= 0:
                seen[q].add(int(ids[due]))


@pytest.mark.parametrize(("name", "settings", "depth"), often(0, 1, 2, 3, 5, 7, 8), ids=named)
def test_it_is_what_a_slow_loop_makes(name, settings, depth):
    """Sampled, and with ends that are likely: lengths differ, and so does what stands beside an end."""
    model = make(name, settings, depth)
    pattern = PATTERNS.create(name, codebook_sizes=SIZES, **settings)
    lengths = set()
    for seed in range(4):
        sampling = Sampling(temperature=2.5, top_k=7, top_p=0.97, min_p=0.001)
        prompt = prompt_of(seed % 3, seed)
        made = generate_codes(model, pattern, prompt, 9, sampling, seed)
        assert np.array_equal(made, slowly(model, pattern, prompt, 9, sampling, seed))
        lengths.add(len(made) - len(prompt))
    assert len(lengths) > 1


@pytest.mark.parametrize(("name", "settings", "depth"), LAYOUTS, ids=named)
def test_beside_an_end_stands_what_training_has_there(name, settings, depth):
    pattern = PATTERNS.create(name, codebook_sizes=SIZES, **settings)
    plan = Plan(pattern, [Request(prompt_of(2), 7, 0)], may_stop=True)
    placed, kind, if_ended = (array[:, 0] for array in (plan.placed, plan.kind, plan.if_ended))
    for step, stream in np.argwhere(kind == pattern.num_codebooks):
        frames = plan.frame_due(0, step)
        trained, is_code = pattern.apply(prompt_of(frames)).steps[step], pattern.layout(frames)[step] >= 0
        told = np.where(if_ended == KNOWN, np.where(kind == KNOWN, placed, KNOWN), if_ended)[step]
        beside = slice(stream + 1, None)
        assert (if_ended[step, beside][is_code[beside]] == KNOWN).all()
        assert np.array_equal(told[beside][~is_code[beside]], trained[beside][~is_code[beside]])


@pytest.mark.parametrize(("name", "settings", "depth"), often(0, 1, 2)[:6], ids=named)
def test_guidance_is_what_a_slow_loop_makes_of_two_documents(name, settings, depth):
    model = make(name, settings, depth)
    pattern = PATTERNS.create(name, codebook_sizes=SIZES, **settings)
    prompt, differ = prompt_of(4), False
    for seed, scale in [(0, 2.0), (1, 0.5), (2, 3.0)]:
        sampling = Sampling(guidance=scale, temperature=1.2)
        made = generate_codes(model, pattern, prompt, 10, sampling, seed)
        assert np.array_equal(made, slowly(model, pattern, prompt, 10, sampling, seed))
        differ |= not np.array_equal(made, generate_codes(model, pattern, prompt, 10, Sampling(temperature=1.2), seed))
    assert differ


@pytest.mark.parametrize(("name", "settings", "depth"), often(0, 1, 3)[:6], ids=named)
def test_a_penalty_over_several_streams_is_what_a_slow_loop_makes(name, settings, depth):
    """Each stream has a memory of its own, which the prompt begins. Guidance of all but 1 has the penalty see
    log-probabilities, as the slow loop does."""
    model = make(name, settings, depth)
    pattern = PATTERNS.create(name, codebook_sizes=SIZES, **settings)
    differ = False
    for seed in range(3):
        sampling = Sampling(temperature=1.2, repetition_penalty=1.5, guidance=1 + 1e-7)
        made = generate_codes(model, pattern, prompt_of(4, seed), 10, sampling, seed)
        assert np.array_equal(made, slowly(model, pattern, prompt_of(4, seed), 10, sampling, seed))
        without = generate_codes(
            model, pattern, prompt_of(4, seed), 10, replace(sampling, repetition_penalty=1.0), seed
        )
        differ |= not np.array_equal(made, without)
    assert differ


def test_guidance_needs_a_prompt_that_comes_first():
    model, pattern = make("coarse-first", {}), PATTERNS.create("coarse-first", codebook_sizes=SIZES)
    with pytest.raises(UsageError, match="does not come first"):
        generate_codes(model, pattern, prompt_of(2), 5, Sampling(guidance=2.0), 0)
    model, pattern = make("flat", {}), PATTERNS.create("flat", codebook_sizes=SIZES)
    with pytest.raises(UsageError, match="give one"):
        generate_codes(model, pattern, prompt_of(0), 5, Sampling(guidance=2.0), 0)


def mixed_requests() -> list[Request]:
    return [Request(prompt_of(p, i), p + more, 10 + i) for i, (p, more) in
            enumerate([(4, 6), (0, 9), (5, 6), (14, 5), (4, 3), (4, 6)])]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "depth"), often(0, 1, 2, 6), ids=named)
def test_a_batch_is_its_documents_one_by_one(name, settings, depth):
    """Whatever the lengths, whoever ends first, with a cache that grows or one of fixed size."""
    model = make(name, settings, depth)
    pattern = PATTERNS.create(name, codebook_sizes=SIZES, **settings)
    sampling = Sampling(temperature=2.0, top_p=0.95, repetition_penalty=1.2)
    requests = mixed_requests()
    alone = [generate_codes(model, pattern, r.prompt, r.max_frames, sampling, r.seed) for r in requests]
    assert len({len(a) - len(r.prompt) for a, r in zip(alone, requests, strict=True)}) > 2
    generator = Generator(model, pattern)
    for speed in (Speed(batch_size=4), Speed(batch_size=2, static_cache=True)):
        for one, other in zip(alone, generator.make(requests, sampling, speed), strict=True):
            assert np.array_equal(one, other)


def test_a_document_ends_where_there_is_enough_of_it_and_no_step_is_made_for_long_after():
    lm = make_lm("flat", 1)
    requests = [Request(prompt.codes, 60, i) for i, prompt in enumerate(random_codes(ArithmeticTokenizer(1), [4] * 3))]
    generator, sampling = Generator(lm.model, lm.pattern), Sampling(may_stop=False)
    whole = generator.make(requests, sampling)
    heard = [int(codes[:n].sum()) for codes, n in zip(whole, (5, 22, 37), strict=True)]
    run = generator.start(
        requests, sampling, enough=[lambda units, least=least: units.sum() >= least for least in heard]
    )
    assert 37 <= max(run) <= 37 + CHECK_EVERY
    for row, (codes, least) in enumerate(zip(whole, heard, strict=True)):
        shortest = max(5, int((codes.cumsum() < least).sum()) + 1)  # longer than the prompt
        assert np.array_equal(run.codes(row), codes[:shortest])


@pytest.mark.parametrize("kind", KINDS, ids=describe)
def test_continuations_in_a_batch_are_those_of_each_prompt(kind):
    lm = make_lm(*kind)
    prompts = random_codes(ArithmeticTokenizer(kind.books), [6, 11, 6, 9])
    sampling = Sampling(temperature=1.3, min_p=0.01)
    together = lm.continue_many(prompts, 0.6, 40, sampling)
    for i, (prompt, made) in enumerate(zip(prompts, together, strict=True)):
        alone = lm.continue_codes(prompt, 0.6, 40 + i, temperature=1.3, min_p=0.01)
        assert (made.id, made.num_samples) == (prompt.id, alone.num_samples)
        assert np.array_equal(made.codes, alone.codes)
        assert np.array_equal(made.codes[: len(prompt.codes)], prompt.codes)
    static = lm.continue_many(prompts, 0.6, 40, sampling, Speed(static_cache=True))
    assert all(np.array_equal(a.codes, b.codes) for a, b in zip(together, static, strict=True))


def test_guided_documents_in_a_batch_are_those_of_each_prompt():
    model, pattern = make("delay", {}), PATTERNS.create("delay", codebook_sizes=SIZES)
    sampling = Sampling(temperature=1.5, guidance=2.0)
    requests = [r for r in mixed_requests() if len(r.prompt)]
    made = Generator(model, pattern).make(requests, sampling)
    for request, codes in zip(requests, made, strict=True):
        alone = generate_codes(model, pattern, request.prompt, request.max_frames, sampling, request.seed)
        assert np.array_equal(codes, alone)


@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_one_stream_is_generated_as_transformers_does(penalty):
    """Greedy, for a batch of prompts, until each ends by itself: `generate` of the saved model's own class."""
    lm = make_lm("flat", 1, seed=3)
    lm.model.causal_lm.get_output_embeddings().weight.data[16] *= 3  # the end now comes at times
    prompts = random_codes(ArithmeticTokenizer(1), [5, 5, 5, 5, 5, 5])
    sampling = Sampling(temperature=0, repetition_penalty=penalty)
    ours = lm.continue_many(prompts, 0.5, 0, sampling)
    v = lm.pattern.streams[0]
    for prompt, made in zip(prompts, ours, strict=True):
        ids = torch.tensor([[v.bos_id, *prompt.codes[:, 0].tolist()]])
        theirs = lm.model.causal_lm.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=25, min_new_tokens=1,
            suppress_tokens=[v.bos_id, v.empty_id], repetition_penalty=penalty, pad_token_id=v.eos_id,
        )[0, 1:].tolist()  # fmt: skip
        assert made.codes[:, 0].tolist() == [i for i in theirs if i != v.eos_id]


@pytest.mark.parametrize(("name", "settings", "depth"), often(0, 1, 2, 3, 5, 6, 8), ids=named)
def test_only_possible_codes_come_out(name, settings, depth):
    """Of a model that wants nothing but what cannot stand there."""
    model = make(name, settings, depth)
    pattern = PATTERNS.create(name, codebook_sizes=SIZES, **settings)
    head = model.causal_lm.get_output_embeddings() if depth is None else model.causal_lm.depth.lm_head
    weights = head.weight.data.split(model.stream_sizes)
    for vocabulary, weight in zip(pattern.streams, weights, strict=True):
        weight[vocabulary.num_codes :] = 50 * weight[0]
    for seed in range(5):
        made = generate_codes(model, pattern, prompt_of(2), 12, Sampling(may_stop=False), seed)
        assert made.shape == (12, 3)
        assert (made >= 0).all()
        assert (made < SIZES).all()


def test_a_model_that_learned_to_repeat_goes_on_repeating():
    """Documents that are a random word of 4 codes again and again: the greedy continuation is the word again."""
    pattern = PATTERNS.create("flat", codebook_sizes=(16,))
    model = AcousticLM(build_causal_lm({**TINY_BACKBONE, "hidden_size": 64}, pattern, 0), pattern)
    optimizer, rng = torch.optim.Adam(model.parameters(), lr=3e-3), np.random.default_rng(0)
    for _ in range(150):
        words = rng.permuted(np.tile(np.arange(16), (32, 1)), axis=1)[:, :4]
        made = [pattern.apply(np.tile(word, 6)[:, None], ends=False) for word in words]
        ids, mask = (torch.from_numpy(np.stack(x)) for x in zip(*((m.steps, m.valid) for m in made), strict=True))
        mask[:, :5] = False
        optimizer.zero_grad()
        (model(ids, mask, torch.arange(ids.shape[1]).repeat(32, 1)).weighted_nll / mask.sum()).backward()
        optimizer.step()
    words = rng.permuted(np.tile(np.arange(16), (8, 1)), axis=1)[:, :4]
    requests = [Request(np.tile(word, 2)[:, None], 20, 0) for word in words]
    made = Generator(model.eval(), pattern).make(requests, Sampling(temperature=0, may_stop=False))
    expected = np.stack([np.tile(word, 5) for word in words])
    assert (np.stack(made)[:, :, 0] == expected).mean() > 0.9


def test_compiled_it_is_the_same_and_compiled_once(monkeypatch):
    """Each step is one graph of the body and one of the draw, in one piece, however long the documents and whatever
    comes next."""
    graphs, plain = [], torch.compile

    def traced(function, **settings):
        def count_graphs(graph, _):
            graphs.append(graph)
            return graph.forward

        assert settings == {"mode": "reduce-overhead", "dynamic": False}
        return plain(function, backend=count_graphs, fullgraph=True, dynamic=False)

    monkeypatch.setattr(torch, "compile", traced)
    sampling = Sampling(temperature=1.5, top_k=6, top_p=0.99, min_p=0.001, repetition_penalty=1.1)
    pattern = PATTERNS.create("delay", codebook_sizes=SIZES)
    requests = [Request(prompt_of(4, i), 16, i) for i in range(3)]
    generator = Generator(make("delay", {}), pattern)
    expected = generator.make(requests, sampling)
    for _ in range(2):
        made = generator.make(requests, sampling, Speed(batch_size=2, compile=True))
        assert all(np.array_equal(a, b) for a, b in zip(made, expected, strict=True))
    assert len(graphs) == 2


def test_a_step_makes_no_tensor_of_numbers_of_the_host():
    """Which a GPU would be waited for."""
    made: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made.append(func.name())
            return func(*args, **(kwargs or {}))

    pattern = PATTERNS.create("delay", codebook_sizes=SIZES)
    generator = Generator(make("delay", {}), pattern)
    sampling = Sampling(may_stop=False, top_k=6, top_p=0.9, min_p=0.01, repetition_penalty=1.2, guidance=1.5)
    steps = iter(generator.start([Request(prompt_of(4), 12, 0)], sampling))
    next(steps)
    with Watch():
        next(steps)
    assert len(made) > 50
    assert not {"aten::lift_fresh", "aten::_local_scalar_dense", "aten::nonzero"} & set(made)


def test_from_nothing(monkeypatch):
    lm = make_lm("delay", 2)
    monkeypatch.setattr("slm.tokenizers._of_model.load_tokenizer", lambda spec, device: ArithmeticTokenizer(2))
    made = lm.generate_codes(3, 0.5, seeds=7, sampling=Sampling(may_stop=False))
    assert [c.codes.shape for c in made] == [(25, 2)] * 3
    assert len({c.codes.tobytes() for c in made}) == 3
    assert np.array_equal(
        made[2].codes, lm.generate_codes(1, 0.5, seeds=[9], sampling=Sampling(may_stop=False))[0].codes
    )
    clips = lm.generate(2, 0.5, seeds=7, sampling=Sampling(may_stop=False))
    assert [c.duration_s for c in clips] == [0.5, 0.5]
    assert np.array_equal(clips[0].samples, ArithmeticTokenizer(2).decode(made[0]).samples)
    favour(lm, lm.pattern.streams[0].eos_id)
    assert [len(c.codes) for c in lm.generate_codes(2, 0.5, seeds=0)] == [1, 1]


def test_numbers_that_make_no_sense_are_refused():
    lm = make_lm("flat", 1)
    prompts = random_codes(ArithmeticTokenizer(1), [4, 4])
    for seeds, complaint in (([1], "2 prompts, but 1 seeds"), ([1, 2, 3], "3 seeds"), ([1, 2.5], "whole numbers")):
        with pytest.raises(UsageError, match=complaint):
            lm.continue_many(prompts, 0.2, seeds)
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="seconds must be a finite number above 0"):
            lm.continue_many(prompts, seconds, 0)
    with pytest.raises(UsageError, match="count must be"):
        lm.generate_codes(-1, 0.2, 0)
    with pytest.raises(UsageError, match="batch_size must"):
        Speed(batch_size=0)
    assert lm.continue_many([], 0.2, 0) == []


@pytest.mark.parametrize(("name", "settings", "depth"), LAYOUTS, ids=named)
def test_what_a_plan_tells_of_all_documents_changes_nothing(name, settings, depth, monkeypatch):
    """Drawing looks at each document where nothing is told of all of them."""
    model = make(name, settings, depth)
    pattern = PATTERNS.create(name, codebook_sizes=SIZES, **settings)
    requests = [Request(prompt_of(frames), 9, seed) for seed, frames in enumerate((2, 2, 4))]
    told = Generator(model, pattern).make(requests, Sampling(1.5))
    monkeypatch.setattr("slm.generation.plan.Plan.shared", lambda plan, step: [MIXED] * len(pattern.streams))
    looked = Generator(model, pattern).make(requests, Sampling(1.5))
    assert all(np.array_equal(a, b) for a, b in zip(told, looked, strict=True))


def test_heads_side_by_side_are_those_of_each_stream():
    model = make("delay", {})
    hidden = torch.randn(3, model.causal_lm.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for q, logits in enumerate(model.logits_side_by_side(hidden)):
            known = torch.zeros(3, q, dtype=torch.long)
            torch.testing.assert_close(logits, model.stream_logits(hidden, known))


def test_what_is_no_sampling_is_refused_from_python():
    """Also of a model that knows no ends, whose settings are changed first."""
    for lm in (make_lm("delay", 2), make_lm("musiclm", 4)):
        (prompt,) = random_codes(ArithmeticTokenizer(lm.spec.num_codebooks), [5])
        for wrong in ({"temperature": 1.0}, 0.8):
            with pytest.raises(UsageError, match="sampling must be a Sampling"):
                lm.continue_many([prompt], 0.1, 0, wrong)
        with pytest.raises(UsageError, match="did you mean 'top_k'"):
            lm.continue_codes(prompt, 0.1, 0, topk=5)
        with pytest.raises(UsageError, match="fields of Sampling themselves"):
            lm.continue_codes(prompt, 0.1, 0, sampling={"top_k": 5})
