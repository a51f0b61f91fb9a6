"""Speech encoders of the published architectures with random weights and centroids, for benchmarks without a hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slm.errors import UsageError, did_you_mean
from slm.files import write_text
from slm.tokenizers._encoders import load_encoder
from slm.tokenizers._kmeans import Centroids

_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}
_25_HZ = {
    "conv_dim": (512,) * 8,
    "num_feat_extract_layers": 8,
    "conv_stride": (5, 2, 2, 2, 2, 2, 2, 2),
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2, 2),
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "hubert-base": ("Hubert", {}),
    "mhubert-25hz": ("Hubert", _25_HZ),
    "w2v-bert-2": ("Wav2Vec2Bert", {}),
    "wavlm-large": ("WavLM", _LARGE),
}
"""Name -> class of transformers (less `Config` or `Model`), what of its configuration is not the default."""


def write_untrained_units(
    folder: str | Path, architecture: str, layers: Sequence[int], k: int, seed: int = 0, **changes: Any
) -> Path:
    """An `ssl-kmeans` tokenizer in an empty folder, `changes` made to its encoder's configuration; returns its file.

    The centroids of each layer are k of its features of 2 k frames of noise.
    """
    import torch
    import transformers

    from slm.tokenizers._untrained import noise

    folder = Path(folder).resolve()
    if architecture not in ARCHITECTURES:
        raise UsageError(f"no architecture {architecture!r}{did_you_mean(architecture, ARCHITECTURES)}")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty: an untrained tokenizer needs a folder of its own")
    family, different = ARCHITECTURES[architecture]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        config = getattr(transformers, f"{family}Config")(**{**different, **changes})
        getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
        extractor = "SeamlessM4TFeatureExtractor" if family == "Wav2Vec2Bert" else "Wav2Vec2FeatureExtractor"
        getattr(transformers, extractor)().save_pretrained(folder)
        encoder, features, frames = load_encoder(str(folder), layers), [], 0
        while frames < 2 * k:
            features.append(encoder.features(noise(encoder.sample_rate_hz)[0, 0].numpy()))
            frames += features[-1].shape[1]
        chosen = torch.randperm(frames)[:k]
    for layer, frames_of_layer in zip(layers, torch.cat(features, dim=1), strict=True):
        width = encoder.width
        centroids = Centroids(frames_of_layer[chosen], torch.zeros(width), torch.ones(width))
        centroids.save(folder / f"centroids-L{layer}.safetensors")
    settings = f"encoder: {folder}\nlayer: {list(layers)}\ncentroids: {folder}/centroids-L{{layer}}.safetensors\n"
    write_text(folder / "tokenizer.yaml", f"name: ssl-kmeans\n{settings}")
    return folder / "tokenizer.yaml"
