"""The speech encoders of transformers that hear the waveform, cut off above the layers that are asked for.

Layers count as in transformers' `hidden_states`, which is also how fairseq, textlesslib and SpeechBrain count: 0 is
what enters the first layer, n what leaves the n-th (Whisper's last: after the norm that closes its encoder). Only
layers up to the highest one are kept and run.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from slm.errors import UsageError
from slm.tokenizers._frames import FrameEncoder
from slm.tokenizers.base import weight_digests

if TYPE_CHECKING:
    import torch

CONV_FAMILIES = ("hubert", "wav2vec2", "wavlm")
INPUT_NORMS = ("none", "unit-variance", "layer-norm")
# What of a configuration changes the features, beside the weights and their shapes.
_CONV_KEYS = (
    *("conv_kernel", "conv_stride", "feat_extract_norm", "feat_extract_activation", "hidden_act", "layer_norm_eps"),
    *("num_attention_heads", "do_stable_layer_norm", "num_conv_pos_embeddings", "num_conv_pos_embedding_groups"),
    *("num_buckets", "max_bucket_distance"),
)


class LayeredEncoder(FrameEncoder):
    """A stack of Transformer layers, whose `blocks` stay in reach whatever transformers calls them."""

    model: Any
    blocks: Any
    shares_tensors = True
    """Whether clips may share a tensor."""

    @abstractmethod
    def hear(self, signal: torch.Tensor) -> torch.Tensor:
        """A signal of `cut` `[N]`, on the device, or clips that are packed -> features `[layers, T, width]`."""

    @abstractmethod
    def stages(self) -> list[Any]:
        """The modules that a signal goes through, or its spectra, in order."""

    def features_of(self, part: np.ndarray) -> torch.Tensor:
        import torch

        return self.hear(torch.from_numpy(np.ascontiguousarray(part)).to(self.model.device))

    def _keep(self, blocks: Any, layers: Sequence[int], name: str) -> Any:
        """The blocks that run for `layers`; UsageError for a layer that there is not."""
        for layer in layers:
            if not 0 <= layer <= len(blocks):
                raise UsageError(
                    f"layer {layer} of {name or 'this encoder'}: it has layers 0 (the input) to {len(blocks)}"
                )
        self.layers, self.blocks = tuple(layers), blocks[: max(layers)]
        return self.blocks

    @contextmanager
    def _inputs_kept(self, kept: dict[int, torch.Tensor]) -> Iterator[None]:
        """Within, `kept[n]` becomes what enters block n, for each of `layers` below the highest."""

        def keep(layer: int) -> Any:
            def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                kept[layer] = (args[0] if args else kwargs["hidden_states"])[0]

            return hook

        hooks = [
            self.blocks[layer].register_forward_pre_hook(keep(layer), with_kwargs=True)
            for layer in set(self.layers)
            if layer < len(self.blocks)
        ]
        try:
            yield
        finally:
            for each in hooks:
                each.remove()

    def _layers_of(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward pass of the model on a batch of one -> `[layers, T, width]`."""
        import torch

        kept: dict[int, torch.Tensor] = {}
        with self._inputs_kept(kept):
            kept[len(self.blocks)] = self.model(*args, **kwargs).last_hidden_state[0]
        return torch.stack([kept[layer] for layer in self.layers])

    def _weights(self, layer: int, *leave_out: str) -> list[str]:
        """Digests of the weights that the features of `layer` depend on."""
        above = {id(value) for block in self.blocks[layer:] for value in block.state_dict(keep_vars=True).values()}
        # masked_spec_embed serves training only, and some checkpoints leave it out (it is then random).
        return weight_digests(
            value
            for name, value in self.model.state_dict(keep_vars=True).items()
            if id(value) not in above and not name.startswith(("masked_spec_embed", *leave_out))
        )


def attend_clip_by_clip(model: Any) -> None:
    """Make a HuBERT, wav2vec 2.0 or WavLM fit for clips that are packed, and WavLM for long ones."""
    from slm.tokenizers.networks.clip_by_clip import run_clip_by_clip
    from slm.tokenizers.networks.relative_attention import GatedBiasAttention

    run_clip_by_clip(model.encoder.pos_conv_embed.conv, channels_first=True)
    if model.config.model_type != "wavlm":
        model.set_attn_implementation("sdpa")  # which is followed
        return
    for block in model.encoder.layers:
        block.attention.__class__ = GatedBiasAttention
        run_clip_by_clip(block.attention, mask="bool")


def forget_hidden_states(model: Any) -> None:
    """Take out the functions that transformers hooked into layers when hidden states were first asked of a model, and
    that cannot be pickled; it does so again when it must."""
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if "output_capturing" in getattr(hook, "__qualname__", ""):
                del module._forward_hooks[key]
        vars(module).pop("_output_capturing_hooks_installed", None)


class ConvEncoder(LayeredEncoder):
    """HuBERT, wav2vec 2.0 or WavLM: unpadded convolutions on the waveform, then Transformer layers.

    `input_norm` is done to the whole clip (window): "unit-variance" as transformers' feature extractor does it (its
    epsilon is 1e-7), "layer-norm" as fairseq, textlesslib and SpeechBrain do (1e-5, which tells in quiet clips),
    "none"; None does what the checkpoint's feature extractor says.
    """

    def __init__(self, model: Any, feature_extractor: Any, layers: Sequence[int], device: str, input_norm: str | None):
        from torch import nn

        config = model.config
        model.encoder.layers = self._keep(model.encoder.layers, layers, config._name_or_path)
        if config.do_stable_layer_norm:
            # A norm that closes the stack: hidden_states come before it, the last one too, as in fairseq.
            model.encoder.layer_norm = nn.Identity()
        model.adapter = None
        attend_clip_by_clip(model)
        self.model, self.extractor = model.to(device).eval().requires_grad_(False), feature_extractor
        if input_norm is None:
            input_norm = "unit-variance" if feature_extractor.do_normalize else "none"
        self.input_norm = input_norm
        feature_extractor.do_normalize = input_norm == "unit-variance"
        self.sample_rate_hz = feature_extractor.sampling_rate
        self.hop_samples = prod(config.conv_stride)
        jumps = np.cumprod([1, *config.conv_stride[:-1]])
        receptive_field = 1 + int(np.dot(np.subtract(config.conv_kernel, 1), jumps))
        self.frame_offset_samples = self.hop_samples - receptive_field
        self.width = config.hidden_size

    def prepared(self, part: np.ndarray) -> np.ndarray:
        import torch

        values = self.extractor(part, sampling_rate=self.sample_rate_hz, return_tensors="pt").input_values
        if self.input_norm == "layer-norm":
            values = torch.nn.functional.layer_norm(values, values.shape[1:])
        return values[0].numpy()

    def hear(self, signal: torch.Tensor) -> torch.Tensor:
        return self._layers_of(signal[None].to(self.model.dtype))

    def stages(self) -> list[Any]:
        encoder = self.model.encoder
        return [self.model.feature_extractor, encoder.pos_conv_embed, *encoder.layers]

    def identity(self, layer: int) -> dict[str, Any]:
        config = self.model.config
        settings = {key: getattr(config, key, None) for key in _CONV_KEYS}
        settings |= {"family": config.model_type, "layer": layer, "do_normalize": self.extractor.do_normalize}
        if self.input_norm == "layer-norm":
            settings["input_norm"] = self.input_norm
        return {**settings, "sample_rate_hz": self.sample_rate_hz, "weights": self._weights(layer)}
