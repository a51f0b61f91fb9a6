"""Filters against those of transformers and by hand, draws against the distribution they are from, and what a settings
object refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from slm.errors import UsageError
from slm.generation.noise import gumbel, hash32, step_keys
from slm.generation.sampling import Sampling, guide, penalize, sampling_of


def noise_of(seeds, steps: int, size: int) -> torch.Tensor:
    """`[seeds, steps, size]`."""
    places = torch.arange(size)
    return torch.stack([gumbel(torch.from_numpy(step_keys(seed, steps)), places) for seed in seeds])


LOGITS = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (50, 40))).float()


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"top_k": 1},
        {"top_k": 5},
        {"top_k": 99},
        {"top_p": 0.8},
        {"top_p": 1e-6},
        {"top_p": 1.0},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"temperature": 1.8, "top_k": 12, "top_p": 0.9, "min_p": 0.03},
    ],
)
def test_filters_are_those_of_transformers(settings):
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(settings.get("temperature", 1.0)))])
    if "top_k" in settings:
        warpers.append(TopKLogitsWarper(settings["top_k"]))
    if "top_p" in settings:
        warpers.append(TopPLogitsWarper(settings["top_p"]))
    if "min_p" in settings:
        warpers.append(MinPLogitsWarper(settings["min_p"]))
    expected = warpers(torch.zeros(50, 1, dtype=torch.long), LOGITS.clone())
    assert torch.equal(Sampling(**settings).filter(LOGITS), expected)


def by_hand(logits: list[float], top_k: int, top_p: float, min_p: float) -> set[int]:
    """The codes that three filters leave, one after the other, each on what the one before has left."""
    weights = dict(enumerate(np.exp(np.array(logits) - max(logits))))
    order = sorted(weights, key=lambda i: -weights[i])[:top_k]
    total, held, kept = sum(weights[i] for i in order), 0.0, []
    for i in order:
        if held >= top_p:
            break
        kept.append(i)
        held += weights[i] / total
    return {i for i in kept if weights[i] >= min_p * weights[kept[0]]}


def test_what_is_drawn_is_what_a_filter_by_hand_leaves():
    sampling = Sampling(top_k=8, top_p=0.9, min_p=0.02)
    noise = noise_of(range(20), 200, 40).flatten(0, 1)
    for logits in LOGITS[:10]:
        drawn = set(sampling.choose(logits.expand(len(noise), -1), noise).tolist())
        allowed = by_hand(logits.tolist(), 8, 0.9, 0.02)
        assert drawn <= allowed
        likely = {i for i in allowed if logits.softmax(0)[i] > 0.02}
        assert likely <= drawn


def test_the_coldest_takes_the_likeliest():
    """Where a division by the temperature leaves what a float32 can hold."""
    logits = torch.tensor([[1.0, 9.0, 3.0, 8.0], [-5.0, -9.0, float("-inf"), -2.0]])
    noise = gumbel(torch.tensor([[1, 2], [3, 4]]), torch.arange(4))
    for temperature in (1e-300, 1e-40, 1e-37, 1e-20):
        for more in ({}, {"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 3}):
            assert Sampling(temperature, **more).choose(logits, noise).tolist() == [1, 3]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature):
    """Chi-square, over the steps of one document, and over documents at one step."""
    logits = torch.linspace(-2, 2, 20)[torch.randperm(20, generator=torch.Generator().manual_seed(1))]
    expected = (logits.double() / temperature).softmax(0).numpy()
    sampling = Sampling(temperature=temperature)
    for noise in (noise_of([7], 20_000, 20)[0], noise_of(range(4000), 1, 20)[:, 0]):
        counts = np.bincount(sampling.choose(logits.expand(len(noise), -1), noise), minlength=20)
        assert stats.chisquare(counts, expected * len(noise)).pvalue > 1e-3


def test_noise_is_gumbel_and_independent():
    noise = noise_of([3, 4], 1000, 60).double().numpy()
    assert stats.kstest(noise.ravel(), "gumbel_r").pvalue > 1e-3
    flat = noise.reshape(2, -1)
    for one, other in [(flat[0], flat[1]), (noise[:, :-1].ravel(), noise[:, 1:].ravel()),
                       (noise[:, :, :-1].ravel(), noise[:, :, 1:].ravel())]:  # fmt: skip
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(len(one))
    pairs = np.histogram2d(*(np.exp(-np.exp(-x)) for x in (noise[:, :, 0::2].ravel(), noise[:, :, 1::2].ravel())), 8)[0]
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-3


def test_the_rarest_noise_is_finite(monkeypatch):
    """Or a code that may stand would be as unlikely as one that may not: float32 takes the largest words for 2^32."""
    for word, expected in ((0, 33 * np.log(2)), (2**32 - 1, -np.log(24 * np.log(2)))):
        monkeypatch.setattr("slm.generation.noise.hash32", lambda words, w=word: torch.full_like(words, w))
        assert gumbel(torch.zeros(1, 2, dtype=torch.long), torch.arange(1)).item() == pytest.approx(expected)


def test_the_hash_is_a_permutation_and_the_same_in_unsigned_arithmetic():
    """lowbias32 as its author writes it, in 32 bits that wrap."""
    words = np.random.default_rng(0).integers(0, 2**32, 5000, dtype=np.uint32)
    x = words.copy()
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    assert np.array_equal(hash32(words.astype(np.int64)), x)
    assert torch.equal(hash32(torch.from_numpy(words.astype(np.int64))), torch.from_numpy(x.astype(np.int64)))
    assert len(np.unique(hash32(np.arange(2**18)))) == 2**18


def test_every_whole_number_is_a_seed_of_its_own():
    keys = [tuple(step_keys(seed, 2).ravel()) for seed in (0, 1, -1, 2**31, 2**32, 2**63, 12345678901234567890)]
    assert len(set(keys)) == len(keys)
    assert np.array_equal(step_keys(5, 3), step_keys(5, 10)[:3])


def test_a_penalty_is_that_of_transformers():
    from transformers import RepetitionPenaltyLogitsProcessor

    ids = torch.randint(0, 40, (50, 7), generator=torch.Generator().manual_seed(0))
    seen = torch.zeros(50, 40, dtype=torch.bool).scatter(1, ids, True)
    expected = RepetitionPenaltyLogitsProcessor(1.3)(ids, LOGITS.clone())
    torch.testing.assert_close(penalize(LOGITS, seen, 1.3), expected)


def test_guidance_by_hand():
    """ln p of (0.8, 0.2) against (0.5, 0.5) at scale 2: odds of 4 become 16."""
    made = guide(torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.5, 0.5]]).log() + 3, 2.0)
    assert made.softmax(-1)[0].tolist() == pytest.approx([16 / 17, 1 / 17])
    one, other = LOGITS[:25], LOGITS[25:]
    torch.testing.assert_close(guide(one, other, 1.0), one.log_softmax(-1))
    torch.testing.assert_close(guide(one, other, 0.0), other.log_softmax(-1))


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": 0}, {"top_k": 1.5}, {"top_p": 0.0}, {"top_p": 1.5},
     {"min_p": -0.1}, {"repetition_penalty": 0.0}, {"guidance": -1.0}, {"guidance": float("inf")}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} must"):
        Sampling(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": "hot"}, {"temperature": None}, {"temperature": True}, {"top_k": True}, {"top_k": "5"},
     {"top_p": "0.9"}, {"min_p": [0.1]}, {"repetition_penalty": None}, {"guidance": "2"}, {"may_stop": "no"},
     {"may_stop": None}, {"may_stop": 0}],
)  # fmt: skip
def test_settings_of_another_type_are_refused_by_name(wrong):
    """`may_stop="no"` would be true."""
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} must"):
        Sampling(**wrong)


def test_numbers_of_numpy_are_numbers():
    given = Sampling(np.float32(0.5), np.int64(5), np.bool_(False), np.float64(0.9))
    assert given == Sampling(0.5, 5, False, 0.9)


def test_a_keyword_that_is_no_field_is_told_what_is():
    with pytest.raises(UsageError, match="no 'temprature'; did you mean 'temperature'"):
        sampling_of(temprature=0.5)
    with pytest.raises(UsageError, match=r"fields of Sampling themselves, such as temperature=0\.8"):
        sampling_of(sampling=Sampling())
    assert sampling_of(temperature=0.5, top_p=0.9) == Sampling(0.5, top_p=0.9)


def test_all_complaints_come_at_once():
    with pytest.raises(UsageError, match=r"temperature must.*top_k must.*top_p must"):
        Sampling(temperature=-1, top_k=0, top_p=2)
