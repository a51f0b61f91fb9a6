"""Small speech encoders of transformers with random weights, saved as on the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    HubertConfig,
    HubertModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

LAYERS = 3
WIDTH = 24


def conv_config(cls: type, stable: bool, **more: Any) -> Any:
    norm = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True} if stable else {}
    return cls(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, **norm, **more,
    )  # fmt: skip


BUILDERS: dict[str, Callable[[], Any]] = {
    "hubert-group": lambda: HubertModel(conv_config(HubertConfig, stable=False)),
    "hubert-layer": lambda: HubertModel(conv_config(HubertConfig, stable=True)),
    "wavlm-group": lambda: WavLMModel(conv_config(WavLMConfig, stable=False, num_buckets=32)),
    "wavlm-layer": lambda: WavLMModel(conv_config(WavLMConfig, stable=True, num_buckets=32)),
    "wav2vec2-group": lambda: Wav2Vec2Model(conv_config(Wav2Vec2Config, stable=False)),
    "wav2vec2-adapter": lambda: Wav2Vec2Model(conv_config(Wav2Vec2Config, stable=True, add_adapter=True)),
    "bert": lambda: Wav2Vec2BertModel(Wav2Vec2BertConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=32,
        output_hidden_size=WIDTH, conv_depthwise_kernel_size=7,
    )),
}  # fmt: skip


def randomized(model: Any) -> Any:
    """Every weight random, also those that are born as zeros or ones."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def random_whisper(positions: int = 50) -> WhisperModel:
    config = WhisperConfig(
        vocab_size=20, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=positions,
        max_target_positions=8, pad_token_id=1, bos_token_id=1, eos_token_id=1, decoder_start_token_id=2,
    )  # fmt: skip
    return randomized(WhisperModel(config)).half().float()


def save_encoders(root: Path) -> dict[str, Path]:
    """A folder for each of BUILDERS, and `whisper`, with its feature extractor."""
    torch.manual_seed(0)
    for name, build in BUILDERS.items():
        randomized(build()).save_pretrained(root / name)
        extractor = SeamlessM4TFeatureExtractor() if name == "bert" else None
        (extractor or Wav2Vec2FeatureExtractor(do_normalize=name.endswith("layer"))).save_pretrained(root / name)
    random_whisper().save_pretrained(root / "whisper")
    WhisperFeatureExtractor().save_pretrained(root / "whisper")
    return {path.name: path for path in root.iterdir()}


def small_wavlm_large() -> WavLMModel:
    """WavLM large but for its widths: 24 layers, layer norms in front."""
    config = conv_config(WavLMConfig, stable=True, num_buckets=320)
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 24, 16, 24
    return WavLMModel(config).eval()


def small_mhubert() -> HubertModel:
    """TWIST's mHuBERT but for its widths: an eighth convolution makes 25 Hz."""
    config = conv_config(HubertConfig, stable=False)
    config.num_hidden_layers, config.conv_dim, config.num_feat_extract_layers = 12, (16,) * 8, 8
    config.conv_stride, config.conv_kernel = (5, 2, 2, 2, 2, 2, 2, 2), (10, 3, 3, 3, 3, 2, 2, 2)
    return HubertModel(config).eval()
