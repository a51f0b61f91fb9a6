"""Residual vector quantization with Euclidean codebooks (SoundStream, arXiv 2107.03312; EnCodec, arXiv 2210.13438)."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional


class EuclideanCodebook(nn.Module):
    """Vectors `embed [V, D]`; a latent is coded as the nearest one, the first of equals."""

    embed: torch.Tensor

    def __init__(self, size: int, width: int):
        super().__init__()
        self.register_buffer("embed", torch.zeros(size, width))  # as in EnCodec: moved by averages, not by gradients

    def quantize(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents `[N, D]` -> codes `[N]`."""
        table = self.embed.t()
        # The square is expanded as in EnCodec's code: in fp32, another order of sums decides near ties otherwise.
        distance = latents.pow(2).sum(1, keepdim=True) - 2 * latents @ table + table.pow(2).sum(0, keepdim=True)
        return distance.neg().max(dim=-1).indices


class ResidualQuantizer(nn.Module):
    """K codebooks of V vectors; each one codes what those before have left."""

    def __init__(self, num_codebooks: int, size: int, width: int):
        super().__init__()
        self.layers = nn.ModuleList(EuclideanCodebook(size, width) for _ in range(num_codebooks))

    def encode(self, latents: torch.Tensor, num_codebooks: int | None = None) -> torch.Tensor:
        """Latents `[B, D, T]` -> codes `[B, K, T]` of the first `num_codebooks` (None: all)."""
        batch, width, frames = latents.shape
        rest, codes = latents.transpose(1, 2).reshape(-1, width), []
        for book in self._books()[:num_codebooks]:
            codes.append(book.quantize(rest))
            rest = rest - functional.embedding(codes[-1], book.embed)
        return torch.stack(codes).view(-1, batch, frames).transpose(0, 1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `[B, K, T]`, the first K of all -> latents `[B, D, T]`."""
        books = self._books()
        parts = [functional.embedding(codes[:, k], books[k].embed) for k in range(codes.shape[1])]
        return sum(parts[1:], parts[0]).transpose(1, 2)

    def fill(self, latents: torch.Tensor) -> None:
        """Draw codebooks that give many codes at every level: each code the mean of two latents `[1, D, N]`, which
        leaves something to the next level, of what the levels before have left of them."""
        rest = latents[0].T
        for book in self._books():
            pairs = torch.randint(len(rest), (2, len(book.embed)), device=rest.device)
            book.embed.copy_(rest[pairs].mean(dim=0))
            rest = rest - functional.embedding(book.quantize(rest), book.embed)

    def _books(self) -> list[EuclideanCodebook]:
        return [cast(EuclideanCodebook, layer) for layer in self.layers]
