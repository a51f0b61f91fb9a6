"""The S3 tokenizer of CosyVoice (arXiv 2407.05407, 2412.10117, 2505.17589): an encoder under supervision, quantized.

Two convolutions on log-mel frames and the layers of Whisper's encoder. The first version has sinusoidal positions and
one codebook of directions; the later ones rotate queries and keys, add to attention a memory (FSMN, a convolution in
each channel over its values), and round 8 numbers to 3 levels each.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from slm.tokenizers.networks.clip_by_clip import run_clip_by_clip

HEAD_WIDTH = 64
"""Of every release; files do not say."""
LEVELS = 3
_SCALARS = 8
_JUST_BELOW_ONE = 0.9990000128746033  # as the released graphs have it


class Attention(nn.Module):
    """Over a whole clip, of at most 30 s."""

    runs_along_clips = True

    def __init__(self, width: int, memory_steps: int | None):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.fsmn_block: nn.Conv1d | None = None
        if memory_steps is not None:
            around = (memory_steps - 1) // 2
            self.fsmn_block = nn.Conv1d(width, width, memory_steps, padding=around, groups=width, bias=False)
            run_clip_by_clip(self.fsmn_block, channels_first=True)

    def forward(self, x: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
        """`[1, T, C]` -> the same; `turns`: cosines and sines `[T, 64]` of each step's place in its clip."""
        query, key, value = (layer(x).unflatten(2, (-1, HEAD_WIDTH)) for layer in (self.query, self.key, self.value))
        if turns is not None:
            query, key = turned(query, *turns), turned(key, *turns)
        half = HEAD_WIDTH**-0.25  # of the scale, on each side, as in Whisper
        heard = functional.scaled_dot_product_attention(
            query.transpose(1, 2) * half, key.transpose(1, 2) * half, value.transpose(1, 2), scale=1.0
        )
        made = self.out(heard.transpose(1, 2).flatten(2))
        if self.fsmn_block is None:
            return made
        values = value.flatten(2)
        return made + (self.fsmn_block(values.mT).mT + values)


def turned(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Queries or keys `[1, T, H, 64]`, the first half of their numbers paired with the second."""
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return x * cosines[:, None].to(x.dtype) + rotated * sines[:, None].to(x.dtype)


class Block(nn.Module):
    def __init__(self, width: int, inner_width: int, memory_steps: int | None):
        super().__init__()
        self.attn = Attention(width, memory_steps)
        self.attn_ln = nn.LayerNorm(width, eps=1e-5)
        self.mlp = nn.Sequential(nn.Linear(width, inner_width), nn.GELU(), nn.Linear(inner_width, width))
        self.mlp_ln = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
        x = x + self.attn(self.attn_ln(x), turns)
        x = x + self.mlp(self.mlp_ln(x))
        return x


class Encoder(nn.Module):
    positional_embedding: torch.Tensor | None

    def __init__(
        self, bands: int, width: int, inner_width: int, layers: int, stride: int, positions: int | None,
        memory_steps: int | None,
    ):  # fmt: skip
        super().__init__()
        self.conv1 = nn.Conv1d(bands, width, 3, stride, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, 2, padding=1)
        self.blocks = nn.ModuleList(Block(width, inner_width, memory_steps) for _ in range(layers))
        self.register_buffer("positional_embedding", None if positions is None else torch.zeros(positions, width))

    def forward(self, spectra: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Log-mel frames `[1, M, bands]`, and which step of its clip each is `[T]` -> `[1, T, width]`."""
        x = functional.gelu(self.conv2(functional.gelu(self.conv1(spectra.mT.contiguous())))).mT
        turns = None
        if self.positional_embedding is not None:
            x = x + self.positional_embedding[positions]
        else:
            turns = turns_at(positions)
        for block in self.blocks:
            x = block(x, turns)
        return x


def turns_at(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """fp32 cosines and sines `[T, 64]`."""
    numbers = torch.arange(0, HEAD_WIDTH, 2, device=positions.device).float()
    angles = torch.outer(positions.float(), 1.0 / (10000.0 ** (numbers / HEAD_WIDTH)))
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


class Directions(nn.Module):
    """One codebook, of which the row next to a vector of length 1 is its code."""

    embed: torch.Tensor

    def __init__(self, size: int, width: int):
        super().__init__()
        self.register_buffer("embed", torch.zeros(size, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """fp32 `[1, T, width]` -> codes `[1, T]`."""
        x = functional.normalize(x, dim=-1)[0]
        table = self.embed.T
        distances = x.pow(2).sum(1, keepdim=True) - 2 * x @ table + table.pow(2).sum(0, keepdim=True)
        return (-distances).max(dim=-1).indices[None]


class Scalars(nn.Module):
    """8 numbers, rounded to -1, 0 or 1; the code has them as its digits, the lowest first."""

    def __init__(self, width: int):
        super().__init__()
        self.project_down = nn.Linear(width, _SCALARS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """fp32 `[1, T, width]` -> codes `[1, T]`."""
        digits = (self.project_down(x).tanh() * _JUST_BELOW_ONE).round().long() + 1
        return (digits * LEVELS ** torch.arange(_SCALARS, device=x.device)).sum(dim=-1)


class S3Network(nn.Module):
    """An encoder, whose weights are named as in Whisper's code, and a quantizer."""

    def __init__(self, encoder: Encoder, quantizer: Directions | Scalars):
        super().__init__()
        self.encoder, self.quantizer = encoder, quantizer

    @classmethod
    def like(cls, weights: Mapping[str, torch.Tensor], stride: int) -> S3Network:
        """The network of such shapes of weights. KeyError for a name that every one has, ValueError for a width that
        is not of whole heads, for positions that end within a piece, and for a memory that has no middle."""
        width, bands, _ = weights["encoder.conv1.weight"].shape
        if width % HEAD_WIDTH:
            raise ValueError(f"a width of {width} is not of whole heads of {HEAD_WIDTH}")
        layers = len({name.split(".")[2] for name in weights if name.startswith("encoder.blocks.")})
        positions = weights.get("encoder.positional_embedding")
        if positions is not None and len(positions) < (longest := 1500 // stride):
            raise ValueError(f"it has {len(positions)} positions, of {longest} in 30 s")
        memory = None if positions is not None else weights["encoder.blocks.0.attn.fsmn_block.weight"]
        if memory is not None and memory.shape[-1] % 2 == 0:
            raise ValueError(f"a memory of {memory.shape[-1]} steps has no middle")
        encoder = Encoder(
            bands,
            width,
            len(weights["encoder.blocks.0.mlp.0.weight"]),
            layers,
            stride,
            None if positions is None else len(positions),
            None if memory is None else memory.shape[-1],
        )
        if memory is not None:
            return cls(encoder, Scalars(width))
        return cls(encoder, Directions(len(weights["quantizer.embed"]), width))

    @property
    def codebook_size(self) -> int:
        quantizer = self.quantizer
        return LEVELS**_SCALARS if isinstance(quantizer, Scalars) else len(quantizer.embed)
