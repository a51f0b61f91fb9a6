"""X-Codec (Ye et al., 2024, arXiv 2408.17175), through `transformers.XcodecModel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from slm.errors import UsageError
from slm.tokenizers._checkpoints import fold_in_place
from slm.tokenizers._codec import conv_context, widest_layer
from slm.tokenizers._encoder_families import attend_clip_by_clip, forget_hidden_states
from slm.tokenizers._pretrained import PretrainedCodec
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch

    from slm.tokenizers._batched import Batch

# What the authors lay around a signal before HuBERT or WavLM, on either side.
_SEMANTIC_PADDING_SAMPLES = 160
_SEMANTIC_SETTINGS = (
    *("model_type", "num_attention_heads", "hidden_act", "layer_norm_eps", "conv_stride", "feat_extract_norm"),
    *("feat_extract_activation", "do_stable_layer_norm", "max_bucket_distance"),
)


@TOKENIZERS.register("xcodec")
class XCodecTokenizer(PretrainedCodec):
    """X-Codec: a DAC encoder beside all layers of HuBERT (or WavLM), averaged, into one residual quantizer at 50 Hz.

    `checkpoint` is a hub id (hf-audio/xcodec-hubert-librispeech, xcodec-hubert-general, xcodec-hubert-general-balanced,
    xcodec-wavlm-mls, xcodec-wavlm-more-data) or a local folder; `num_codebooks` keeps the first n (default: all). A
    clip is coded as it is, as the authors' own script does (github.com/zhenye234/xcodec): T = floor((N + 240) / 320),
    so that a tail of less than 80 samples has no frame, and silence stands there in the decoded audio. (The feature
    extractor of transformers would fill the last frame with zeros; for whole frames both are the same.)

    HuBERT attends to and normalizes over the whole clip: a clip is encoded in one piece, of 20 minutes at most, at a
    cost that grows with the square of its length. Decoding goes in pieces. Raises UsageError when weights cannot be had
    or codebooks are asked for that do not exist.
    """

    batching: Literal["none", "frames", "samples"] = "samples"
    longest_clip_s = 1200.0
    family = "xcodec"
    model_class = "XcodecModel"
    code_settings: ClassVar[tuple[str, ...]] = ("sample_rate", "strides", "block_dilations")
    about: ClassVar[Mapping[str, str]] = {
        "xcodec": "1024 x 8 at 50 Hz from 16 kHz (acoustic and semantic together); decodes; "
        "needs hf-audio/xcodec-hubert-librispeech (hub or local folder)"
    }

    def __init__(
        self,
        *,
        checkpoint: str = "hf-audio/xcodec-hubert-librispeech",
        num_codebooks: int | None = None,
        device: str = "cpu",
    ):
        config = self._load(checkpoint, device)
        counts = {b: self.model.quantizer.get_num_quantizers_for_bandwidth(b) for b in config.target_bandwidths}
        self.spec = self._make_spec(
            name=self._name(),
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(config.codebook_size,) * max(counts.values()),
            sample_rate_hz=config.sample_rate,
            hop_samples=config.hop_length,
            frame_offset_samples=config.hop_length - _first_frame_samples(config),
            identity=self._identity(config),
            taxonomy=taxonomy_of(self._name(), checkpoint),
        )
        fold_in_place(self.model)
        attend_clip_by_clip(self.model.semantic_model)
        if prod(config.strides) > 1:
            self.batching = "none"  # not of any published checkpoint
        self._bandwidth = min(b for b, count in counts.items() if count >= self.spec.num_codebooks)
        self.decoder_context_frames = conv_context(self.model.acoustic_decoder, config.hop_length, from_frames=True)

    @classmethod
    def _name(cls) -> str:
        return next(iter(cls.about))

    def _identity(self, config: Any) -> dict[str, Any]:
        """What changes the codes and leaves no trace in the weights."""
        semantic = config.semantic_model_config
        return {
            **{key: getattr(config, key) for key in self.code_settings},
            "acoustic": {"downsampling_ratios": config.acoustic_model_config.downsampling_ratios},
            # WavLM alone has the last one.
            "semantic": {key: getattr(semantic, key, None) for key in _SEMANTIC_SETTINGS},
        }

    def _check_config(self, config: Any, checkpoint: str) -> None:
        semantic_hop = 1.0 * config.sample_rate / _semantic_rate_hz(config)
        for stride in (*config.semantic_model_config.conv_stride, *config.strides):
            semantic_hop *= stride
        if config.hop_length % semantic_hop:
            raise UsageError(
                f"{checkpoint}: the acoustic encoder makes a frame of {config.hop_length} samples, the semantic one of "
                f"{semantic_hop:g}: this is no {self._name()} checkpoint"
            )

    def encoder_stages(self) -> list[Any]:
        return [self.model.acoustic_encoder, self.model.semantic_model, self.model.encoder_semantic]

    def _gap_frames(self) -> int:
        # The branches run beside one another, the end of the semantic one in frames.
        acoustic = widest_layer([self.model.acoustic_encoder], self.spec.hop_samples)
        return max(acoustic, widest_layer([self.model.encoder_semantic], 1))

    def _samples_taken(self, num_samples: int) -> int:
        return num_samples + 2 * self.model.pad

    def _codes_of_batch(self, batch: Batch, signals: Sequence[np.ndarray]) -> torch.Tensor:
        """As `XcodecModel.encode` does with each: both branches hear zeros around a clip, the acoustic one where the
        clip is not of whole frames."""
        import torch

        from slm.tokenizers._batched import end_to_end, frames_of_batch

        model, frames = self.model, frames_of_batch(self)
        clips = [signals[i] for i in batch.members]
        counts = [self.spec.num_frames(len(clip)) for clip in clips]
        zeros = [0 if self._acoustic_frames(len(c)) == n else model.pad for c, n in zip(clips, counts, strict=True)]
        starts = [start * self.spec.hop_samples for start in batch.starts]
        total = frames * self.spec.hop_samples
        heard = end_to_end(clips, np.add(starts, zeros).tolist(), total, self._parameter())
        apart = [heard[0, :, s + z :][:, : len(c)] for s, z, c in zip(starts, zeros, clips, strict=True)]
        semantic = self._semantic_frames(batch, apart, frames)
        with batch.packed(batch.starts, counts, frames):
            semantic = model.encoder_semantic(semantic.transpose(1, 2))
        with batch.packed(starts, [len(c) + 2 * z for c, z in zip(clips, zeros, strict=True)], total):
            acoustic = model.acoustic_encoder(heard)
        latents = model.fc(torch.cat([acoustic, semantic], dim=1).transpose(1, 2)).transpose(1, 2)
        return model.quantizer.encode(latents, self._bandwidth).transpose(0, 1)[:, : self.spec.num_codebooks]

    def __getstate__(self) -> dict[str, Any]:
        forget_hidden_states(self.model)
        return self.__dict__

    def _semantic_frames(self, batch: Batch, clips: Sequence[torch.Tensor], frames: int) -> torch.Tensor:
        """The mean of HuBERT's layers, `[1, frames, D]`, of clips `[1, N]`, each between zeros."""
        import torch

        config, factor = self.model.config, getattr(self.model.config, "semantic_downsample_factor", None) or 1
        jump = prod(config.semantic_model_config.conv_stride)
        starts = [start * factor * jump for start in batch.starts]
        total = frames * factor * jump + _receptive_field(config) - jump
        heard, lengths = clips[0].new_zeros(1, total), []
        for clip, start in zip(clips, starts, strict=True):
            signal = self._to_semantic_rate(clip)
            lengths.append(signal.shape[1] + 2 * _SEMANTIC_PADDING_SAMPLES)
            heard[:, start + _SEMANTIC_PADDING_SAMPLES :][:, : signal.shape[1]] = signal
        with batch.packed(starts, lengths, total):
            layers = self.model.semantic_model(heard, output_hidden_states=True).hidden_states
        return torch.stack(layers).mean(dim=0)[:, ::factor]

    def _to_semantic_rate(self, signals: torch.Tensor) -> torch.Tensor:
        return signals

    def _acoustic_frames(self, num_samples: int) -> int:
        return int(self.model._get_conv1d_output_lengths(num_samples, self.model.acoustic_encoder))

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        # Residual quantization: more codebooks than asked for leave the first ones as they are.
        return self.model.encode(signals, bandwidth=self._bandwidth).audio_codes[:, : self.spec.num_codebooks]

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        return self.model.decode(codes).audio_values[:, 0]


def _semantic_rate_hz(config: Any) -> int:
    return getattr(config, "semantic_sample_rate", config.sample_rate)


def _first_frame_samples(config: Any) -> int:
    """The shortest signal that gives a frame: with its padding it fills the receptive field of HuBERT."""
    shortest = _receptive_field(config) - 2 * _SEMANTIC_PADDING_SAMPLES
    # Resampling gives ceil(N x semantic rate / rate) samples.
    return (shortest - 1) * config.sample_rate // _semantic_rate_hz(config) + 1


def _receptive_field(config: Any) -> int:
    """Of HuBERT's convolutions, in samples at its rate."""
    semantic, field, jump = config.semantic_model_config, 1, 1
    for kernel, stride in zip(semantic.conv_kernel, semantic.conv_stride, strict=True):
        field, jump = field + (kernel - 1) * jump, jump * stride
    return field
