"""The encoder of GLM-4-Voice's tokenizer (arXiv 2412.02612): half of Whisper's, its frames pooled and quantized.

Convolutions see the past alone, attention the past and the rest of a block of 4 s. Layers are those of transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from slm.tokenizers.networks.clip_by_clip import run_clip_by_clip
from slm.tokenizers.networks.packed import current


class Encoder(nn.Module):
    """Frames of 20 ms through the layers, `per_code` of them pooled. Their last channel is above 0 for those with
    sound: the others, which fill the last code, attend and are pooled, but nothing attends to them."""

    def __init__(self, config: Any, bands: int, num_layers: int, block: int, per_code: int):
        """`config` is a WhisperConfig; `block` the frames that see one another."""
        from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

        super().__init__()
        self.conv1 = nn.Conv1d(bands, config.d_model, 3)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, 3, stride=2)
        self.embed_positions = nn.Embedding(config.max_source_positions, config.d_model)
        layers = [WhisperEncoderLayer(config) for _ in range(num_layers)]
        for layer in layers:
            run_clip_by_clip(layer.self_attn)
        self.layers = nn.ModuleList(layers)
        self.block, self.per_code = block, per_code

    def frames_of(self, spectra: torch.Tensor, heard: int) -> torch.Tensor:
        """Log-mel frames of one clip `[1, M, bands]`, of which `heard` hold sound -> frames `[1, M / 2, width + 1]`."""
        x = functional.gelu(self.conv1(functional.pad(spectra.mT, (2, 0))))
        x = functional.gelu(self.conv2(functional.pad(x, (2, 0)))).mT
        x = x + self.embed_positions.weight[: x.shape[1]]
        sound = x.new_zeros(*x.shape[:2], 1)
        sound[:, : -(-heard // 2)] = 1.0
        return torch.cat((x, sound), dim=2)

    def forward(self, frames: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Frames `[1, T x per_code, width + 1]`, of one clip or packed -> `[1, T, width]`. `frames_of` has given them
        their positions: those here are not needed."""
        x, sound = frames[..., :-1].contiguous(), frames[..., -1:] > 0
        if (packed := current()) is not None:  # where attention is given clips as rows
            sound = packed.to_rows(sound, time=1)
            sound &= packed.held(sound)[..., None]
        mask = self._mask(sound[..., 0], x.dtype)
        for layer in self.layers:
            x = layer(x, mask)
        return functional.avg_pool1d(x.mT, self.per_code).mT

    def _mask(self, sound: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Rows `[R, W]` -> what is added to scores `[R, 1, W, W]`."""
        places = torch.arange(sound.shape[1], device=sound.device)
        seen = places[None] < (places[:, None] // self.block + 1) * self.block
        hidden = ~(seen & sound[:, None])[:, None]
        return torch.zeros(hidden.shape, dtype=dtype, device=sound.device).masked_fill_(hidden, torch.finfo(dtype).min)


class Codebook(nn.Module):
    def __init__(self, size: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[1, T, width]` -> the nearest rows `[1, T]`."""
        table = self.weight
        lengths = table.square().sum(dim=1) + x[0].square().sum(dim=1, keepdim=True)
        return torch.addmm(lengths, x[0], table.T, alpha=-2.0).argmin(dim=1)[None]


class WhisperVQ(nn.Module):
    def __init__(self, encoder: Encoder, codebook_size: int):
        super().__init__()
        self.encoder, self.quantizer = encoder, Codebook(codebook_size, encoder.conv2.out_channels)
