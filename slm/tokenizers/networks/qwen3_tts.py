"""The decoder of Qwen3-TTS's tokenizer at 12.5 Hz (arXiv 2601.15621): codes through a Transformer of a sliding window,
ConvNeXt and causal convolutions to audio. The Transformer is that of Qwen3-Omni, in transformers; weights are named as
published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class CausalConv(nn.Module):
    def __init__(self, width: int, out_width: int, kernel: int, dilation: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv1d(width, out_width, kernel, dilation=dilation, groups=groups)
        self.before = (kernel - 1) * dilation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.conv(functional.pad(x, (self.before, 0)))
        return made


class Upsampling(nn.Module):
    """What a transposed convolution gives beyond whole strides is cut off behind."""

    def __init__(self, width: int, out_width: int, kernel: int, stride: int):
        super().__init__()
        self.conv = nn.ConvTranspose1d(width, out_width, kernel, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.conv(x)
        return made[..., : x.shape[-1] * self.conv.stride[0]]


class ConvNeXt(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.dwconv = CausalConv(width, width, 7, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.pwconv2(functional.gelu(self.pwconv1(self.norm(self.dwconv(x).mT))))
        return x + (self.gamma * made).mT


class SnakeBeta(nn.Module):
    """x + sin^2(a x) / b, both in logarithms."""

    def __init__(self, width: int):
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        alpha, beta = (values.exp()[:, None] for values in (self.alpha, self.beta))
        return x + (x * alpha).sin().square() / (beta + 1e-9)


class ResidualUnit(nn.Module):
    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.act1, self.conv1 = SnakeBeta(width), CausalConv(width, width, 7, dilation)
        self.act2, self.conv2 = SnakeBeta(width), CausalConv(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.conv2(self.act2(self.conv1(self.act1(x))))
        return x + made


class UpsamplingBlock(nn.Module):
    def __init__(self, width: int, stride: int):
        super().__init__()
        units = (ResidualUnit(width // 2, dilation) for dilation in (1, 3, 9))
        self.block = nn.Sequential(SnakeBeta(width), Upsampling(width, width // 2, 2 * stride, stride), *units)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.block(x)
        return made


class Codebook(nn.Module):
    """As training left it: the sum of what was assigned to each code, and how much that was."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.cluster_usage, self.embedding_sum = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size, width))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return functional.embedding(codes, self.embedding_sum / self.cluster_usage.clamp(min=1e-5)[:, None])


class Codebooks(nn.Module):
    """Some codebooks, whose vectors are summed and projected."""

    def __init__(self, count: int, size: int, inner_width: int, width: int):
        super().__init__()
        self.input_proj = nn.Conv1d(width, inner_width, 1, bias=False)  # of training, and in the checkpoint
        self.output_proj = nn.Conv1d(inner_width, width, 1, bias=False)
        layers = [nn.ModuleDict({"_codebook": Codebook(size, inner_width)}) for _ in range(count)]
        self.vq = nn.ModuleDict({"layers": nn.ModuleList(layers)})

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """`[B, K, T]`, K at most all of them -> `[B, width, T]`."""
        layers: Any = self.vq["layers"]
        summed = sum(layer["_codebook"](each) for layer, each in zip(layers, codes.unbind(dim=1), strict=False))
        made: torch.Tensor = self.output_proj(summed.mT)
        return made


class Decoder(nn.Module):
    """Codes `[B, K, T]` of the first K codebooks -> audio `[B, T x hop]`."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        width, latent, size = config["codebook_dim"], config["latent_dim"], config["codebook_size"]
        self.quantizer = nn.ModuleDict(
            {
                "rvq_first": Codebooks(1, size, width // 2, width),
                "rvq_rest": Codebooks(config["num_quantizers"] - 1, size, width // 2, width),
            }
        )
        self.pre_conv = CausalConv(width, latent, 3)
        self.pre_transformer = _transformer(config)
        self.pre_transformer.input_proj = nn.Linear(latent, config["hidden_size"])
        self.pre_transformer.output_proj = nn.Linear(config["hidden_size"], latent)
        self.upsample = nn.Sequential(
            *(nn.Sequential(Upsampling(latent, latent, n, n), ConvNeXt(latent)) for n in config["upsampling_ratios"])
        )
        outer, rates = config["decoder_dim"], config["upsample_rates"]
        blocks = [UpsamplingBlock(outer // 2**i, rate) for i, rate in enumerate(rates)]
        last = outer // 2 ** len(rates)
        self.decoder = nn.Sequential(CausalConv(latent, outer, 7), *blocks, SnakeBeta(last), CausalConv(last, 1, 7))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        x = self.quantizer["rvq_first"](codes[:, :1])
        if codes.shape[1] > 1:
            x = x + self.quantizer["rvq_rest"](codes[:, 1:])
        network = self.pre_transformer
        x = network(inputs_embeds=network.input_proj(self.pre_conv(x).mT)).last_hidden_state
        audio: torch.Tensor = self.decoder(self.upsample(network.output_proj(x).mT))
        return audio[:, 0].clamp(-1, 1)


def _transformer(config: Mapping[str, Any]) -> Any:
    from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeCode2WavConfig
    from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeCode2WavTransformerModel

    names = (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("attention_bias", "hidden_act", "rms_norm_eps", "sliding_window", "max_position_embeddings"),
    )
    form = Qwen3OmniMoeCode2WavConfig(
        **{name: config[name] for name in names},
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
    )
    form.head_dim = config["head_dim"]
    form._attn_implementation = "sdpa"
    return Qwen3OmniMoeCode2WavTransformerModel(form)
