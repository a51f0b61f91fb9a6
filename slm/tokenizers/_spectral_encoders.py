"""The speech encoders of transformers that read log-mel frames: layers count as in `_encoder_families`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from slm.errors import UsageError
from slm.tokenizers._encoder_families import LayeredEncoder
from slm.tokenizers._log_mel import LogMel, WhisperLogMel

if TYPE_CHECKING:
    import torch

    from slm.tokenizers._batched import Batch

# What of a configuration changes the features, beside the weights and their shapes.
_BERT_KEYS = (
    *("hidden_act", "layer_norm_eps", "num_attention_heads", "position_embeddings_type", "max_source_positions"),
    *("rotary_embedding_base", "left_max_position_embeddings", "right_max_position_embeddings"),
    "conv_depthwise_kernel_size",
)
_WHISPER_KEYS = ("activation_function", "encoder_attention_heads", "max_source_positions")


class SpectralEncoder(LayeredEncoder):
    """Its spectra are made clip by clip; from there on clips may share a tensor."""

    spectra_per_frame: ClassVar[int]

    @abstractmethod
    def spectra_of(self, signal: torch.Tensor) -> torch.Tensor:
        """A signal `[N]` -> `[1, spectra, bands]` on its device, of whole frames."""

    @abstractmethod
    def run(self, spectra: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Spectra, of one clip or packed, and which frame of its clip each frame is `[T]` -> `[layers, T, width]`."""

    def run_packed(self, batch: Batch, signals: Sequence[np.ndarray], frames: int) -> torch.Tensor:
        """The members of a batch of so many frames, in it -> features `[layers, frames, width]`."""
        from slm.tokenizers._batched import run_on_spectra

        return run_on_spectra(self, self.hop_samples, batch, signals, frames, next(self.model.parameters()))

    def hear(self, signal: torch.Tensor) -> torch.Tensor:
        import torch

        spectra = self.spectra_of(signal).to(self.model.dtype)
        frames = spectra.shape[1] // self.spectra_per_frame
        return self.run(spectra, torch.arange(frames, device=signal.device))


class BertEncoder(SpectralEncoder):
    """w2v-BERT 2.0: Kaldi's log-mel frames every 10 ms, joined by `stride`, then Conformer layers.

    T = floor((N - 240) / 320): an odd last log-mel frame is dropped, as fairseq2 does; transformers pads it to a pair
    and masks it, which leaves the other frames as they are.
    """

    spectra_per_frame = 1

    def __init__(self, model: Any, feature_extractor: Any, layers: Sequence[int], device: str, input_norm: str | None):
        if input_norm is not None:
            raise UsageError("input_norm has no meaning for w2v-BERT, which normalizes its log-mel frames")
        config = model.config
        model.encoder.layers = self._keep(model.encoder.layers, layers, config._name_or_path)
        model.adapter = model.intermediate_ffn = None
        self.shares_tensors = prepare_bert(model)
        self.model, self.extractor = model.to(device).eval().requires_grad_(False), feature_extractor
        self.log_mel = LogMel(feature_extractor)
        self.sample_rate_hz = feature_extractor.sampling_rate
        self.hop_samples = 160 * feature_extractor.stride  # both fixed in the feature extractor: windows of 400,
        self.frame_offset_samples = 160 - 400  # one every 160 samples
        self.width = config.hidden_size

    def spectra_of(self, signal: torch.Tensor) -> torch.Tensor:
        return self.log_mel(signal, fill_last=False)

    def run(self, spectra: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self._layers_of(spectra)

    def stages(self) -> list[Any]:
        return list(self.model.encoder.layers)

    def identity(self, layer: int) -> dict[str, Any]:
        settings = {key: getattr(self.model.config, key, None) for key in _BERT_KEYS}
        settings |= {key: getattr(self.extractor, key) for key in ("num_mel_bins", "stride")}
        settings |= {"family": "wav2vec2-bert", "layer": layer, "sample_rate_hz": self.sample_rate_hz}
        return {**settings, "weights": self._weights(layer)}


def prepare_bert(model: Any) -> bool:
    """Make a w2v-BERT fit for long clips and for clips that are packed; False where its positions are of a kind that is
    not, of which nothing is published."""
    from slm.tokenizers.networks.clip_by_clip import run_clip_by_clip
    from slm.tokenizers.networks.relative_attention import RelativeKeyAttention

    by_key = bool(model.config.position_embeddings_type == "relative_key")
    for block in model.encoder.layers:
        if by_key:
            block.self_attn.__class__ = RelativeKeyAttention
        run_clip_by_clip(block.self_attn, mask="added")
    return by_key


class WhisperFrames(SpectralEncoder):
    """Whisper's encoder, on each clip alone: its positions are cut to the clip's length, not the clip padded to 30 s.

    T = floor(N / 320); the rest of the clip is dropped. A window never exceeds the encoder's 30 s. Weights are rounded
    to fp16, the precision in which OpenAI published them, so that fp16 and fp32 copies of them give the same units.
    """

    spectra_per_frame = 2  # the second convolution halves the rate

    def __init__(
        self, encoder: Any, feature_extractor: Any, layers: Sequence[int], device: str, input_norm: str | None
    ):
        if input_norm is not None:
            raise UsageError("input_norm has no meaning for Whisper, whose feature extractor normalizes")
        config = encoder.config
        self.last_layer = len(encoder.layers)
        encoder.layers = self._keep(encoder.layers, layers, config._name_or_path)
        encoder.set_attn_implementation("sdpa")  # which is followed
        for block in encoder.layers:
            block.self_attn.runs_along_clips = True
        self.model = encoder.half().float().to(device).eval().requires_grad_(False)
        self.extractor, self.log_mel = feature_extractor, WhisperLogMel(feature_extractor)
        self.sample_rate_hz = feature_extractor.sampling_rate
        self.hop_samples = self.spectra_per_frame * feature_extractor.hop_length
        self.width = config.d_model
        self.max_window_frames = config.max_source_positions

    def spectra_of(self, signal: torch.Tensor) -> torch.Tensor:
        return self.log_mel(signal[: len(signal) // self.hop_samples * self.hop_samples])

    def run(self, spectra: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn.functional import gelu

        model = self.model
        hidden = gelu(model.conv2(gelu(model.conv1(spectra.mT.contiguous())))).transpose(1, 2)
        hidden = hidden + model.embed_positions.weight[positions]
        kept = {}  # of a large encoder, all layers of 128 s would be a GB
        for layer, block in enumerate(self.blocks):
            if layer in self.layers:
                kept[layer] = hidden
            hidden = block(hidden, None)
        highest = len(self.blocks)
        kept[highest] = model.layer_norm(hidden) if highest == self.last_layer else hidden
        return torch.cat([kept[layer] for layer in self.layers])

    def stages(self) -> list[Any]:
        return [self.model.conv1, self.model.conv2, *self.blocks]

    def identity(self, layer: int) -> dict[str, Any]:
        settings = {key: getattr(self.model.config, key) for key in _WHISPER_KEYS}
        settings |= {key: getattr(self.extractor, key) for key in ("feature_size", "n_fft", "hop_length", "dither")}
        settings |= {"family": "whisper", "layer": layer, "sample_rate_hz": self.sample_rate_hz}
        closing = () if layer == self.last_layer else ("layer_norm.",)
        return {**settings, "weights": self._weights(layer, *closing)}
