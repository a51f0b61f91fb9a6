"""Audio while it is made, against all of it at once, with causal codecs of random weights on speech."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from slm.errors import UsageError
from slm.generation import Sampling
from slm.model.backbone import build_causal_lm
from slm.model.checkpoint import ModelRecord
from slm.model.statistics import CodeStatistics
from slm.spoken_lm import SpokenLM
from slm.tokenizers import load_tokenizer
from slm.types import AudioClip
from tests.fakes import TINY_BACKBONE, ArithmeticTokenizer, random_codes, tone
from tests.test_spoken_lm import favour, make_lm
from tests.tokenizers.light_codecs import RATES_HZ, make_model, speech


@pytest.fixture(scope="module", params=["encodec", "mimi"])
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    make_model(request.param).save_pretrained(folder)
    return load_tokenizer(request.param, checkpoint=str(folder), num_codebooks=3)


def speaking(tokenizer, pattern: str) -> SpokenLM:
    record = ModelRecord(tokenizer.spec, pattern, {})
    codes = random_codes(tokenizer, [9])[0].codes
    statistics = CodeStatistics.measure(record.units, [(codes, codes)])
    lm = SpokenLM(build_causal_lm(TINY_BACKBONE, record.make_pattern(), 0), record, statistics)
    lm.tokenizer = tokenizer
    return lm


@pytest.mark.parametrize("pattern", ["delay", "flat", "coarse-first"])
def test_chunks_joined_are_what_is_added_to_the_clip(tokenizer, pattern):
    lm, sampling = speaking(tokenizer, pattern), Sampling(may_stop=False)
    spoken = speech(RATES_HZ[tokenizer.spec.name.split("-")[0]], clips=1)[0]
    hop = tokenizer.spec.hop_samples
    heard = min(12, len(spoken.samples) // hop)
    clip = AudioClip("x", spoken.samples[: heard * hop - 7], spoken.sample_rate_hz)  # the tail is filled up to a frame
    seconds = 20 * hop / spoken.sample_rate_hz
    whole = lm.continue_clips([clip], seconds, [5], sampling)[0]
    stream = lm.stream(clip, seconds, 5, sampling, chunk_frames=4)
    assert inspect.isgenerator(stream)
    chunks = list(stream)
    assert len(chunks) >= 4
    added = whole.samples[heard * hop :]
    np.testing.assert_allclose(np.concatenate(chunks), added, atol=1e-4 * np.abs(added).max())
    assert np.abs(added).max() > 1e-3


def test_from_nothing_and_until_the_end(tokenizer):
    lm, hop = speaking(tokenizer, "delay"), tokenizer.spec.hop_samples
    made = np.concatenate(list(lm.stream(None, 15 * hop / tokenizer.spec.sample_rate_hz, 3, Sampling(may_stop=False))))
    assert len(made) == 15 * hop
    favour(lm, lm.pattern.streams[0].eos_id)
    assert len(np.concatenate(list(lm.stream(None, 1.0, 3)))) == hop


@pytest.mark.parametrize(
    "kind",
    [("delay", 2), ("coarse-first", 3), ("flat", 1, True), ("flat", 1, True, None, 40), ("flat", 2, False, None, 80)],
    ids=str,
)
def test_codes_come_in_order_and_once_for_units_too(kind):
    """And before the document is finished, where the pattern allows."""
    lm = make_lm(*kind)
    prompt = random_codes(ArithmeticTokenizer(kind[1]), [7])[0]
    sampling = Sampling(temperature=1.2)
    from slm.generation import Speed

    for seed in range(4):
        chunks = list(lm.continuer.stream(prompt, 0.8, seed, sampling, Speed(), 3))
        whole = lm.continue_many([prompt], 0.8, [seed], sampling)[0]
        assert np.array_equal(np.concatenate([prompt.codes, *chunks]), whole.codes)
        assert all(len(chunk) >= 3 for chunk in chunks[:-1])
    assert len(chunks) > 2


def test_what_cannot_be_streamed_says_so_at_once(monkeypatch):
    lm = make_lm("flat", 1)
    monkeypatch.setattr("slm.tokenizers._of_model.load_tokenizer", lambda spec, device: ArithmeticTokenizer(1))
    with pytest.raises(UsageError, match="cannot be streamed"):
        lm.stream(tone(0.2), 0.3, 0)
    with pytest.raises(UsageError, match="chunk_frames"):
        lm.stream(tone(0.2), 0.3, 0, chunk_frames=0)
