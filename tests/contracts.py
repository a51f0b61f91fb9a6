"""The laws: what every tokenizer, pattern, benchmark and metric must satisfy. A new one's test calls its law."""

from __future__ import annotations

import inspect
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from eval.benchmarks.pairs import PairBenchmark
from eval.metrics.base import Metric
from slm.errors import UsageError
from slm.patterns import BOS, EMPTY, EOS, PATTERNS, Pattern
from slm.tokenizers import Tokenizer
from slm.tokenizers._codec import NeuralCodec
from slm.types import AudioClip, Codes, TokenizerSpec
from tests.second_device import second_device


def pattern_law(pattern: Pattern, codes: np.ndarray) -> None:
    """invert∘apply = identity; every code and every end stands exactly once, the end last; each codebook runs forward
    in time; `num_steps` agrees with the layout; its settings make it again; a cut layout is the start of the full one,
    without ends; an open-ended one does not depend on what follows."""
    again = PATTERNS.create(pattern.name, codebook_sizes=pattern.codebook_sizes, **pattern.settings())
    assert np.array_equal(again.layout(len(codes)), pattern.layout(len(codes)))
    if not pattern.has_ends:
        _cut_pattern_law(pattern, codes)
        pattern = pattern.full()
    frames, books = codes.shape
    layout, made = pattern.layout(frames), pattern.apply(codes)
    assert layout.shape == made.steps.shape == made.valid.shape == (pattern.num_steps(frames), len(pattern.streams))
    assert np.array_equal(pattern.invert(made.steps, frames), codes)
    assert sorted(layout[layout >= 0].tolist()) == list(range(frames * books))
    assert ((layout == EOS).sum(axis=0) == 1).all()
    assert (layout[0] == BOS).all()
    assert (layout[1:] != BOS).all()
    step_of = np.full(frames * books, -1)
    step_of[layout[layout >= 0]] = np.nonzero(layout >= 0)[0]
    assert (np.diff(step_of.reshape(frames, books), axis=0) > 0).all()
    for stream in layout.T:
        assert (stream[np.argmax(stream == EOS) + 1 :] == EMPTY).all()
    if pattern.open_ended:
        first_end = int(np.argmax((layout == EOS).any(axis=1)))
        assert np.array_equal(layout[:first_end], pattern.layout(frames + 3)[:first_end])
    for q, vocabulary in enumerate(pattern.streams):
        predicted = made.steps[made.valid[:, q], q]
        assert ((predicted >= 0) & (predicted <= vocabulary.eos_id)).all()
    assert np.array_equal(pattern.gather_ends(made.steps, frames), [v.eos_id for v in pattern.streams])


def _cut_pattern_law(pattern: Pattern, codes: np.ndarray) -> None:
    full = pattern.full()
    assert full.has_ends
    assert full.streams == pattern.streams
    steps = pattern.num_steps(len(codes))
    assert np.array_equal(pattern.layout(len(codes)), full.layout(len(codes))[:steps])
    made, whole = pattern.apply(codes), full.apply(codes)
    assert np.array_equal(made.steps, whole.steps[:steps])
    assert np.array_equal(made.valid, whole.valid[:steps])
    assert not (pattern.layout(len(codes)) == EOS).any()
    if made.valid.sum() < codes.size:
        with pytest.raises(ValueError, match="leaves codes out"):
            pattern.invert(made.steps, len(codes))


def tokenizer_law(tokenizer: Tokenizer, clips: Sequence[AudioClip]) -> None:
    """Codes in range; frames match seconds; batched = single; decoded length; spec complete; bad input refused;
    `num_codebooks` keeps the first ones.

    `clips` are a few distinct ones at the tokenizer's rate, of different lengths, each of ten frames or more.
    """
    _spec_is_complete(tokenizer.spec)
    codes = _encode_checked(tokenizer, clips)
    # A codec of untrained weights may give one code for everything, and then every law below holds of itself.
    assert len(np.unique(np.concatenate([c.codes for c in codes]), axis=0)) >= 4, "the clips give too few codes"
    edges = _edge_clips(tokenizer.spec, max(clips, key=lambda clip: len(clip.samples)))
    _frames_match_seconds(_encode_checked(tokenizer, edges))
    _batched_equals_single(tokenizer, [*clips, *edges, *_equal_lengths(clips)], codes)
    _decodes_to_length(tokenizer, [*codes, *_encode_checked(tokenizer, edges)])
    _refuses_bad_input(tokenizer, clips[0])
    _reloads_from_its_settings(tokenizer, codes, clips)


def _spec_is_complete(spec: TokenizerSpec) -> None:
    assert TokenizerSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert re.fullmatch("[0-9a-f]{64}", spec.fingerprint), "no fingerprint as `fingerprint(settings, weights)` gives"


def _encode_checked(tokenizer: Tokenizer, clips: Sequence[AudioClip]) -> list[Codes]:
    """Encode, and hold every result to the spec: identity, shape, storage type, range."""
    spec, heard = tokenizer.spec, [clip.samples.copy() for clip in clips]
    made = tokenizer.encode(clips)
    for clip, samples in zip(clips, heard, strict=True):
        assert np.array_equal(clip.samples, samples), f"{clip.id}: encoding wrote into its samples"
    assert [c.id for c in made] == [clip.id for clip in clips]
    assert [c.num_samples for c in made] == [len(clip.samples) for clip in clips]
    for each in made:
        assert each.spec == spec
        assert each.codes.shape == (spec.num_frames(each.num_samples), spec.num_codebooks)
        assert each.codes.dtype == spec.code_dtype
        assert (each.codes < np.array(spec.codebook_sizes)).all()
    return made


def _edge_clips(spec: TokenizerSpec, clip: AudioClip) -> list[AudioClip]:
    """Starts of a clip: one sample, and 1, 2 and 5 frames with a sample less or more."""
    lengths = {1} | {frames * spec.hop_samples + extra for frames in (1, 2, 5) for extra in (-1, 0, 1)} - {0}
    return [AudioClip(f"edge-{n}", clip.samples[:n], clip.sample_rate_hz) for n in sorted(lengths)]


def _equal_lengths(clips: Sequence[AudioClip]) -> list[AudioClip]:
    """The clips cut to one length: what a tokenizer may stack, whose rows must not touch each other."""
    shortest = min(len(clip.samples) for clip in clips)
    return [AudioClip(f"equal-{clip.id}", clip.samples[:shortest], clip.sample_rate_hz) for clip in clips]


def _frames_match_seconds(codes: Sequence[Codes]) -> None:
    for each in codes:
        expected = each.duration_s * each.spec.frame_rate_hz
        assert abs(len(each.codes) - expected) < 1 + each.spec.frame_multiple, (
            f"{each.id}: {len(each.codes)} frames where its seconds hold {expected:.1f}"
        )
    frames = [len(each.codes) for each in sorted(codes, key=lambda c: c.num_samples)]
    assert frames == sorted(frames), "a longer clip gives fewer frames"


def _batched_equals_single(tokenizer: Tokenizer, clips: Sequence[AudioClip], before: Sequence[Codes]) -> None:
    """`before` are codes made earlier of some of the clips."""
    shuffled = random.Random(0).sample(list(clips), len(clips))
    together = {c.id: c.codes for c in tokenizer.encode(clips)}
    otherwise = {c.id: c.codes for c in tokenizer.encode(shuffled)}
    for clip in clips:
        alone = tokenizer.encode([clip])[0].codes
        assert np.array_equal(together[clip.id], alone), f"{clip.id}: a batch gives other codes than the clip alone"
        assert np.array_equal(otherwise[clip.id], alone), f"{clip.id}: its neighbours in a batch change its codes"
    for earlier in before:
        assert np.array_equal(earlier.codes, together[earlier.id]), f"{earlier.id}: coded again, it has other codes"


def _decodes_to_length(tokenizer: Tokenizer, codes: Sequence[Codes]) -> None:
    if not tokenizer.spec.has_decoder:
        with pytest.raises(UsageError, match="decoder"):
            tokenizer.decode(codes[0])
        return
    for each in codes:
        before = each.codes.copy()
        clip = tokenizer.decode(each)
        assert np.array_equal(each.codes, before), f"{each.id}: decoding wrote into its codes"
        assert (clip.id, clip.sample_rate_hz) == (each.id, tokenizer.spec.sample_rate_hz)
        assert clip.samples.shape == (each.num_samples,)
        assert clip.samples.dtype == np.float32
        assert np.isfinite(clip.samples).all(), f"{each.id}: decoded to NaN or infinity"
    again = tokenizer.decode(each)
    assert np.array_equal(again.samples, clip.samples), f"{each.id}: decoded again, it is other audio"


def _refuses_bad_input(tokenizer: Tokenizer, clip: AudioClip) -> None:
    rate, bad = clip.sample_rate_hz, clip.samples.copy()
    with pytest.raises(ValueError, match="Hz"):
        tokenizer.encode([AudioClip("rate", clip.samples, rate + 1)])
    with pytest.raises(ValueError, match="no samples"):
        tokenizer.encode([clip, AudioClip("empty", clip.samples[:0], rate)])
    for value in (np.nan, np.inf):
        bad[len(bad) // 2] = value
        with pytest.raises(ValueError, match="NaN"):
            tokenizer.encode([clip, AudioClip("bad", bad, rate)])
    for samples in (clip.samples.astype(np.float64), np.stack([clip.samples] * 2)):
        with pytest.raises(ValueError, match="float32"):
            tokenizer.encode([AudioClip("form", samples, rate)])


def _reloads_from_its_settings(tokenizer: Tokenizer, codes: Sequence[Codes], clips: Sequence[AudioClip]) -> None:
    """`spec.settings` build the same tokenizer again; fewer codebooks are the first columns, and another spec."""
    cls, spec = type(tokenizer), tokenizer.spec
    parameters = inspect.signature(cls).parameters
    assert "device" in parameters, "the constructor takes `device`, be it to ignore it"
    settings = dict(spec.settings) | ({"name": spec.name} if "name" in parameters else {})
    mode = settings.pop("mode", "exact")

    def load(**changes: Any) -> Tokenizer:
        loaded = cls(**{**settings, **changes})
        loaded.use_mode(mode)
        return loaded

    again = load().spec
    differing = [name for name in spec.to_dict() if getattr(again, name) != getattr(spec, name)]
    assert not differing, f"its settings, {dict(spec.settings)}, build one of another {', '.join(differing)}"
    if "num_codebooks" in parameters:
        assert tokenizer.codebook_counts[-1] == spec.num_codebooks
        for n in tokenizer.codebook_counts[:-1]:
            fewer = load(num_codebooks=n)
            assert fewer.spec.codebook_sizes == spec.codebook_sizes[:n], f"num_codebooks={n} gives other codebooks"
            assert fewer.spec.fingerprint != spec.fingerprint, f"num_codebooks={n} has the fingerprint of all"
            for one, all_of_them in zip(fewer.encode(clips[:1]), codes[:1], strict=True):
                assert np.array_equal(one.codes, all_of_them.codes[:, :n]), f"num_codebooks={n} gives other codes"


def fingerprint_law(make: Callable[[Mapping[str, np.ndarray]], Tokenizer], weights: Mapping[str, np.ndarray]) -> None:
    """The tokenizer that `make` makes of weights (name -> array) has the fingerprint of their values: equal ones in
    another order have the same, and one value more or less in any of them gives another."""
    first = make(weights).spec.fingerprint
    again = {name: array.copy() for name, array in reversed(list(weights.items()))}
    assert make(again).spec.fingerprint == first, "the same weights give another fingerprint"
    for name, array in weights.items():
        other = array.copy()
        other.flat[other.size // 2] += 1
        assert make({**weights, name: other}).spec.fingerprint != first, f"another {name} gives the same fingerprint"


def long_audio_law(tokenizer: NeuralCodec, clip: AudioClip) -> None:
    """In float64, where near ties do not flip, a clip coded in many pieces gives what one pass gives, there and back.

    `clip` spans several times what a frame sees. Leaves the tokenizer in float64.
    """
    tokenizer.model.double()
    frames = tokenizer.spec.num_frames(len(clip.samples))
    tokenizer.piece_s = 2 * clip.duration_s
    [whole] = tokenizer.encode([clip])
    there_and_back = tokenizer.decode(whole).samples if tokenizer.spec.has_decoder else None
    for pieces in (2, 3, 7):
        tokenizer.piece_s = (frames // pieces) / tokenizer.spec.frame_rate_hz
        [joined] = tokenizer.encode([clip])
        assert np.array_equal(joined.codes, whole.codes)
        if there_and_back is not None and tokenizer.decoder_context_frames is not None:
            np.testing.assert_allclose(tokenizer.decode(whole).samples, there_and_back, atol=1e-6)


def batching_law(exact: NeuralCodec, batched: NeuralCodec, clips: Sequence[AudioClip]) -> None:
    """In float64, where near ties do not flip, clips of different lengths in one batch give the codes of each alone.

    `batched` is the tokenizer in that mode, with `batch_s` of several clips. Leaves both in float64.
    """
    exact.model.double()
    batched.model.double()
    tensors: list[int] = []
    first = next(module for module in batched.model.modules() if type(module).__name__.endswith("Conv1d"))
    first.register_forward_pre_hook(lambda _, inputs: tensors.append(inputs[0].shape[-1]))
    hop = exact.spec.hop_samples
    cuts = [
        AudioClip(f"{clip.id}-{i}-{cut}", clip.samples[i * 37 : len(clip.samples) - cut], clip.sample_rate_hz)
        for i, clip in enumerate(clips)
        for cut in (0, 1, hop // 2, hop, hop + 1)
    ]
    for alone, together in zip(exact.encode(cuts), batched.encode(cuts), strict=True):
        differing = np.nonzero((alone.codes != together.codes).any(axis=1))[0]
        assert not len(differing), f"{alone.id}: frames {differing[:5]} of {len(alone.codes)} differ in a batch"
    assert len(tensors) <= len(cuts) / 2, "clips did not share batches"


def second_device_law(load: Callable[..., Tokenizer], clips: Sequence[AudioClip]) -> None:
    """On a GPU that is none, what `load(device="cuda", mode=..)` loads has the codes and the audio of `load()`, also
    where clips (of a second or two) share batches: it forgets nothing on the CPU."""
    alone = load()
    expected = alone.encode(clips)
    back = alone.decode(expected[0]).samples if alone.spec.has_decoder else None
    for mode in sorted({"exact", "batched"} & alone.modes.keys()):
        with pytest.MonkeyPatch.context() as patch, second_device():
            there = load(device="cuda", mode=mode)
            if isinstance(there, NeuralCodec):
                assert all(weight.is_cuda for weight in there.model.parameters()), f"{mode}: weights stay on the CPU"
            patch.setattr(there, "batch_s", {"cuda": 8.0}, raising=False)
            made = there.start(clips)()
            audio = None if back is None else there.decode(made[0]).samples
        for mine, theirs in zip(expected, made, strict=True):
            assert np.array_equal(mine.codes, theirs.codes), f"{mode}: {mine.id} has other codes"
        if audio is not None:
            np.testing.assert_allclose(audio, back, atol=1e-6)


def streaming_law(tokenizer: Tokenizer, clips: Sequence[AudioClip], wait_frames: int | None = None) -> None:
    """Chunks of any size give together what `encode` and `decode` give at once (a network in float64), and no more than
    `wait_frames` whole frames of audio are without codes (of a `CausalCodec`: what its first codes need)."""
    if isinstance(tokenizer, NeuralCodec):
        tokenizer.model.double()
    if wait_frames is None:
        wait_frames = tokenizer.encoder_start_frames - 1  # type: ignore[attr-defined]
    hop, chance = tokenizer.spec.hop_samples, random.Random(0)
    lengths = (1, hop, hop + 1, 9 * hop + 5)
    short = [AudioClip(str(n), clips[0].samples[:n], clips[0].sample_rate_hz) for n in lengths]
    for clip in [*short, *clips]:
        [whole] = tokenizer.encode([clip])
        audio = tokenizer.decode_unfilled(whole)
        for longest in (1 if len(clip.samples) <= hop + 1 else hop // 3, hop, 6 * hop, len(clip.samples) + 1):
            encoder, decoder = tokenizer.stream_encoder(), tokenizer.stream_decoder()
            codes = [encoder.feed(chunk) for chunk in _chunks(clip.samples, longest, chance)]
            waiting = len(clip.samples) // hop - sum(map(len, codes))
            assert waiting <= wait_frames, f"{clip.id}: {waiting} frames of audio are without codes"
            codes.append(encoder.finish())
            assert all(part.dtype == tokenizer.spec.code_dtype for part in codes)
            assert np.array_equal(np.concatenate(codes), whole.codes), f"{clip.id} in chunks of up to {longest}"
            made = [decoder.feed(chunk) for chunk in _chunks(whole.codes, -(-longest // hop), chance)]
            samples = np.concatenate([*made, decoder.finish()])
            assert samples.dtype == np.float32
            assert len(samples) == len(whole.codes) * hop
            np.testing.assert_allclose(samples[: len(audio)], audio, rtol=1e-6, atol=1e-9)
    assert not len(tokenizer.stream_encoder().finish())
    assert not len(tokenizer.stream_decoder().finish())
    for stream, chunk in ((encoder, clip.samples), (decoder, whole.codes)):
        with pytest.raises(ValueError, match="finished"):
            stream.feed(chunk)


def _chunks(values: np.ndarray, longest: int, chance: random.Random) -> list[np.ndarray]:
    chunks, start = [], 0
    while start < len(values):
        length = chance.randint(1, longest)
        chunks.append(values[start : start + length])
        start += length
    return chunks


def benchmark_law(benchmark: PairBenchmark, shared: bool = False) -> None:
    """Unique ids; pairs of items that the manifest lists; an oracle scores 1, its opposite 0, a constant 1/2. `shared`:
    an item may stand in several pairs, always on one side."""
    pairs = [(pair.positive, pair.negative) for pair in benchmark.all_pairs]
    items = {item for pair in pairs for item in pair}
    right, wrong = map(set, zip(*pairs, strict=True))
    assert len(pairs) == len(set(pairs)) >= 2
    assert not right & wrong
    assert shared or len(items) == 2 * len(pairs), "an item stands in two pairs"
    assert items <= set(benchmark.files)
    assert all(pair.group for pair in benchmark.all_pairs)
    oracle = dict.fromkeys((p.positive for p in benchmark.all_pairs), 1.0)
    oracle |= dict.fromkeys((p.negative for p in benchmark.all_pairs), -1.0)
    for scores, expected in (
        (oracle, 1.0),
        ({item: -sign for item, sign in oracle.items()}, 0.0),
        (dict.fromkeys(oracle, 0.25), 0.5),
    ):
        judged = [s for s in benchmark.judge(scores, "sum", resamples=20) if s.metric == "pair_accuracy"]
        assert judged[0].count == len({pair.group for pair in benchmark.all_pairs})
        assert {score.value for score in judged} == {expected}
        assert all(0 <= score.interval[0] <= expected <= score.interval[1] <= 1 for score in judged)
        assert all(score.interval[0] < score.interval[1] for score in judged), "a few items are no proof of all"


def metric_law(metric: Metric, items: Sequence[Any], expected: float, better: Sequence[Any]) -> None:
    """The value computed by hand; `better` items move it the way the metric says; the order of items is nothing."""
    assert metric.value(items) == pytest.approx(expected)
    assert all(isinstance(item, metric.observes) for item in items)
    assert metric.unit
    assert metric.about
    assert (metric.value(better) > expected) == metric.higher_is_better
    assert metric.value(better) != pytest.approx(expected)
    for seed in range(5):
        assert metric.value(random.Random(seed).sample(list(items), len(items))) == pytest.approx(expected)
