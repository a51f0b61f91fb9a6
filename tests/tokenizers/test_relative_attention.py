"""The attention of w2v-BERT and of WavLM, by distances, is that of transformers."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import Wav2Vec2BertConfig
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from slm.tokenizers.networks import relative_attention
from slm.tokenizers.networks.relative_attention import GatedBiasAttention, RelativeKeyAttention


@pytest.fixture(scope="module")
def published() -> Wav2Vec2BertSelfAttention:
    torch.manual_seed(0)
    config = Wav2Vec2BertConfig(hidden_size=128, num_attention_heads=2)
    config._attn_implementation = "sdpa"
    module = Wav2Vec2BertSelfAttention(config).eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return module


@pytest.fixture
def ours(published) -> RelativeKeyAttention:
    module = deepcopy(published)
    module.__class__ = RelativeKeyAttention
    return module


@pytest.mark.parametrize("steps", [1, 16, 17, 64, 65, 73, 400, 767, 1_025])
def test_it_is_the_same(published, ours, steps):
    x = torch.randn(1, steps, 128)
    torch.testing.assert_close(ours(x)[0], published(x)[0], rtol=0, atol=2e-6)


def test_in_parts_of_queries_too(published, ours, monkeypatch):
    monkeypatch.setattr(relative_attention, "_SCORES_AT_A_TIME", 1)
    x = torch.randn(1, 1_700, 128)
    torch.testing.assert_close(ours(x)[0], published(x)[0], rtol=0, atol=2e-6)


def test_rows_with_a_mask_that_is_added(published, ours):
    x, mask = torch.randn(3, 120, 128), torch.zeros(3, 1, 1, 120)
    mask[0, ..., 100:] = mask[2, ..., 30:] = torch.finfo(torch.float32).min
    torch.testing.assert_close(ours(x, mask)[0], published(x, mask)[0], rtol=0, atol=2e-6)


def test_parts_follow_the_formula(ours, monkeypatch):
    """In float64, of parts of a few queries."""
    monkeypatch.setattr(relative_attention, "_SCORES_AT_A_TIME", 1)
    monkeypatch.setattr(relative_attention, "_LEAST_QUERIES", 7)
    module, x = ours.double(), torch.randn(1, 90, 128, dtype=torch.float64)
    query, key, value = (
        layer(x)[0].unflatten(1, (2, 64)).transpose(0, 1)
        for layer in (module.linear_q, module.linear_k, module.linear_v)
    )
    embedding = module.distance_embedding.weight
    made = torch.zeros(2, 90, 64, dtype=torch.float64)
    for head in range(2):
        for i in range(90):
            distances = [min(max(j - i, -64), 8) + 64 for j in range(90)]
            scores = (key[head] + embedding[distances]) @ query[head, i] / 8
            made[head, i] = scores.softmax(0) @ value[head]
    expected = module.linear_out(made.transpose(0, 1).flatten(1))
    torch.testing.assert_close(module(x)[0][0], expected)


@pytest.fixture(scope="module")
def published_gated() -> WavLMAttention:
    torch.manual_seed(0)
    module = WavLMAttention(128, 2).eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.normal_(std=parameter.shape[-1] ** -0.5)
    module.rel_attn_embed.weight.normal_()
    return module


def gated(published: WavLMAttention) -> GatedBiasAttention:
    module = deepcopy(published)
    module.__class__ = GatedBiasAttention
    return module


@pytest.mark.parametrize(("steps", "at_a_time"), [(1, 768), (73, 768), (400, 7), (1_700, 768)])
def test_gated_biases_are_the_same_in_this_layer_and_the_next(published_gated, steps, at_a_time, monkeypatch):
    """Of distances beyond the last bucket too, which begins at 800 frames."""
    monkeypatch.setattr(relative_attention, "_SCORES_AT_A_TIME", 1)
    monkeypatch.setattr(relative_attention, "_LEAST_QUERIES", at_a_time)
    ours, x = gated(published_gated), torch.randn(1, steps, 128)
    here, _, kept = ours(x)
    expected, _, expected_bias = published_gated(x)
    torch.testing.assert_close(here, expected, rtol=0, atol=2e-6)
    following, _, _ = ours(here, position_bias=kept)
    torch.testing.assert_close(following, published_gated(expected, position_bias=expected_bias)[0], rtol=0, atol=2e-6)


def test_gated_rows_with_a_mask(published_gated):
    x, mask = torch.randn(3, 120, 128), torch.ones(3, 120, dtype=torch.bool)
    mask[0, 100:] = mask[2, 30:] = False
    made = gated(published_gated)(x, mask)[0]
    for row, length in zip(range(3), (100, 120, 30), strict=True):
        alone = published_gated(x[row : row + 1, :length])[0]
        torch.testing.assert_close(made[row : row + 1, :length], alone, rtol=0, atol=2e-6)
