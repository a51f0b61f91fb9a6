"""X-Codec 2 (Ye et al., 2025, arXiv 2502.04128), through `transformers.Xcodec2Model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from slm.tokenizers._codec import widest_layer
from slm.tokenizers._log_mel import LogMel
from slm.tokenizers._pretrained import PretrainedCodec
from slm.tokenizers._spectral_encoders import prepare_bert
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch

    from slm.tokenizers._batched import Batch


@TOKENIZERS.register("xcodec2")
class XCodec2Tokenizer(PretrainedCodec):
    """X-Codec 2: one codebook of 65,536 (finite scalar quantization, 8 dimensions of 4 levels) at 50 Hz, for speech.

    `checkpoint` is a hub id in the form of transformers (HKUSTAudio/xcodec2-hf) or a local folder. As the authors do,
    zeros fill the last frame, or make one more where there is none to fill: T = floor(N / 320) + 1. The semantic
    branch reads the log-mel features of w2v-BERT 2.0, by the extractor that the authors use; the one of transformers
    for this model computes the same with torchaudio, which is not needed here.

    w2v-BERT attends to the whole clip, the features are normalized over it, and the decoder attends to it and
    normalizes over it too: a clip is encoded and decoded in one piece, of 10 minutes at most, in memory that grows with
    its length (2 GB a minute) and time that grows with the square of it. Raises UsageError when weights cannot be had
    or more than one codebook is asked for.
    """

    batching: Literal["none", "frames", "samples"] = "samples"
    longest_clip_s = 600.0
    family = "xcodec2"
    model_class = "Xcodec2Model"
    code_settings = ("quantization_levels", "downsampling_ratios")
    about: ClassVar[Mapping[str, str]] = {
        "xcodec2": "65536 x 1 at 50 Hz from 16 kHz (FSQ, acoustic and semantic together); decodes; "
        "needs HKUSTAudio/xcodec2-hf (hub or local folder)"
    }
    _mel_padding_samples: ClassVar[int] = 160

    def __init__(
        self, *, checkpoint: str = "HKUSTAudio/xcodec2-hf", num_codebooks: int | None = None, device: str = "cpu"
    ):
        config = self._load(checkpoint, device)
        hop_samples = prod(config.downsampling_ratios)
        self.spec = self._make_spec(
            name=self.family,
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(prod(config.quantization_levels),),
            sample_rate_hz=self._input_rate_hz(config),
            hop_samples=hop_samples,
            frame_offset_samples=self._frame_offset_samples(hop_samples),
            identity=self._identity(config),
            taxonomy=taxonomy_of(self.family),
        )
        self._let_clips_share_tensors()

    def _let_clips_share_tensors(self) -> None:
        from slm.tokenizers.networks.xcodec2 import follow_clips

        follow_clips(self.model.acoustic_encoder)
        if not prepare_bert(self.model.semantic_encoder):
            self.batching = "none"

    @staticmethod
    def _input_rate_hz(config: Any) -> int:
        return config.sampling_rate

    @staticmethod
    def _frame_offset_samples(hop_samples: int) -> int:
        return hop_samples

    def _identity(self, config: Any) -> dict[str, Any]:
        """What changes the codes and leaves no trace in the weights."""
        names = (
            *("num_attention_heads", "hidden_act", "layer_norm_eps", "position_embeddings_type"),
            *("left_max_position_embeddings", "right_max_position_embeddings"),
        )
        semantic = config.semantic_model_config
        return {
            **{key: list(getattr(config, key)) for key in self.code_settings},
            "semantic": {key: getattr(semantic, key) for key in names},
        }

    @classmethod
    def _prepare_untrained(cls, model: Any, seed: int) -> None:
        from slm.tokenizers._untrained import noise, redraw, spread_scalars

        redraw(model)
        signal = noise(cls._input_rate_hz(model.config))
        features = mel_features(signal[0, 0], cls._mel_padding_samples)
        spread_scalars(model.quantizer.project_in, lambda: model.encode(signal, features))

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        import torch

        hop = self.spec.hop_samples
        padded = torch.nn.functional.pad(signals, (0, hop - signals.shape[-1] % hop))
        features = torch.cat([mel_features(signal, self._mel_padding_samples) for signal in padded[:, 0]])
        return self.model.encode(padded, self._to_model(features)).audio_codes

    def encoder_stages(self) -> list[Any]:
        return [self.model.semantic_encoder.encoder, self.model.semantic_adapter, self.model.acoustic_encoder]

    def _gap_frames(self) -> int:
        # The branches run beside one another, the semantic one in frames.
        *semantic, acoustic = self.encoder_stages()
        return max(widest_layer(semantic, 1), widest_layer([acoustic], self.spec.hop_samples))

    def _samples_taken(self, num_samples: int) -> int:
        return (num_samples // self.spec.hop_samples + 1) * self.spec.hop_samples

    def _codes_of_batch(self, batch: Batch, signals: Sequence[np.ndarray]) -> torch.Tensor:
        """As `encode` of the model does with each."""
        import torch

        from slm.tokenizers._batched import end_to_end, frames_of_batch, spectra_end_to_end

        model, frames, hop = self.model, frames_of_batch(self), self.spec.hop_samples
        starts = [start * hop for start in batch.starts]
        heard = end_to_end([signals[i] for i in batch.members], starts, frames * hop, self._parameter())
        lengths = [self._samples_taken(len(signals[i])) for i in batch.members]
        clips = [heard[0, 0, start : start + length] for start, length in zip(starts, lengths, strict=True)]
        spectra = [self._to_model(mel_features(clip, self._mel_padding_samples)) for clip in clips]
        with batch.packed(batch.starts, [each.shape[1] for each in spectra], frames):
            semantic = model.semantic_encoder(spectra_end_to_end(spectra, batch.starts, frames)).last_hidden_state
            semantic = model.semantic_adapter(semantic.transpose(1, 2))
        with batch.packed(starts, lengths, frames * hop):
            acoustic = model.acoustic_encoder(heard)
        latents = model.fc_encoder(torch.cat([semantic, acoustic], dim=1).transpose(1, 2))
        codes: torch.Tensor = model.quantizer(latents)[1]
        return codes.transpose(1, 2)

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        return self.model.decode(codes).audio_values[:, 0]


def mel_features(signal: torch.Tensor, padding_samples: int) -> torch.Tensor:
    """A signal `[N]` at 16 kHz, zeros laid around it -> what w2v-BERT reads `[1, T, 160]`, two mel frames in one."""
    import torch

    return _log_mel()(torch.nn.functional.pad(signal, (padding_samples, padding_samples)), fill_last=True)


@cache
def _log_mel() -> LogMel:
    return LogMel()
