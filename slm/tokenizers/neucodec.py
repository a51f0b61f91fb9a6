"""NeuCodec (Neuphonic, 2025, github.com/neuphonic/neucodec), through `transformers.NeuCodecModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.xcodec2 import XCodec2Tokenizer
from slm.types import AudioClip, Codes


@TOKENIZERS.register("neucodec")
class NeuCodecTokenizer(XCodec2Tokenizer):
    """NeuCodec: X-Codec 2 that listens at 16 kHz and speaks at 24 kHz; one codebook of 65,536 at 50 Hz.

    `checkpoint` is a hub id in the form of transformers (neuphonic/neucodec) or a local folder. As the authors do,
    zeros fill the last frame, or make one more, but the mel features are not padded and give a frame less, to which
    all is cut: T = floor(N / 320), and what is left of a clip is not coded. Everything is done in one piece, as in
    X-Codec 2. `decode` resamples to 16 kHz, the rate of the clips that were encoded; `decode_wideband` gives the
    24 kHz that the decoder makes. Raises UsageError when weights cannot be had or more than one codebook is asked for.
    """

    family = "neucodec"
    model_class = "NeuCodecModel"
    about: ClassVar[Mapping[str, str]] = {
        "neucodec": "65536 x 1 at 50 Hz from 16 kHz (FSQ, acoustic and semantic together); decodes (to 24 kHz, "
        "resampled); needs neuphonic/neucodec (hub or local folder)"
    }
    _mel_padding_samples = 0

    def __init__(
        self, *, checkpoint: str = "neuphonic/neucodec", num_codebooks: int | None = None, device: str = "cpu"
    ):
        super().__init__(checkpoint=checkpoint, num_codebooks=num_codebooks, device=device)

    @staticmethod
    def _input_rate_hz(config: Any) -> int:
        return config.input_sampling_rate

    @staticmethod
    def _frame_offset_samples(hop_samples: int) -> int:
        return 0

    def decode_wideband(self, codes: Codes) -> AudioClip:
        """Audio for codes `[T, 1]` at the decoder's own rate, T x 480 samples at 24 kHz."""
        return AudioClip(codes.id, super()._decode(codes.codes), self._output_rate_hz)

    @property
    def _output_rate_hz(self) -> int:
        config: Any = self.model.config
        return config.output_sampling_rate

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        import soxr

        return soxr.resample(super()._decode(codes), self._output_rate_hz, self.spec.sample_rate_hz, quality="HQ")
