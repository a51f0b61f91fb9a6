"""EnCodec and Mimi as streams: what they give chunk by chunk is what they give at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.tokenizers.laws import streaming_law
from slm.types import AudioClip
from tests.tokenizers.light_codecs import HOPS, RATES_HZ, make_model, speech
from tests.tokenizers.speech import real_clips

CAUSAL = ("encodec", "mimi")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    for family in (*CAUSAL, "dac"):
        make_model(family).save_pretrained(root / family)
    return {family: root / family for family in (*CAUSAL, "dac")}


def load(folders: dict[str, Path], family: str, **settings: Any) -> Any:
    return load_tokenizer(family, checkpoint=str(folders[family]), **settings)


@pytest.mark.parametrize("family", CAUSAL)
def test_chunks_of_any_size_keep_the_law(family: str, folders: dict[str, Path]) -> None:
    streaming_law(load(folders, family), speech(RATES_HZ[family], clips=1))


@pytest.mark.parametrize("family", CAUSAL)
def test_a_long_clip_is_a_stream_in_pieces(family: str, folders: dict[str, Path]) -> None:
    """Pieces far shorter than what the LSTM and the window of attention remember."""
    tokenizer = load(folders, family, num_codebooks=3)
    tokenizer.model.double()
    samples = np.concatenate([clip.samples for clip in speech(RATES_HZ[family], clips=8)])
    clip, longest = AudioClip("long", samples, RATES_HZ[family]), []
    [whole] = tokenizer.encode([clip])
    audio = tokenizer.decode(whole).samples
    tokenizer.piece_s = 12 * tokenizer.spec.hop_samples / tokenizer.spec.sample_rate_hz
    model = getattr(tokenizer.model.encoder, "encoder_seanet", tokenizer.model.encoder)
    model.layers[0].conv.register_forward_pre_hook(lambda _, inputs: longest.append(inputs[0].shape[-1]))
    assert np.array_equal(tokenizer.encode([clip])[0].codes, whole.codes)
    np.testing.assert_allclose(tokenizer.decode(whole).samples, audio, rtol=1e-6, atol=1e-9)
    assert max(longest) <= 12 * HOPS[family] + 6, "a piece, and what the first convolution overlaps by"
    assert len(np.unique(whole.codes[:, 0])) > 10


@pytest.mark.parametrize(("family", "frames"), [("encodec", 7), ("mimi", 1)])
def test_the_first_codes_come_as_soon_as_they_can_be_known(family: str, frames: int, folders: dict[str, Path]) -> None:
    """EnCodec reflects the start of a clip in its last convolution, of 7 frames; Mimi puts zeros there."""
    tokenizer, hop = load(folders, family), HOPS[family]
    stream, samples = tokenizer.stream_encoder(), speech(RATES_HZ[family])[3].samples
    assert len(stream.feed(samples[: frames * hop - 1])) == 0
    assert len(stream.feed(samples[frames * hop - 1 : frames * hop])) == frames
    assert len(stream.feed(samples[frames * hop : (frames + 1) * hop])) == 1


@pytest.mark.parametrize("family", CAUSAL)
def test_input_that_is_not_the_codecs_is_refused(family: str, folders: dict[str, Path]) -> None:
    tokenizer = load(folders, family)
    unfit: list[Any] = [np.zeros(9), np.zeros((1, 9), np.float32), np.full(9, np.nan, np.float32), [0.0]]
    for samples in unfit:
        with pytest.raises(ValueError, match="mono float32"):
            tokenizer.stream_encoder().feed(samples)
    for codes in (np.zeros((3, 5), int), np.full((3, 4), 64), np.full((3, 4), -1), np.full((3, 4), 0.9)):
        with pytest.raises(ValueError, match=r"integers \[T, 4\]|5 codebooks|outside its codebook"):
            tokenizer.stream_decoder().feed(codes)


def test_what_is_not_causal_cannot_be_streamed(folders: dict[str, Path], tmp_path: Path) -> None:
    make_model("encodec", use_causal_conv=False).save_pretrained(tmp_path)
    for tokenizer in (load(folders, "dac"), load_tokenizer("encodec", checkpoint=str(tmp_path))):
        with pytest.raises(UsageError, match="cannot be streamed"):
            tokenizer.stream_encoder()
        with pytest.raises(UsageError, match="cannot be streamed"):
            tokenizer.stream_decoder()


@pytest.mark.parametrize(
    "name", ["codec2-700c", *(pytest.param(n, marks=pytest.mark.thorough) for n in ("codec2-1300", "codec2-3200"))]
)
def test_codec2_goes_frame_by_frame(name: str) -> None:
    pytest.importorskip("pycodec2")
    tokenizer, clip = load_tokenizer(name), real_clips(8000)[0]
    [whole] = tokenizer.encode([clip])
    for longest in (1, 100, 5000):
        stream = tokenizer.stream_encoder()
        codes = [stream.feed(clip.samples[i : i + longest]) for i in range(0, len(clip.samples), longest)]
        assert np.array_equal(np.concatenate([*codes, stream.finish()]), whole.codes)
        assert sum(map(len, codes)) == len(whole.codes) > 10
