"""Mimi, the codec of Moshi (Défossez et al., 2024, arXiv 2410.00037), through `transformers.MimiModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from slm.tokenizers._codec import pad_to_frames, scalars_on_host
from slm.tokenizers._pretrained import PretrainedCodec
from slm.tokenizers._streaming import CausalCodec
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch

    from slm.tokenizers.networks.causal import CausalRun


@TOKENIZERS.register("mimi")
class MimiTokenizer(CausalCodec, PretrainedCodec):
    """Mimi: speech at 12.5 frames per second; the first codebook is semantic (distilled from WavLM), the rest acoustic.

    `checkpoint` is a hub id or a local folder; `num_codebooks` keeps the first n (default: all 32; Moshi uses 8). A
    clip is padded with zeros to whole frames, as Moshi's own `MimiModel.encode` does: T = ceil(N / 1920). Raises
    UsageError when weights cannot be had or codebooks are asked for that do not exist.
    """

    batching: Literal["none", "frames", "samples"] = "frames"
    family = "mimi"
    code_settings = (
        *("sampling_rate", "frame_rate", "upsampling_ratios", "dilation_growth_rate", "use_causal_conv", "pad_mode"),
        *("num_attention_heads", "num_key_value_heads", "hidden_act", "norm_eps", "sliding_window", "rope_parameters"),
        "num_semantic_quantizers",
    )
    mismatch: ClassVar[Mapping[str, str]] = {"batched": "8.0 %", "tf32": "11 %", "bf16": "22 %"}
    about: ClassVar[Mapping[str, str]] = {
        "mimi": "2048 x 32 at 12.5 Hz from 24 kHz (the first is semantic); decodes; "
        "needs kyutai/mimi (hub or local folder)"
    }

    def __init__(self, *, checkpoint: str = "kyutai/mimi", num_codebooks: int | None = None, device: str = "cpu"):
        from slm.tokenizers.networks.clip_by_clip import run_clip_by_clip

        config = self._load(checkpoint, device)
        scalars_on_host(self.model)
        run_clip_by_clip(self.encoder_stages()[1])
        self.spec = self._padded_spec(
            checkpoint,
            num_codebooks,
            available=config.num_quantizers,
            hop_samples=round(config.sampling_rate / config.frame_rate),
            semantic_codebooks=tuple(range(config.num_semantic_quantizers)),
            taxonomy=taxonomy_of("mimi"),
        )

    @classmethod
    def _network(cls) -> Any:
        from slm.tokenizers.networks.mimi import MimiModel

        return MimiModel

    @property
    def is_causal(self) -> bool:
        return self.model.config.use_causal_conv and self.model.config.trim_right_ratio == 1.0

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        padded = pad_to_frames(signals, self.spec.hop_samples)
        return self.model.encode(padded, num_quantizers=self.spec.num_codebooks).audio_codes

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        return self.model.decode(codes).audio_values[:, 0]

    def _next_codes(self, run: CausalRun, signals: torch.Tensor) -> torch.Tensor:
        latents = run.through(self.encoder_stages(), pad_to_frames(signals, self.spec.hop_samples))
        return self.model.quantizer.encode(latents, self.spec.num_codebooks).transpose(0, 1)

    def _next_audio(self, run: CausalRun, codes: torch.Tensor) -> torch.Tensor:
        return run.through(self._stages("decoder"), self.model.quantizer.decode(codes))[:, 0]

    def encoder_stages(self) -> list[Any]:
        return self._stages("encoder")

    def _stages(self, side: str) -> list[Any]:
        """What the signal goes through, in order; older versions of transformers have it in the model itself."""
        half = getattr(self.model, side)
        owner, network = (half, f"{side}_seanet") if hasattr(half, f"{side}_seanet") else (self.model, side)
        names = (network, f"{side}_transformer", "downsample") if side == "encoder" else ("upsample",
                 f"{side}_transformer", network)  # fmt: skip
        return [getattr(owner, name) for name in names]
