"""X-Codec (Ye et al., 2024, arXiv 2408.17175), through `transformers.XcodecModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from slm.errors import UsageError
from slm.tokenizers._codec import conv_context
from slm.tokenizers._pretrained import PretrainedCodec
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch

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
    cost that grows with the square of its length. Decoding goes in pieces. Raises UsageError
    when weights cannot be had or codebooks are asked for that do not exist.
    """

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

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        # Residual quantization: more codebooks than asked for leave the first ones as they are.
        return self.model.encode(signals, bandwidth=self._bandwidth).audio_codes[:, : self.spec.num_codebooks]

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        return self.model.decode(codes).audio_values[:, 0]


def _semantic_rate_hz(config: Any) -> int:
    return getattr(config, "semantic_sample_rate", config.sample_rate)


def _first_frame_samples(config: Any) -> int:
    """The shortest signal that gives a frame: with its padding it fills the receptive field of HuBERT."""
    field, jump = 1, 1
    for kernel, stride in zip(
        config.semantic_model_config.conv_kernel, config.semantic_model_config.conv_stride, strict=True
    ):
        field, jump = field + (kernel - 1) * jump, jump * stride
    shortest = field - 2 * _SEMANTIC_PADDING_SAMPLES
    # Resampling gives ceil(N x semantic rate / rate) samples.
    return (shortest - 1) * config.sample_rate // _semantic_rate_hz(config) + 1
