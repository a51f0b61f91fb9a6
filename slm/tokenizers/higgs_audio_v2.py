"""The tokenizer of Higgs Audio v2 (Boson AI, 2025, github.com/boson-ai/higgs-audio), in the form of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.xcodec import XCodecTokenizer

if TYPE_CHECKING:
    import torch


@TOKENIZERS.register("higgs-audio-v2")
class HiggsAudioV2Tokenizer(XCodecTokenizer):
    """Higgs Audio v2: X-Codec at 24 kHz with 8 codebooks of 1024 at 25 Hz, for speech, music and sound.

    `checkpoint` is a hub id in the form of transformers (eustlb/higgs-audio-v2-tokenizer) or a local folder;
    `num_codebooks` keeps the first n (default: all). A clip is coded as it is, as the authors do: T = floor((N + 841)
    / 960), so that a tail of less than 119 samples has no frame. Where the last frame is not full, the acoustic
    encoder is given 320 zeros on either side, as by the authors; transformers gives 480, and otherwise the same codes.
    Neither torchaudio nor the class of transformers that needs it is used. HuBERT attends to and normalizes over the
    whole clip: a clip is encoded in one piece, of 20 minutes at most, at a cost that grows with the square of its
    length. Decoding goes in pieces. Raises UsageError when weights cannot be had or codebooks are asked for that do not
    exist.
    """

    family = "higgs_audio_v2_tokenizer"
    code_settings = (*XCodecTokenizer.code_settings, "semantic_sample_rate", "downsample_factor")
    about: ClassVar[Mapping[str, str]] = {
        "higgs-audio-v2": "1024 x 8 at 25 Hz from 24 kHz (acoustic and semantic together); decodes; "
        "needs eustlb/higgs-audio-v2-tokenizer (hub or local folder)"
    }
    published: ClassVar[Mapping[str, Any]] = {
        "target_bandwidths": [0.5, 1, 1.5, 2],
        "acoustic_model_config": {"downsampling_ratios": [8, 5, 4, 2, 3], "upsampling_ratios": [8, 5, 4, 2, 3]},
    }

    def __init__(
        self,
        *,
        checkpoint: str = "eustlb/higgs-audio-v2-tokenizer",
        num_codebooks: int | None = None,
        device: str = "cpu",
    ):
        super().__init__(checkpoint=checkpoint, num_codebooks=num_codebooks, device=device)

    @classmethod
    def _network(cls) -> Any:
        from slm.tokenizers.networks.higgs_audio_v2 import HiggsAudioV2Model

        return HiggsAudioV2Model

    def _to_semantic_rate(self, signals: torch.Tensor) -> torch.Tensor:
        from slm.tokenizers.networks.resample import resample

        return resample(signals, self.model.config.sample_rate, self.model.config.semantic_sample_rate)
