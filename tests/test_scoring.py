"""The packed scorer against one clip at a time through the bare transformers model in float64, softmax by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partialmethod
from itertools import pairwise

import numpy as np
import pytest
import torch

from slm.data.trees import find_families, lay_out, pack_families
from slm.model.acoustic_lm import AcousticLM
from slm.model.backbone import build_causal_lm
from slm.patterns import PATTERNS, Pattern
from slm.scoring import DocumentScorer, length_groups
from tests.fakes import TINY_BACKBONE

KINDS = {
    "flat": ("flat", 1, {}),
    "flat, 2 books": ("flat", 2, {}),
    "delay": ("delay", 3, {}),
    "cut delay": ("delay", 3, {"valid_steps_only": True}),
    "parallel": ("parallel", 3, {}),
    "unrolled": ("unrolled", 3, {"flattening": [0, 1, 1], "delays": [0, 1, 1]}),
    "coarse-first": ("coarse-first", 3, {"delays": [0, 1]}),
    "musiclm": ("musiclm", 4, {}),
}
OTHER_FAMILIES = {
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512},
    "opt": {"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 2, "ffn_dim": 64,
            "num_attention_heads": 2, "max_position_embeddings": 512},
    "eager": TINY_BACKBONE,
    "window": {**TINY_BACKBONE, "model_type": "mistral", "sliding_window": 6},
    "bloom": {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 2},
    "mamba": {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}  # fmt: skip
PACKED = {"gpt2", "opt", "eager"}


def make_pattern(kind: str) -> Pattern:
    name, books, settings = KINDS[kind]
    return PATTERNS.create(name, codebook_sizes=(16,) * books, **settings).full()


def make_model(pattern: Pattern, backbone: dict | None = None, depth: dict | None = None) -> AcousticLM:
    causal_lm = build_causal_lm(backbone or TINY_BACKBONE, pattern, 0, depth=depth)
    with torch.no_grad():  # fresh weights are small: larger ones make the attention to others felt
        for name, parameter in causal_lm.named_parameters():
            if parameter.ndim == 2 and "A_log" not in name:
                parameter.mul_(4)
    return AcousticLM(causal_lm, pattern).eval()


def documents(books: int, seed: int = 0) -> list[np.ndarray]:
    """Lengths from 1 to 60; pairs and a triple that begin alike; one that is the beginning of another; twins."""
    rng = np.random.default_rng(seed)

    def fresh(frames: int) -> np.ndarray:
        return rng.integers(0, 16, (frames, books)).astype(np.uint16)

    start, longer = fresh(20), fresh(40)
    made = [fresh(n) for n in (1, 7, 60, 13)]
    made += [np.concatenate([start, fresh(n)]) for n in (4, 9, 1)]
    made += [np.concatenate([longer, fresh(12)]), np.concatenate([longer, fresh(3)]), longer, start]
    made += [np.concatenate([longer, made[-4][40:44], fresh(5)]), made[1].copy(), made[4].copy()]
    return made


def slow(model: AcousticLM, pattern: Pattern, document: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One document, no batch, no packing: float64 logits, log-softmax of each stream written out."""
    causal_lm = copy.deepcopy(model.causal_lm).double()
    steps = pattern.apply(document).steps
    ids = torch.from_numpy(steps)[None]
    with torch.no_grad():
        logits = causal_lm(ids if ids.shape[-1] > 1 else ids[..., 0]).logits[0].numpy()
    values = np.zeros(steps.shape)
    borders = np.cumsum([0, *(v.size for v in pattern.streams)])
    for s in range(1, len(steps)):
        for q, (low, high) in enumerate(pairwise(borders)):
            row = logits[s - 1, low:high]
            values[s, q] = row[steps[s, q]] - row.max() - math.log(np.exp(row - row.max()).sum())
    return pattern.gather(values, len(document)), pattern.gather_ends(values, len(document))


def assert_close(found, expected, atol: float = 1e-5) -> None:
    for (values, ends), (wanted, wanted_ends) in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, wanted, atol=atol, rtol=0)
        np.testing.assert_allclose(ends, wanted_ends, atol=atol, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_pattern_agrees_with_a_slow_scorer_in_float64(kind):
    pattern = make_pattern(kind)
    model, given = make_model(pattern), documents(pattern.num_codebooks)
    given.append(given[0][:0])  # a clip shorter than a frame: only ends are predicted
    expected = [slow(model, pattern, d) for d in given]
    assert np.std(np.concatenate([v.reshape(-1) for v, _ in expected])) > 0.1, "everything is alike to this model"
    scorer = DocumentScorer(model, pattern)
    for options in ({}, {"max_steps": 1}, {"share": False}, {"pack": False}, {"pack": False, "max_steps": 100}):
        assert_close(scorer.score(given, **options), expected)


def test_a_model_that_takes_no_trees_is_told_from_a_want_of_memory(monkeypatch, capsys):
    pattern = make_pattern("flat")
    model, given = make_model(pattern), documents(1)
    forward = type(model.causal_lm.base_model).forward

    def fails(self, **inputs):
        if inputs.get("attention_mask") is not None:
            raise fault
        return forward(self, **inputs)

    monkeypatch.setattr(type(model.causal_lm.base_model), "forward", fails)
    fault = torch.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(torch.OutOfMemoryError):
        DocumentScorer(model, pattern).score(given)
    assert capsys.readouterr().err == ""
    fault, scorer = RuntimeError("Expected all tensors on the same device\nand more"), DocumentScorer(model, pattern)
    for _ in range(2):
        assert_close(scorer.score(given), [slow(model, pattern, d) for d in given])
    told = "takes no trees (RuntimeError: Expected all tensors on the same device)"
    assert capsys.readouterr().err.count(told) == 1


def test_whatever_the_model_reads_was_sent_to_its_device(monkeypatch):
    """A plain copy would wait for what a GPU was given before, and it would have nothing to do in the meantime."""
    pattern = make_pattern("delay")
    model, sent, read = make_model(pattern), [], []
    monkeypatch.setattr("slm.scoring.sent", lambda tensor, device: sent.append(tensor.to(device)) or sent[-1])
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda ids: read.append(ids) or embed(ids))
    DocumentScorer(model, pattern).score(documents(3), 128)
    assert len(read) > 3
    assert {ids.data_ptr() for ids in read} <= {tensor.data_ptr() for tensor in sent}


@pytest.mark.parametrize("kind", ["flat", "delay"])
def test_order_changes_nothing_at_all_and_twins_are_equal_to_the_last_bit(kind):
    pattern = make_pattern(kind)
    scorer, given = DocumentScorer(make_model(pattern), pattern), documents(pattern.num_codebooks)
    whole = scorer.score(given)
    order = np.random.default_rng(1).permutation(len(given)).tolist()
    for i, (values, ends) in zip(order, scorer.score([given[i] for i in order]), strict=True):
        assert np.array_equal(values, whole[i][0])
        assert np.array_equal(ends, whole[i][1])
    assert np.array_equal(whole[1][0], whole[-2][0])
    assert np.array_equal(whole[4][0], whole[-1][0])
    assert np.array_equal(whole[4][0][:18], whole[5][0][:18]), "what is shared is one thing"


@pytest.mark.parametrize("kind", ["flat", "delay"])
def test_long_ones_that_share_nothing_have_rows_of_their_own_beside_others_as_long(kind, monkeypatch):
    pattern, rng = make_pattern(kind), np.random.default_rng(2)
    books, padded, groups = pattern.num_codebooks, DocumentScorer._padded, []
    long = [rng.integers(0, 16, (n, books)).astype(np.uint16) for n in (100, 70, 96, 200, 98)]
    given, model = [*documents(books), *long], make_model(pattern)

    def spied(self, steps, *settings):
        groups.append(len(steps))
        return padded(self, steps, *settings)

    scorer = DocumentScorer(model, pattern)
    assert scorer._packs(256)
    monkeypatch.setattr(DocumentScorer, "_padded", spied)
    whole = scorer.score(given)
    assert groups == [len(long) + (kind == "delay")]  # in which one of 60 frames takes 64 steps
    assert_close(whole, [slow(model, pattern, d) for d in given])
    for made, again in zip(whole, scorer.score(given[::-1])[::-1], strict=True):
        assert np.array_equal(made[0], again[0])
        assert np.array_equal(made[1], again[1])


def test_groups_are_of_documents_about_as_long():
    assert list(length_groups([10, 100, 80, 70, 74, 9], 10_000, 0.75)) == [[1, 2], [4, 3], [0, 5]]
    assert list(length_groups([10, 100, 80, 70], 160)) == [[1], [2, 3], [0]]


@pytest.mark.parametrize("kind", ["flat", "parallel"])
def test_a_uniform_model_gives_minus_log_v_for_everything(kind):
    pattern = make_pattern(kind)
    model = make_model(pattern)
    torch.nn.init.zeros_(model.causal_lm.get_output_embeddings().weight)
    expected = [float(np.float32(-np.log(np.float32(v.size)))) for v in pattern.streams]
    for values, ends in DocumentScorer(model, pattern).score(documents(pattern.num_codebooks)):
        assert np.array_equal(values, np.broadcast_to(expected, values.shape))
        assert ends.tolist() == expected


@pytest.mark.parametrize("name", OTHER_FAMILIES)
def test_other_families_are_packed_only_where_they_do_as_told(name):
    pattern = make_pattern("flat")
    model, given = make_model(pattern, OTHER_FAMILIES[name]), documents(1)
    if name == "eager":
        model.causal_lm.set_attn_implementation("eager")
    scorer = DocumentScorer(model, pattern)
    assert scorer._packs(62) == (name in PACKED)
    assert_close(scorer.score(given), [slow(model, pattern, d) for d in given], atol=1e-4)


def test_a_depth_transformer_scores_the_same_packed_and_alone():
    pattern = make_pattern("parallel")
    model = make_model(pattern, depth=TINY_BACKBONE)
    assert hasattr(model.causal_lm, "depth")
    scorer, given = DocumentScorer(model, pattern), documents(3)
    assert_close(scorer.score(given), [scorer.score([d], pack=False)[0] for d in given])


def test_a_beginning_is_computed_once_and_nothing_is_lost():
    """Trees by hand: 0 and 1 share 10 steps, 2 shares 12 with 1, 3 nothing."""
    steps = [np.array([[0, *range(1, 10), *tail]]).T for tail in ([20, 21], [30, 31, 32], [30, 31, 40, 41])]
    steps.append(np.array([[5, 6, 7]]).T)
    families = find_families(steps)
    assert sorted(f.size for f in families) == [3, 12 + 3 + 2]
    [(length, rows)] = pack_families(families, 1000)
    laid = lay_out(rows, length, steps, np.array([99]))
    assert laid.ids.shape == (1, 20, 1)
    for member, way in laid.ways:
        assert laid.ids.reshape(-1)[way].tolist() == steps[member][:, 0].tolist()
        assert laid.depths.reshape(-1)[way].tolist() == list(range(len(way)))
        assert laid.parents.reshape(-1)[way].tolist() == [-1, *way[:-1].tolist()]
        for at in range(20):  # a step sees its own way, and nothing else
            for step in way[way >= at]:
                seen = at <= step < laid.ends[0, at]
                assert seen == any(at in w and step in w for _, w in laid.ways)
    assert [f.size for f in find_families(steps, share=False)] == [12, 13, 14, 3]


def test_documents_too_long_to_share_a_row_still_come_out():
    rng = np.random.default_rng(0)
    start = rng.integers(0, 16, (300, 1))
    many = [np.concatenate([start, rng.integers(0, 16, (100, 1))]) for _ in range(12)]
    pattern = make_pattern("flat")
    model = make_model(pattern)
    scorer = DocumentScorer(model, pattern)
    assert_close(scorer.score(many), [scorer.score([d], pack=False)[0] for d in many])


def test_bf16_is_near_and_not_equal():
    pattern = make_pattern("flat")
    model, given = make_model(pattern), documents(1)
    exact, rounded = (DocumentScorer(model, pattern, p).score(given) for p in ("float32", "bf16"))
    assert_close(rounded, exact, atol=0.5)
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(rounded, exact, strict=True))


@pytest.mark.parametrize("precision", ["medium", "highest"])
def test_float32_is_exact_whatever_the_program_around_asked_for(precision, monkeypatch):
    """On GPUs "medium" and "high" make TF32 of it, on some CPUs "medium" bfloat16."""
    pattern = make_pattern("flat")
    model, seen = make_model(pattern), set()
    forward = torch.nn.Linear.forward

    def watched(self, x):
        seen.add(torch.get_float32_matmul_precision())
        return forward(self, x)

    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    try:
        torch.set_float32_matmul_precision(precision)
        DocumentScorer(model, pattern).score(documents(1))
        after = torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision(before)
    assert (seen, after) == ({"highest"}, precision)


@pytest.mark.parametrize("window", [None, 6])
def test_on_a_gpu_rows_in_float32_have_keys_for_every_head(window, monkeypatch):
    """Where fewer are left to PyTorch, its kernel for them in float32 holds all scores of a row."""
    family = {"model_type": "mistral", "sliding_window": window} if window else {}
    pattern = make_pattern("flat")
    model = make_model(pattern, {**TINY_BACKBONE, **family, "num_attention_heads": 4, "num_key_value_heads": 2})
    rng, heads = np.random.default_rng(0), set()
    long = [rng.integers(0, 16, (frames, 1)) for frames in (70, 75, 90)]
    expected = DocumentScorer(model, pattern).score(long)
    attend = torch.nn.functional.scaled_dot_product_attention

    def spied(query, key, value, *rest, **settings):
        heads.add((query.shape[1], key.shape[1], value.shape[1], settings.get("enable_gqa", False)))
        return attend(query, key, value, *rest, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spied)
    monkeypatch.setattr(DocumentScorer, "device_type", "cuda")
    for (made, end), (known, known_end) in zip(DocumentScorer(model, pattern).score(long), expected, strict=True):
        np.testing.assert_allclose(made, known, atol=1e-5)
        np.testing.assert_allclose(end, known_end, atol=1e-5)
    assert heads == {(4, 4, 4, False)}
    assert model.causal_lm.base_model.config._attn_implementation == "sdpa"


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "device"), [("flat", "cuda"), ("delay", "cpu")])
def test_compiled_it_is_the_same_and_compiled_once_for_rows_of_any_shape(kind, device, monkeypatch):
    """On a GPU rows in float32 attend otherwise: compiled too."""
    pattern, rng, graphs = make_pattern(kind), np.random.default_rng(3), []
    backbone = {**TINY_BACKBONE, "num_attention_heads": 4, "num_key_value_heads": 2}
    model, books = make_model(pattern, backbone), pattern.num_codebooks
    given = [*documents(books), *(rng.integers(0, 16, (n, books)) for n in (100, 70, 96, 200, 98, 400))]
    monkeypatch.setattr(DocumentScorer, "device_type", device)
    expected = DocumentScorer(model, pattern).score(given)
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=counted(graphs)))
    torch._dynamo.reset()
    model.compile(dynamic=True)
    scorer = DocumentScorer(model, pattern)
    for most in (None, 512, 100):
        assert_close(scorer.score(given, most), expected)
    many = len(graphs)
    assert 4 <= many <= 8, "of layers and of the loss: rows with a mask and without, one and several"
    assert_close(scorer.score(given[::2], 300), expected[::2])
    assert len(graphs) == many


def counted(graphs: list) -> Callable:
    def compiled(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    return compiled
