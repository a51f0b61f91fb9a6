"""The records: the frame rule against a walk through the layers, and what the rest derives from a spec."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

from slm.types import AudioClip, Codes, StreamVocabulary, TokenizerSpec, stable_hash

# (kernel, stride) of the seven convolutions of HuBERT, wav2vec 2.0 and WavLM, none of them padded.
HUBERT = [(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)]


def make_spec(**values) -> TokenizerSpec:
    defaults = {"name": "x", "fingerprint": "0" * 64, "sample_rate_hz": 16_000, "hop_samples": 320}
    return TokenizerSpec(**{**defaults, "codebook_sizes": (1024,), **values})


def walk(num_samples: int, layers: Sequence[tuple[int, int]]) -> int:
    """Frames out of unpadded convolutions, by sliding every window of every layer."""
    length = num_samples
    for kernel, stride in layers:
        length = sum(1 for start in range(0, length, stride) if start + kernel <= length)
    return length


def receptive_field(layers: Sequence[tuple[int, int]]) -> int:
    """Samples under one output frame, walked back from it."""
    samples = 1
    for kernel, stride in reversed(layers):
        samples = (samples - 1) * stride + kernel
    return samples


def test_frames_of_hubert_equal_a_walk_through_its_convolutions() -> None:
    assert receptive_field(HUBERT) == 400
    spec = make_spec(hop_samples=320, frame_offset_samples=320 - 400)
    for num_samples in range(2500):
        assert spec.num_frames(num_samples) == walk(num_samples, HUBERT)


def test_nested_floors_collapse_for_any_stack() -> None:
    rng = random.Random(0)
    for _ in range(30):
        layers = [(stride + rng.randrange(4), stride) for stride in rng.choices([1, 2, 3, 5], k=rng.randint(1, 4))]
        hop = int(np.prod([stride for _, stride in layers]))
        spec = make_spec(hop_samples=hop, frame_offset_samples=hop - receptive_field(layers))
        for num_samples in range(0, 400, rng.randint(1, 7)):
            assert spec.num_frames(num_samples) == walk(num_samples, layers), (layers, num_samples)


def test_a_codec_that_drops_the_tail_and_one_that_fills_it() -> None:
    dropping, filling = make_spec(hop_samples=5), make_spec(hop_samples=5, frame_offset_samples=4)
    signal = list(range(23))
    for num_samples in range(23):
        pieces = [signal[start : start + 5] for start in range(0, num_samples, 5)]
        pieces = [[s for s in piece if s < num_samples] for piece in pieces]
        assert dropping.num_frames(num_samples) == sum(len(piece) == 5 for piece in pieces)
        assert filling.num_frames(num_samples) == len(pieces)


def test_bitrates_of_published_codecs() -> None:
    encodec = make_spec(sample_rate_hz=24_000, hop_samples=320, codebook_sizes=(1024,) * 8)
    assert (encodec.frame_rate_hz, encodec.bitrate_bps) == (75, 6000)
    mimi = make_spec(sample_rate_hz=24_000, hop_samples=1920, codebook_sizes=(2048,) * 8)
    assert (mimi.frame_rate_hz, mimi.bitrate_bps) == (12.5, 1100)
    codec2 = make_spec(sample_rate_hz=8000, hop_samples=320, codebook_sizes=(512, 512, 16, 64))
    assert codec2.bitrate_bps == 700


@pytest.mark.parametrize(("size", "dtype"), [(2, np.uint16), (65_536, np.uint16), (65_537, np.uint32)])
def test_codes_are_stored_in_the_smallest_type_that_holds_the_largest_codebook(size: int, dtype: type) -> None:
    assert make_spec(codebook_sizes=(2, size, 2)).code_dtype is dtype
    assert size - 1 <= np.iinfo(dtype).max


def test_a_spec_survives_json() -> None:
    spec = make_spec(
        codebook_sizes=(512, 16),
        frame_offset_samples=-80,
        semantic_codebooks=(0,),
        has_decoder=False,
        settings={"checkpoint": "a/b", "num_codebooks": 2, "layer": None},
        taxonomy={"domain": "speech"},
    )
    assert TokenizerSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_spec_that_cannot_be_is_refused_with_every_reason() -> None:
    with pytest.raises(ValueError, match=r"is 8000\.0, not a whole") as caught:
        make_spec(
            sample_rate_hz=8000.0, hop_samples=0, frame_multiple=True, frame_offset_samples=0.5,
            semantic_codebooks=(1,), settings={"folder": Path("x")},
        )  # fmt: skip
    for part in ("hop_samples is 0", "frame_multiple is True", "frame_offset_samples is 0.5", "there are 1", "JSON"):
        assert part in str(caught.value)
    for sizes in ((), (1,), [16], (np.int64(16),), 16):
        with pytest.raises(ValueError, match="codebook_sizes"):
            make_spec(codebook_sizes=sizes)


def test_a_spec_of_unknown_fields_is_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        TokenizerSpec.from_dict({**make_spec().to_dict(), "colour": "blue"})


def test_durations_are_in_seconds() -> None:
    assert AudioClip("a", np.zeros(12_000, np.float32), 8000).duration_s == 1.5
    spec = make_spec(sample_rate_hz=16_000)
    assert Codes("a", np.zeros((25, 1), np.uint16), 8000, spec).duration_s == 0.5


def test_records_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        make_spec().name = "y"  # type: ignore[misc]


def test_special_ids_follow_the_codes_and_are_distinct() -> None:
    vocabulary = StreamVocabulary(16)
    ids = [*range(16), vocabulary.eos_id, vocabulary.bos_id, vocabulary.empty_id]
    assert sorted(ids) == list(range(vocabulary.size))


def test_stable_hash_is_the_sha256_of_canonical_json() -> None:
    text = '{"a":1,"b":[2.5,"ä",null]}'
    expected = hashlib.sha256(text.encode("utf-8")).hexdigest()
    assert stable_hash({"b": [2.5, "ä", None], "a": 1}) == expected
    assert stable_hash({"a": 1, "b": (2.5, "ä", None)}) == expected
    assert stable_hash({"a": 1, "b": [2.5, "a", None]}) != expected
