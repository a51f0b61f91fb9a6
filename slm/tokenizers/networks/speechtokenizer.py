"""SpeechTokenizer's network (arXiv 2308.16692): EnCodec's with an LSTM that runs both ways in the encoder."""

from __future__ import annotations

import torch
from torch import nn

from slm.tokenizers.networks.rvq import ResidualQuantizer
from slm.tokenizers.networks.seanet import SEANetConfig, decoder, encoder


class SpeechTokenizerNetwork(nn.Module):
    def __init__(self, config: SEANetConfig, num_codebooks: int, codebook_size: int, bidirectional: bool):
        super().__init__()
        self.encoder = encoder(config, bidirectional)
        self.quantizer = ResidualQuantizer(num_codebooks, codebook_size, config.latent_width)
        self.decoder = decoder(config)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `[B, K, T]` -> audio `[B, T x hop]`."""
        return self.decoder(self.quantizer.decode(codes))[:, 0]
