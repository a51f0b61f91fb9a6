"""Scores against the model asked one clip at a time, and continuations in which nothing impossible comes out."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from slm.errors import UsageError
from slm.generation import Sampling, generate_codes
from slm.model.backbone import build_causal_lm
from slm.model.checkpoint import ModelRecord, save_model
from slm.model.statistics import CodeStatistics
from slm.spoken_lm import SpokenLM, load_lm
from slm.types import Codes
from slm.units import UnitBPE, deduplicate
from tests.fakes import TINY_BACKBONE, ArithmeticTokenizer, markov_codes, random_codes


class Kind(NamedTuple):
    pattern: str = "delay"
    books: int = 2
    dedup: bool = False
    settings: dict[str, Any] = {}  # noqa: RUF012
    vocab_size: int | None = None  # of unit BPE


PATTERN_KINDS = [
    Kind("flat", 1),
    Kind("flat", 2),
    Kind("delay", 3),
    Kind("delay", 3, settings={"valid_steps_only": True}),
    Kind("parallel", 3),
    Kind("unrolled", 3, settings={"flattening": [0, 1, 1], "delays": [0, 1, 1]}),
    Kind("coarse-first", 3, settings={"delays": [0, 1]}),
    Kind("musiclm", 4),
]
BPE_KINDS = [
    Kind("flat", 1, vocab_size=40),
    Kind("flat", 1, dedup=True, vocab_size=40),
    Kind("flat", 2, vocab_size=80),
]
KINDS = [*PATTERN_KINDS, Kind("flat", 1, dedup=True), *BPE_KINDS]


@cache
def make_bpe(books: int, dedup: bool, vocab_size: int) -> UnitBPE:
    tokenizer = ArithmeticTokenizer(books)
    codes = [c.codes for c in markov_codes(tokenizer, 40, seed=1)]
    documents = [deduplicate(c)[0] for c in codes] if dedup else codes
    return UnitBPE.train(documents, tokenizer.spec.codebook_sizes, vocab_size, dedup)


def make_lm(pattern="delay", books=2, dedup=False, settings=None, vocab_size=None, seed=0) -> SpokenLM:
    tokenizer = ArithmeticTokenizer(books)
    bpe = None if vocab_size is None else make_bpe(books, dedup, vocab_size)
    record = ModelRecord(tokenizer.spec, pattern, settings or {}, dedup=dedup, bpe=bpe)
    pairs = [(record.units.apply(c.codes), c.codes) for c in markov_codes(tokenizer, 20)]
    statistics = CodeStatistics.measure(record.units, pairs)
    return SpokenLM(build_causal_lm(TINY_BACKBONE, record.make_pattern(), seed), record, statistics)


def describe(kind: Kind) -> str:
    bpe = None if kind.vocab_size is None else "bpe"
    return "-".join(map(str, filter(None, [kind.pattern, kind.books, *kind.settings, kind.dedup and "dedup", bpe])))


def own_logits(lm: SpokenLM, ids: torch.Tensor) -> torch.Tensor:
    """Ids `[B, S, Q]` -> the logits of the transformers model itself, `[B, S, sum of vocabulary sizes]`."""
    return lm.model.causal_lm(ids if ids.shape[-1] > 1 else ids[..., 0]).logits


@pytest.mark.parametrize("kind", KINDS, ids=describe)
def test_scores_are_those_of_each_clip_alone(kind):
    """Batched with padding = one clip at a time through the bare transformers model, softmax by hand."""
    lm, tokenizer = make_lm(*kind), ArithmeticTokenizer(kind.books)
    codes = [*random_codes(tokenizer, [7, 1, 19, 4]), *markov_codes(tokenizer, 2)]
    for made, clip in zip(lm.score_codes(codes), codes, strict=True):
        document = deduplicate(clip.codes)[0] if kind.dedup else clip.codes
        document = document if lm.record.bpe is None else lm.record.bpe.encode(document)
        steps = lm.pattern.apply(document).steps
        layout = lm.pattern.layout(len(document))
        ids = torch.from_numpy(steps)[None]
        with torch.no_grad():
            logits = own_logits(lm, ids)[0]
        sizes = [v.size for v in lm.pattern.streams]
        assert made.log_probs.shape == document.shape
        assert made.eos_log_probs.shape == (len(sizes) if lm.has_ends else 0,)
        for s in range(1, len(steps)):
            for q, head in enumerate(logits[s - 1].split(sizes)):
                expected = head.log_softmax(-1)[steps[s, q]].item()
                if layout[s, q] >= 0:
                    t, k = divmod(int(layout[s, q]), document.shape[1])
                    assert made.log_probs[t, k] == pytest.approx(expected, abs=2e-5)
                elif steps[s, q] == lm.pattern.streams[q].eos_id and lm.has_ends:
                    assert made.eos_log_probs[q] == pytest.approx(expected, abs=2e-5)
        assert made.id == clip.id
        assert made.duration_s == clip.duration_s


def test_scores_do_not_depend_on_the_batch():
    lm = make_lm()
    codes = random_codes(ArithmeticTokenizer(2), [30, 3, 12, 12, 1])
    together, apart = lm.score_codes(codes), lm.score_codes(codes, max_steps=1)
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=2e-5)


def test_equal_documents_tie_to_the_last_bit():
    """Also when only their units are equal, and whatever stands beside them in a batch."""
    lm = make_lm("flat", 1, dedup=True)
    clips = random_codes(ArithmeticTokenizer(1), [30, 9, 9, 25])
    slower = Codes("slower", np.repeat(clips[1].codes, 3, axis=0), 27 * 160, clips[1].spec)
    made = lm.score_codes([clips[1], clips[0], slower, clips[3]], max_steps=40)
    assert np.array_equal(made[0].log_probs, made[2].log_probs)
    assert made[0].eos_log_probs == made[2].eos_log_probs


def test_codes_of_another_tokenizer_are_refused():
    lm = make_lm(books=2)
    with pytest.raises(UsageError, match="two different tokenizers"):
        lm.score_codes(random_codes(ArithmeticTokenizer(2, bias=1), [5]))


@pytest.mark.parametrize("kind", KINDS, ids=describe)
def test_a_saved_model_scores_the_same_and_opens_in_transformers(tmp_path, kind):
    from transformers import AutoModelForCausalLM

    lm = make_lm(*kind)
    save_model(tmp_path, lm.model.causal_lm, lm.record, lm.statistics)
    loaded = load_lm(tmp_path, device="auto")
    with pytest.raises(UsageError, match="--device gpu cannot be used"):
        load_lm(tmp_path, device="gpu")
    codes = random_codes(ArithmeticTokenizer(kind.books), [9, 5])
    for a, b in zip(lm.score_codes(codes), loaded.score_codes(codes), strict=True):
        np.testing.assert_array_equal(a.log_probs, b.log_probs)
    assert loaded.fingerprint == lm.fingerprint
    assert loaded.record == lm.record
    assert make_lm(*kind, seed=1).fingerprint != lm.fingerprint
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert plain.config.eos_token_id == lm.pattern.streams[0].eos_id
    assert json.loads((tmp_path / "slm.json").read_text())["dedup"] == kind.dedup
    for name in ("frames", "runs"):
        np.testing.assert_array_equal(getattr(loaded.statistics, name), getattr(lm.statistics, name))


def test_a_missing_checkpoint_says_where_one_is(tmp_path):
    lm = make_lm()
    (tmp_path / "run" / "final").mkdir(parents=True)
    save_model(tmp_path / "run" / "final", lm.model.causal_lm, lm.record, lm.statistics)
    with pytest.raises(UsageError, match=r"did you mean .*final"):
        load_lm(tmp_path / "run")
    with pytest.raises(UsageError, match=r"train_lm\.py"):
        load_lm(tmp_path / "nowhere")


def test_untrained_is_another_model_of_the_same_kind():
    lm = make_lm()
    other = lm.untrained(seed=7)
    assert other.convention == lm.convention
    assert other.fingerprint != lm.fingerprint
    assert other.fingerprint == lm.untrained(seed=7).fingerprint


def test_unigram_is_count_plus_one_over_total():
    lm = make_lm("delay", 2)
    clip = random_codes(ArithmeticTokenizer(2), [5])[0]
    made = lm.unigram().score_codes([clip])[0]
    training = markov_codes(ArithmeticTokenizer(2), 20)
    for k in range(2):
        seen = np.concatenate([c.codes[:, k] for c in training]).tolist()
        total = len(seen) + len(training) + 16 + 1
        for t in range(5):
            assert made.log_probs[t, k] == pytest.approx(np.log((seen.count(clip.codes[t, k]) + 1) / total))
        assert made.eos_log_probs[k] == pytest.approx(np.log((len(training) + 1) / total))


@pytest.mark.parametrize("kind", KINDS, ids=describe)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_continuations_keep_the_prompt_and_the_rules(kind, temperature):
    lm = make_lm(*kind)
    prompt = random_codes(ArithmeticTokenizer(kind.books), [6])[0]
    made = lm.continue_codes(prompt, seconds=0.5, seed=3, temperature=temperature, may_stop=False)
    assert np.array_equal(made.codes[:6], prompt.codes)
    assert len(made.codes) == 6 + 25
    assert (made.codes < 16).all()
    again = lm.continue_codes(prompt, seconds=0.5, seed=3, temperature=temperature, may_stop=False)
    assert np.array_equal(made.codes, again.codes)
    if temperature > 0:
        other = lm.continue_codes(prompt, seconds=0.5, seed=4, temperature=temperature, may_stop=False)
        assert not np.array_equal(made.codes, other.codes)


def test_units_last_as_long_as_a_vocoder_predicts():
    class Predicting(ArithmeticTokenizer):
        def predict_durations(self, units):
            return 1 + units[:, 0].astype(np.int64) % 3

    lm = make_lm("flat", 1, dedup=True)
    lm.tokenizer = Predicting(1)
    prompt = random_codes(ArithmeticTokenizer(1), [6])[0]
    by_the_corpus = lm.continue_codes(prompt, seconds=0.5, seed=3, may_stop=False)
    object.__setattr__(lm.spec, "decoder_fingerprint", "a vocoder")
    made = lm.continue_codes(prompt, seconds=0.5, seed=3, may_stop=False).codes
    assert len(made) == 6 + 25
    assert np.array_equal(made[:6], prompt.codes)
    assert not np.array_equal(made, by_the_corpus.codes)
    at = 6
    while at < len(made):
        lasting = 1 + int(made[at, 0]) % 3
        assert (made[at : at + lasting] == made[at]).all()
        at += lasting


def favour(lm: SpokenLM, id: int) -> None:
    """Make one id overwhelmingly likely."""
    head = lm.model.causal_lm.get_output_embeddings()
    biased = torch.nn.Linear(head.in_features, head.out_features)
    biased.weight, biased.bias.data[:] = head.weight, 0.0
    biased.bias.data[id] = 100.0
    lm.model.causal_lm.set_output_embeddings(biased)


def slow_greedy(lm: SpokenLM, prompt: np.ndarray, frames: int) -> np.ndarray:
    """Apply the whole pattern to what exists so far and read off the next code, no cache; the length is known."""
    layout, books = lm.pattern.layout(frames), prompt.shape[1]
    codes = np.zeros((frames, books), np.int64)
    codes[: len(prompt)] = prompt
    for s in range(len(layout)):
        for q, entry in enumerate(layout[s]):
            if entry >= prompt.size:
                t, k = divmod(int(entry), books)
                ids = torch.from_numpy(lm.pattern.apply(codes).steps[None, :s])
                with torch.no_grad():
                    head = own_logits(lm, ids)[0, -1].split(lm.model.stream_sizes)[q]
                offset = int(lm.pattern.id_offsets[k])
                codes[t, k] = int(head[offset : offset + 16].argmax())
    return codes


@pytest.mark.parametrize("kind", PATTERN_KINDS, ids=describe)
def test_greedy_with_a_cache_equals_greedy_without(kind):
    lm = make_lm(*kind)
    prompt = random_codes(ArithmeticTokenizer(kind.books), [4])[0].codes
    fast = generate_codes(lm.model, lm.pattern, prompt, 12, Sampling(temperature=0, may_stop=False), seed=0)
    assert np.array_equal(fast, slow_greedy(lm, prompt, 12))


@pytest.mark.parametrize("kind", PATTERN_KINDS, ids=describe)
def test_a_model_that_wants_to_stop_stops(kind):
    """With the end made overwhelmingly likely, exactly one new frame is drawn, and in every codebook as if it had been
    known to be the last; unless the model was trained without ends."""
    lm = make_lm(*kind)
    prompt = random_codes(ArithmeticTokenizer(kind.books), [4])[0]
    favour(lm, lm.pattern.streams[0].eos_id)
    made = lm.continue_codes(prompt, seconds=1.0, seed=0, temperature=0.0)
    if lm.has_ends:
        assert np.array_equal(made.codes, slow_greedy(lm, prompt.codes, 5))
    else:
        assert len(made.codes) == 54
    assert len(lm.continue_codes(prompt, seconds=1.0, seed=0, may_stop=False).codes) == 54


def test_documents_beyond_the_positions_and_codes_beyond_the_codebook_are_refused():
    lm = make_lm("flat", 1)
    with pytest.raises(UsageError, match="602 steps, but the model has 512 positions"):
        lm.score_codes(random_codes(ArithmeticTokenizer(1), [600]))
    with pytest.raises(UsageError, match="512 positions"):
        lm.continue_codes(random_codes(ArithmeticTokenizer(1), [500])[0], seconds=1, seed=0)
    clip = random_codes(ArithmeticTokenizer(1), [5])[0]
    with pytest.raises(ValueError, match="outside its codebook"):
        lm.score_codes([Codes("bad", clip.codes + 16, clip.num_samples, clip.spec)])
    for wrong in ({"temperature": -1.0}, {"top_k": 0}):
        with pytest.raises(UsageError, match="must"):
            lm.continue_codes(clip, seconds=0.1, seed=0, **wrong)


def test_continue_clip_needs_a_decoder(monkeypatch):
    lm = make_lm("flat", 1)
    monkeypatch.setattr("slm.tokenizers._of_model.load_tokenizer", lambda spec, device: ArithmeticTokenizer(1))
    from tests.fakes import tone

    made = lm.continue_clip(tone(0.2), seconds=0.3, seed=0, may_stop=False)
    assert made.duration_s == pytest.approx(0.5)
    object.__setattr__(lm.spec, "has_decoder", False)
    with pytest.raises(UsageError, match="no decoder"):
        lm.continue_clip(tone(0.2), seconds=0.3, seed=0)
