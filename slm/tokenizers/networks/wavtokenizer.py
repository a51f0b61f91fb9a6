"""WavTokenizer's network (arXiv 2408.16532): EnCodec's encoder, one codebook, and Vocos as the decoder."""

from __future__ import annotations

import torch
from torch import nn

from slm.tokenizers.networks.rvq import ResidualQuantizer
from slm.tokenizers.networks.seanet import SEANetConfig, encoder
from slm.tokenizers.networks.vocos import ISTFTHead, VocosBackbone


class WavTokenizerNetwork(nn.Module):
    def __init__(
        self, config: SEANetConfig, codebook_size: int, channels: int, inner: int, layers: int, num_ids: int, n_fft: int
    ):
        super().__init__()
        hop_samples = 1
        for stride in config.strides:
            hop_samples *= stride
        self.encoder = encoder(config)
        self.quantizer = ResidualQuantizer(1, codebook_size, config.latent_width)
        self.backbone = VocosBackbone(config.latent_width, channels, inner, layers, num_ids)
        self.head = ISTFTHead(channels, n_fft, hop_samples)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `[B, 1, T]` -> audio `[B, T x hop]`."""
        return self.head(self.backbone(self.quantizer.decode(codes)))
