"""The tokenizer of Higgs Audio v2, on the parts of `transformers.XcodecModel`.

transformers has this model too, but imports it only beside torchaudio, which it needs for one resampling filter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import HiggsAudioV2TokenizerConfig, XcodecModel

from slm.tokenizers.networks.resample import resample

_SEMANTIC_PADDING_SAMPLES = 160


class ProjectedCodebook(nn.Module):
    """A codebook in fewer dimensions than the latents have."""

    def __init__(self, codebook: Any, latent_dim: int, codebook_dim: int):
        super().__init__()
        self.codebook: Any = codebook
        self.project_in = nn.Linear(latent_dim, codebook_dim)
        self.project_out = nn.Linear(codebook_dim, latent_dim)

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents `[B, D, T]` -> codes `[B, T]`."""
        return self.codebook.encode(self.project_in(latents.transpose(1, 2)))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `[B, T]` -> latents `[B, D, T]`."""
        return self.project_out(self.codebook.decode(codes)).transpose(1, 2)


class HiggsAudioV2Model(XcodecModel):
    """X-Codec at 24 kHz and 25 frames a second: HuBERT hears 16 kHz, and every second of its frames is kept."""

    config_class = HiggsAudioV2TokenizerConfig

    def __init__(self, config: HiggsAudioV2TokenizerConfig):
        super().__init__(config)  # type: ignore[arg-type]  # every field of X-Codec's is there
        # As the authors pad where the acoustic branch falls short of a frame (transformers: 480, for no stated reason;
        # for whole frames nothing is padded).
        self.pad = _SEMANTIC_PADDING_SAMPLES * config.semantic_downsample_factor
        layers: Any = self.quantizer.quantizers
        self.quantizer.quantizers = nn.ModuleList(
            ProjectedCodebook(layer.codebook, config.hidden_size, config.codebook_dim) for layer in layers
        )

    def _extract_semantic_features(self, input_values: torch.Tensor) -> torch.Tensor:
        """Signals `[B, 1, N]` -> the mean of HuBERT's layers `[B, T, D]`."""
        config = self.config
        heard = resample(input_values[:, 0], config.sample_rate, config.semantic_sample_rate)
        padded = functional.pad(heard, (_SEMANTIC_PADDING_SAMPLES, _SEMANTIC_PADDING_SAMPLES))
        layers = self.semantic_model(padded, output_hidden_states=True).hidden_states
        return torch.stack(layers).mean(dim=0)[:, :: config.semantic_downsample_factor]
