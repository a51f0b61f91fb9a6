"""DAC, the Descript Audio Codec (Kumar et al., 2023, arXiv 2306.06546), through `transformers.DacModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from slm.tokenizers._codec import conv_context, pad_to_frames
from slm.tokenizers._pretrained import PretrainedCodec
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch


@TOKENIZERS.register("dac")
class DacTokenizer(PretrainedCodec):
    """DAC: an acoustic tokenizer for speech, music and sound; checkpoints for 16, 24 and 44.1 kHz.

    `checkpoint` is a hub id (descript/dac_16khz, dac_24khz, dac_44khz) or a local folder; `num_codebooks` keeps the
    first n (default: all). A clip is padded with zeros to whole frames, as DAC's own preprocessing does: T = ceil(N /
    hop). Its decoder gives a few samples less than T hops at 16 and 24 kHz (8 of 320): silence stands there. Raises
    UsageError when weights cannot be had or codebooks are asked for that do not exist.
    """

    batching = "frames"
    family = "dac"
    model_class = "DacModel"
    code_settings = ("sampling_rate", "downsampling_ratios")
    mismatch: ClassVar[Mapping[str, str]] = {"batched": "under 0.01 %", "tf32": "0.9 %", "bf16": "8.3 %"}
    about: ClassVar[Mapping[str, str]] = {
        "dac": "1024 x 12 at 50 Hz from 16 kHz (24, 44.1 kHz by checkpoint); decodes; "
        "needs descript/dac_16khz (hub or local folder)"
    }
    published: ClassVar[Mapping[str, Any]] = {"downsampling_ratios": [2, 4, 5, 8], "n_codebooks": 12}

    def __init__(
        self, *, checkpoint: str = "descript/dac_16khz", num_codebooks: int | None = None, device: str = "cpu"
    ):
        config = self._load(checkpoint, device)
        self.spec = self._padded_spec(
            checkpoint,
            num_codebooks,
            available=config.n_codebooks,
            hop_samples=config.hop_length,
            taxonomy=taxonomy_of("dac", checkpoint),
        )

        # Convolutions and nothing else: what a frame sees is bounded, and long clips go in pieces.
        self.context_frames = conv_context(self.model.encoder, config.hop_length)
        self.decoder_context_frames = conv_context(self.model.decoder, config.hop_length, from_frames=True)

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        padded = pad_to_frames(signals, self.spec.hop_samples)
        return self.model.encode(padded, n_quantizers=self.spec.num_codebooks).audio_codes

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        return self.model.decode(audio_codes=codes).audio_values.reshape(len(codes), -1)
