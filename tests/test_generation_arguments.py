"""What cannot be asked of a model is refused in a line, before its tokenizer or its model has begun to work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from slm.errors import UsageError
from slm.generation import Sampling, Speed
from slm.spoken_lm import SpokenLM
from slm.types import AudioClip
from tests.fakes import ArithmeticTokenizer, tone
from tests.test_spoken_lm import make_lm

CLIP = tone(0.3)
CODES = ArithmeticTokenizer(3).encode([CLIP])[0]


class _Asleep(ArithmeticTokenizer):
    """Fails where it is asked to work."""

    def _encode(self, signals: Any) -> list[np.ndarray]:
        raise AssertionError("work was begun")


@pytest.fixture(scope="module")
def lm() -> SpokenLM:
    made = make_lm("delay", 3)
    made.tokenizer = _Asleep(3)
    return made


def clip(samples: Any, rate_hz: int = 8000) -> AudioClip:
    return AudioClip("a", samples, rate_hz)


WRONG: list[tuple[Callable[[Any], Any], str]] = [
    (lambda lm: lm.generate(2.5, 1, 0), "count must be a whole number, not 2.5"),
    (lambda lm: lm.generate("2", 1, 0), "count must be a whole number, not '2'"),
    (lambda lm: lm.generate(True, 1, 0), "count must be a whole number, not True"),
    (lambda lm: lm.generate(-1, 1, 0), "count must be 0 or more, not -1"),
    (lambda lm: lm.generate(2, seconds="1", seeds=0), "seconds must be a number, not '1'"),
    (lambda lm: lm.generate(2, None, 0), "seconds must be a number, not None"),
    (lambda lm: lm.generate(2, float("nan"), 0), "seconds must be a finite number above 0, not nan"),
    (lambda lm: lm.generate(2, 1, None), "seeds must be a whole number, or one for each prompt, not None"),
    (lambda lm: lm.generate(2, 1, 1.5), "seeds must be a whole number, or one for each prompt, not 1.5"),
    (lambda lm: lm.generate(2, 1, [1]), "there are 2 prompts, but 1 seeds"),
    (lambda lm: lm.generate(2, 1, 0, speed=8), r"speed must be a Speed, as Speed\(batch_size=8\), not 8"),
    (lambda lm: lm.continue_clip("a.wav", 1, 0), r"a clip must be an AudioClip, not str: AudioClip\(id"),
    (lambda lm: lm.continue_clip(CLIP.samples, 1, 0), "a clip must be an AudioClip, not float32"),
    (lambda lm: lm.continue_clips(CLIP, 1, 0), "clips must be a list of AudioClip, not AudioClip"),
    (lambda lm: lm.continue_clip(tone(0.3, 16_000), 1, 0), "16000 Hz, but arithmetic takes 8000"),
    (lambda lm: lm.continue_clip(clip(np.full(9, np.nan, np.float32)), 1, 0), "a: samples hold NaN or infinity"),
    (lambda lm: lm.continue_clip(clip(np.zeros(0, np.float32)), 1, 0), "a: empty: no samples"),
    (lambda lm: lm.continue_clip(clip(np.zeros(9, np.int16)), 1, 0), "a: samples must be mono float32, not int16"),
    (lambda lm: lm.continue_clip(CLIP, 0, 0), "seconds must be a finite number above 0, not 0"),
    (lambda lm: lm.continue_clip(CLIP, -1, 0), "seconds must be a finite number above 0, not -1"),
    (lambda lm: lm.continue_clip(CLIP, 1, "a"), "seeds must be whole numbers, not 'a'"),
    (lambda lm: lm.continue_clips([CLIP], 1, 0, sampling=0.8), "sampling must be a Sampling"),
    (lambda lm: lm.continue_codes(CLIP, 1, 0), "codes must be Codes, as tokenizer.encode gives them, not AudioClip"),
    (lambda lm: lm.stream(CLIP, "1", 0), "seconds must be a number, not '1'"),
    (lambda lm: lm.stream(CLIP, 1, 0, chunk_frames=1.5), "chunk_frames must be a whole number, not 1.5"),
    (lambda lm: lm.score("a.wav"), "clips must be a list of AudioClip, not 'a.wav'"),
    (lambda lm: lm.score_codes(CODES), "codes must be a list of Codes, not Codes"),
    (lambda lm: lm.score_codes([CODES.codes]), "codes must be Codes, as tokenizer.encode gives them, not ndarray"),
    (lambda lm: setattr(lm, "precision", "fp16"), "precision must be one of float32, bf16, not 'fp16'"),
    (lambda lm: Sampling(temperature=1e40), r"temperature must be from 0 to 1e\+30, not 1e\+40"),
    (lambda lm: Speed(batch_size="8"), "batch_size must be a whole number of at least 1, not '8'"),  # type: ignore[arg-type]
    (lambda lm: Speed(batch_size=8.0), "batch_size must be a whole number of at least 1, not 8.0"),  # type: ignore[arg-type]
    (lambda lm: Speed(compile="no"), "compile must be True or False, not 'no'"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("ask", "message"), WRONG)
def test_what_cannot_be_asked_is_refused_by_name(lm, ask, message):
    with pytest.raises(UsageError, match=message):
        ask(lm)


def test_numbers_of_numpy_and_more_room_than_there_is_work_are_taken():
    lm = make_lm("delay", 3)
    lm.tokenizer = ArithmeticTokenizer(3)
    plain = lm.generate_codes(2, 0.3, 4, Sampling(0.8))
    asked = lm.generate_codes(np.int64(2), np.float32(0.3), np.int64(4), Sampling(0.8), Speed(batch_size=10**12))
    assert [c.codes.tolist() for c in asked] == [c.codes.tolist() for c in plain]
    assert lm.continue_clips([], 1, 0) == []
