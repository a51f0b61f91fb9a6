"""Vocos (arXiv 2306.00814) as WavTokenizer's decoder builds on it (arXiv 2408.16532): ConvNeXt blocks and an inverse
STFT, behind residual blocks and one attention over the whole clip. Modules carry the names of WavTokenizer's code."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.conv1 = _group_norm(channels), nn.Conv1d(channels, channels, 3, padding=1)
        self.norm2, self.conv2 = _group_norm(channels), nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        inner = self.conv1(functional.silu(self.norm1(frames)))
        return frames + self.conv2(functional.silu(self.norm2(inner)))


class AttentionBlock(nn.Module):
    """One head of attention, from each frame to all; frames `[B, C, T]`."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = _group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv1d(channels, channels, 1) for _ in range(4))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        normed = self.norm(frames)
        # Contiguous, or attention would hold a number for each pair of frames: 8 GB for 10 minutes.
        query, key, value = (layer(normed).mT[:, None].contiguous() for layer in (self.q, self.k, self.v))
        attended = functional.scaled_dot_product_attention(query, key, value)
        return frames + self.proj_out(attended[:, 0].transpose(1, 2))


class AdaLayerNorm(nn.Module):
    """A layer norm whose scale and shift depend on an id; frames `[B, T, C]`."""

    def __init__(self, num_ids: int, channels: int):
        super().__init__()
        self.scale, self.shift = nn.Embedding(num_ids, channels), nn.Embedding(num_ids, channels)

    def forward(self, frames: torch.Tensor, bandwidth_id: torch.Tensor) -> torch.Tensor:
        normed = functional.layer_norm(frames, frames.shape[-1:], eps=1e-6)
        return normed * self.scale(bandwidth_id) + self.shift(bandwidth_id)


class ConvNeXtBlock(nn.Module):
    """Of frames `[B, C, T]`; `norm` takes them as `[B, T, C]`, and what else a block is given."""

    def __init__(self, channels: int, inner: int, norm: nn.Module):
        super().__init__()
        self.dwconv = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = norm
        self.pwconv1, self.pwconv2 = nn.Linear(channels, inner), nn.Linear(inner, channels)
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, frames: torch.Tensor, *conditions: torch.Tensor) -> torch.Tensor:
        inner = self.norm(self.dwconv(frames).transpose(1, 2), *conditions)
        inner = self.gamma * self.pwconv2(functional.gelu(self.pwconv1(inner)))
        return frames + inner.transpose(1, 2)


class VocosBackbone(nn.Module):
    """Latents `[B, D, T]` -> frames `[B, T, C]`. The authors decode with the first of `num_ids` bandwidths."""

    def __init__(self, latent_width: int, channels: int, inner: int, layers: int, num_ids: int):
        super().__init__()
        self.embed = nn.Conv1d(latent_width, channels, 7, padding=3)
        self.norm = AdaLayerNorm(num_ids, channels)
        self.convnext = nn.ModuleList(
            ConvNeXtBlock(channels, inner, AdaLayerNorm(num_ids, channels)) for _ in range(layers)
        )
        self.final_layer_norm = nn.LayerNorm(channels, eps=1e-6)
        self.pos_net = nn.Sequential(
            ResnetBlock(channels),
            ResnetBlock(channels),
            AttentionBlock(channels),
            ResnetBlock(channels),
            ResnetBlock(channels),
            _group_norm(channels),
        )

    def forward(self, latents: torch.Tensor, bandwidth_id: int = 0) -> torch.Tensor:
        chosen = torch.tensor([bandwidth_id], device=latents.device)
        frames = self.norm(self.pos_net(self.embed(latents)).transpose(1, 2), chosen).transpose(1, 2)
        for block in self.convnext:
            frames = block(frames, chosen)
        return self.final_layer_norm(frames.transpose(1, 2))


class ISTFTHead(nn.Module):
    """Frames `[B, T, C]` -> audio `[B, T x hop]`: magnitudes and phases, an inverse STFT trimmed on both sides alike.

    `torch.istft` refuses this trimming, at whose edges its windows do not add up.
    """

    def __init__(self, channels: int, n_fft: int, hop_samples: int):
        super().__init__()
        self.n_fft, self.hop_samples = n_fft, hop_samples
        self.out = nn.Linear(channels, n_fft + 2)
        self.istft = nn.Module()  # only to carry the window under its published name
        self.istft.register_buffer("window", torch.hann_window(n_fft))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        magnitude, phase = self.out(frames).transpose(1, 2).chunk(2, dim=1)
        spectrum = torch.polar(magnitude.exp().clip(max=100), phase)  # the authors' bound on wild magnitudes
        window = self.istft.get_buffer("window")[:, None]
        waves = torch.fft.irfft(spectrum, self.n_fft, dim=1) * window
        weights = window.square().expand(1, -1, waves.shape[-1])
        return self._overlap_add(waves) / self._overlap_add(weights)

    def _overlap_add(self, waves: torch.Tensor) -> torch.Tensor:
        """Windows `[B, n_fft, T]`, one each hop, summed and trimmed: `[B, T x hop]`."""
        length = (waves.shape[-1] - 1) * self.hop_samples + self.n_fft
        summed = functional.fold(waves, (1, length), (1, self.n_fft), stride=(1, self.hop_samples))[:, 0, 0]
        trim = (self.n_fft - self.hop_samples) // 2
        return summed[:, trim : length - trim]
