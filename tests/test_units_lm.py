"""Language models of units: what is particular to durations and to byte-pair encoding."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from slm.errors import UsageError
from slm.generation import Grammar, Sampling, generate_codes
from slm.model.checkpoint import load_record, save_model
from slm.spoken_lm import load_lm
from slm.units import deduplicate
from tests.fakes import ArithmeticTokenizer, markov_codes, random_codes
from tests.test_spoken_lm import BPE_KINDS, describe, favour, make_lm


@pytest.mark.parametrize("kind", BPE_KINDS, ids=describe)
def test_the_checkpoint_carries_its_units(tmp_path, kind):
    lm = make_lm(*kind)
    save_model(tmp_path, lm.model.causal_lm, lm.record, lm.statistics)
    assert lm.record.bpe is not None
    assert json.loads((tmp_path / "slm.json").read_text())["bpe"] == lm.record.bpe.fingerprint
    assert lm.convention["bpe"] == load_lm(tmp_path).convention["bpe"] == lm.record.bpe.fingerprint
    make_lm(*kind._replace(vocab_size=kind.vocab_size + 1)).record.bpe.save(tmp_path / "unit_bpe.model")
    with pytest.raises(UsageError, match="is not the one that the model was trained with"):
        load_record(tmp_path)
    (tmp_path / "unit_bpe.model").unlink()
    with pytest.raises(UsageError, match="no unit BPE at"):
        load_record(tmp_path)


def test_equal_vocabularies_of_other_units_are_other_models():
    """The number of units is the same; which codes they stand for is not."""
    one, other = make_lm("flat", 1, vocab_size=40), make_lm("flat", 1, dedup=True, vocab_size=40)
    state, others = one.model.causal_lm.state_dict(), other.model.causal_lm.state_dict()
    assert all(torch.equal(state[name], others[name]) for name in state)
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize("kind", BPE_KINDS, ids=describe)
def test_unigram_counts_units(kind):
    lm = make_lm(*kind)
    clip = markov_codes(ArithmeticTokenizer(kind.books), 1, seed=9)[0]
    made = lm.unigram().score_codes([clip])[0]
    training = [lm.record.units.apply(c.codes)[:, 0] for c in markov_codes(ArithmeticTokenizer(kind.books), 20)]
    seen = np.concatenate(training).tolist()
    total = len(seen) + len(training) + kind.vocab_size + 1
    expected = [np.log((seen.count(unit) + 1) / total) for unit in lm.record.units.apply(clip.codes)[:, 0]]
    assert made.log_probs[:, 0].tolist() == pytest.approx(expected)


def test_runs_within_units_last_as_long_as_in_the_corpus():
    """Deduplicated and merged: the unit that is made again and again is expanded run by run."""
    lm = make_lm("flat", 1, dedup=True, vocab_size=40)
    bpe = lm.record.bpe
    unit = int(np.argmax([len(bpe.decode(np.array([[i]]))) for i in range(40)]))
    runs = bpe.decode(np.array([[unit]]))[:, 0]
    assert len(runs) > 2
    favour(lm, unit)
    prompt = random_codes(ArithmeticTokenizer(1), [6])[0]
    made = lm.continue_codes(prompt, seconds=0.5, seed=0, may_stop=False).codes
    lasting = np.maximum(1, np.rint(lm.statistics.mean_frames()[runs])).astype(int)
    assert made[6:, 0].tolist() == np.resize(np.repeat(runs, lasting), 25).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_units_of_several_codebooks_make_whole_frames(seed):
    """Only a unit that begins with the codebook that is due can be drawn, and the end only between frames: also by a
    model that prefers half a frame, and then the end."""
    lm = make_lm("flat", 2, vocab_size=80)
    bpe = lm.record.bpe
    begins, lengths = bpe.codebooks()
    favour(lm, int(np.flatnonzero((begins == 0) & (lengths % 2 == 1))[0]))  # half a frame more than whole ones
    lm.model.causal_lm.get_output_embeddings().bias.data[lm.pattern.streams[0].eos_id] = 110.0
    prompt = markov_codes(ArithmeticTokenizer(2), 1, seed=seed)[0]
    units = bpe.encode(prompt.codes)
    grammar = Grammar(begins, lengths, 2)
    made = generate_codes(lm.model, lm.pattern, units, len(units) + 50, Sampling(), seed, grammar)
    assert len(made) > len(units)
    assert lengths[made[:, 0]].sum() % 2 == 0
    codes = bpe.decode(made)
    assert len(codes) > len(prompt.codes)
    assert np.array_equal(codes[: len(prompt.codes)], prompt.codes)
    assert np.array_equal(lm.continue_codes(prompt, 0.2, seed, may_stop=False).codes[: len(prompt.codes)], prompt.codes)


def test_a_document_of_units_is_as_long_as_they_are():
    """600 frames do not fit 512 positions; their units do."""
    lm = make_lm("flat", 1, vocab_size=40)
    clip = markov_codes(ArithmeticTokenizer(1), 1)[0]
    long = type(clip)("long", np.tile(clip.codes, (600 // len(clip.codes) + 1, 1)), 600 * 160, clip.spec)
    assert len(lm.score_codes([long])[0].log_probs) < 512 < len(deduplicate(long.codes)[0])
