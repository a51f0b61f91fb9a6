"""DualCodec (arXiv 2505.13000): w2v-BERT's states in a first codebook, in others what is left of a DAC's latents.

The DAC is that of transformers, whose layers the authors number instead of naming them (`published_names`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import DacConfig
from transformers.models.dac.modeling_dac import DacDecoder, DacEncoder, DacResidualVectorQuantizer

from slm.tokenizers.networks.snake import with_own_snakes


@dataclass(frozen=True)
class DualCodecConfig:
    """The authors' arguments, by their names; the values are those of 12hz_v1. `semantic_dim` is the width of
    w2v-BERT."""

    encoder_dim: int = 32
    encoder_rates: Sequence[int] = (4, 5, 6, 8, 2)
    decoder_dim: int = 1536
    decoder_rates: Sequence[int] = (2, 8, 6, 5, 4)
    n_codebooks: int = 7
    codebook_size: int = 4096
    codebook_dim: int = 8
    semantic_codebook_size: int = 16384
    semantic_codebook_dim: int = 8
    semantic_dim: int = 1024
    convnext_dim: int = 768
    convnext_layers: int = 4
    intermediate_dim: int = 2048

    @property
    def hop_samples(self) -> int:
        return prod(self.encoder_rates)


class CausalConvNeXtBlock(nn.Module):
    """Of frames `[B, C, T]`, each of which sees 6 before it."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.dwconv = nn.Conv1d(channels, channels, 7, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(channels, inner), nn.Linear(inner, channels)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        inner = self.norm(self.dwconv(functional.pad(frames, (6, 0))).mT)
        made: torch.Tensor = frames + self.pwconv2(functional.gelu(self.pwconv1(inner))).mT
        return made


class DualCodecNetwork(nn.Module):
    """`hear`, `pool` and `semantic` lead to the first codebook and to what is taken off the latents of `dac.encoder`;
    `dac.quantizer` codes the rest."""

    w2v_bert: Any
    """The lower layers of a `Wav2Vec2BertModel`, which come from elsewhere than the other weights."""
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, config: DualCodecConfig, frames_per_code: int):
        super().__init__()
        self.frames_per_code = frames_per_code
        form = DacConfig(
            encoder_hidden_size=config.encoder_dim,
            downsampling_ratios=list(config.encoder_rates),
            decoder_hidden_size=config.decoder_dim,
            upsampling_ratios=list(config.decoder_rates),
            n_codebooks=config.n_codebooks,
            codebook_size=config.codebook_size,
            codebook_dim=config.codebook_dim,
        )
        encoder, decoder = (with_own_snakes(part(form)) for part in (DacEncoder, DacDecoder))
        self.dac = nn.ModuleDict(
            {"encoder": encoder, "quantizer": DacResidualVectorQuantizer(form), "decoder": decoder}
        )
        width, latent_width = config.convnext_dim, form.hidden_size
        form = DacConfig(
            n_codebooks=1, codebook_size=config.semantic_codebook_size, codebook_dim=config.semantic_codebook_dim
        )
        form.hidden_size = width
        self.semantic_vq = DacResidualVectorQuantizer(form)
        before, behind = (
            [CausalConvNeXtBlock(width, config.intermediate_dim) for _ in range(config.convnext_layers)]
            for _ in range(2)
        )
        self.convnext_encoder = nn.Sequential(nn.Conv1d(config.semantic_dim, width, 1), *before)
        self.convnext_decoder = nn.Sequential(*behind, nn.Conv1d(width, latent_width, 1))
        self.register_buffer("mean", torch.zeros(config.semantic_dim))
        self.register_buffer("std", torch.ones(config.semantic_dim))

    def hear(self, spectra: torch.Tensor, filled: bool = False) -> torch.Tensor:
        """Pairs of log-mel frames `[1, T, 160]` -> states of w2v-BERT `[1, T, C]`.

        `filled`: the last pair is half padding. No other hears it, but the authors code what becomes of it.
        """
        hidden, masks = self.w2v_bert.feature_projection(spectra)[0], {}
        if filled:
            held = torch.arange(hidden.shape[1], device=hidden.device)[None] < hidden.shape[1] - 1
            hidden = hidden.masked_fill(~held[..., None], 0.0)
            added = torch.zeros_like(hidden[..., 0]).masked_fill(~held, torch.finfo(hidden.dtype).min)
            # The model itself would make masks [T, T], which long clips have no memory for.
            masks = {"attention_mask": added[:, None, None], "conv_attention_mask": held}
        for block in self.w2v_bert.encoder.layers:
            hidden = block(hidden, **masks)
        return hidden

    def pool(self, states: torch.Tensor) -> torch.Tensor:
        """States `[B, T, C]`, normalized and averaged -> `[B, C, floor(T / frames_per_code)]`."""
        return functional.avg_pool1d(((states - self.mean) / self.std).mT, self.frames_per_code)

    def semantic(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is pooled `[B, C, T]` -> codes `[B, 1, T]` and the latents `[B, D, T]` that they stand for."""
        quantized, codes, *_ = self.semantic_vq(self.convnext_encoder(frames))
        return codes, self.convnext_decoder(quantized)

    def with_acoustic(
        self, codes: torch.Tensor, semantic: torch.Tensor, latents: torch.Tensor, num_codebooks: int
    ) -> torch.Tensor:
        """What `semantic` gives, latents of `dac.encoder` `[B, D, T or more]` -> codes `[B, num_codebooks, T]`."""
        rest = latents[..., : codes.shape[-1]] - semantic
        return torch.cat([codes, self.dac["quantizer"](rest, num_codebooks - 1)[1]], dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `[B, K, T]` -> audio `[B, about T x hop]`."""
        acoustic: Any = self.dac["quantizer"]
        latents = self.convnext_decoder(self.semantic_vq.from_codes(codes[:, :1])[0])
        if codes.shape[1] > 1:
            latents = latents + acoustic.from_codes(codes[:, 1:])[0]
        audio: torch.Tensor = self.dac["decoder"](latents)[:, 0]
        return audio


def published_names(network: DualCodecNetwork, names: Iterable[str]) -> dict[str, str]:
    """Names of weights of the network -> those in the authors' checkpoint."""
    paths: dict[str, str] = {}
    for part, word in (("encoder", "block"), ("decoder", "model")):
        paths |= _numbered(network.dac[part], f"dac.{part}", f"dac.{part}", word)
    split = ((name, *name.rpartition(".")) for name in names)
    return {name: f"{paths.get(path, path)}{dot}{last}" for name, path, dot, last in split}


def _numbered(module: nn.Module, own: str, published: str, word: str) -> Iterator[tuple[str, str]]:
    """The layers within, whose order is that of the signal, by either name."""
    layers: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        several = isinstance(child, nn.ModuleList)
        layers += [(f"{name}.{i}", each) for i, each in child.named_children()] if several else [(name, child)]
    if not layers:
        yield own, published
    for i, (name, layer) in enumerate(layers):
        yield from _numbered(layer, f"{own}.{name}", f"{published}.{word}.{i}", "block")
