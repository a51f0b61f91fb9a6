"""EnCodec (Défossez et al., 2022, arXiv 2210.13438), through `transformers.EncodecModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from slm.errors import UsageError
from slm.tokenizers._checkpoints import fold_in_place
from slm.tokenizers._codec import scalars_on_host
from slm.tokenizers._pretrained import PretrainedCodec, load_config
from slm.tokenizers._streaming import CausalCodec
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of, text

if TYPE_CHECKING:
    import torch

    from slm.tokenizers.networks.causal import CausalRun


@TOKENIZERS.register("encodec")
class EncodecTokenizer(CausalCodec, PretrainedCodec):
    """EnCodec: an acoustic tokenizer for any sound, 75 frames per second at 24 kHz.

    `checkpoint` is a hub id (facebook/encodec_24khz, facebook/encodec_32khz, facebook/audiogen-medium) or a local
    folder, in the form of transformers or of audiocraft (`compression_state_dict.bin`, recognized by its name);
    `num_codebooks` keeps the first n (default: all). The model fills the last frame itself, layer by layer: T =
    ceil(N / hop). The 48 kHz release is refused with UsageError: it is stereo, and normalizes and codes overlapping
    chunks, so that its codes are no single sequence. UsageError also when weights cannot be had or codebooks are asked
    for that do not exist.
    """

    batching = "samples"
    family = "encodec"
    model_class = "EncodecModel"
    code_settings = (
        *("sampling_rate", "upsampling_ratios", "dilation_growth_rate", "use_causal_conv", "pad_mode", "norm_type"),
        "trim_right_ratio",
    )
    mismatch: ClassVar[Mapping[str, str]] = {"batched": "0.2 %", "tf32": "25 %", "bf16": "85 %"}
    about: ClassVar[Mapping[str, str]] = {
        "encodec": "1024 x 32 at 75 Hz from 24 kHz (32 kHz by checkpoint); decodes; "
        "needs facebook/encodec_24khz (hub or local folder)"
    }

    def __init__(
        self, *, checkpoint: str = "facebook/encodec_24khz", num_codebooks: int | None = None, device: str = "cpu"
    ):
        config = self._load(checkpoint, device)
        scalars_on_host(self.model)
        # transformers takes a bandwidth in kbit/s and knows how many codebooks it pays for.
        counts = {b: self.model.quantizer.get_num_quantizers_for_bandwidth(b) for b in config.target_bandwidths}
        self.spec = self._padded_spec(
            checkpoint,
            num_codebooks,
            available=max(counts.values()),
            hop_samples=config.hop_length,
            taxonomy={**taxonomy_of("encodec", checkpoint), "streamable": text(config.use_causal_conv)},
        )
        fold_in_place(self.model)
        self._bandwidth = min(b for b, count in counts.items() if count >= self.spec.num_codebooks)

    def _load(self, checkpoint: str, device: str) -> Any:
        """A checkpoint of transformers; or else one of audiocraft, where its file is there."""
        from slm.tokenizers._audiocraft import encodec_config, encodec_model, find_package

        package = find_package(checkpoint, otherwise=lambda: load_config(self.family, checkpoint))
        if package is None:
            return super()._load(checkpoint, device)
        if "pretrained" in package:
            return self._load(package["pretrained"], device)
        config = encodec_config(package["xp.cfg"], checkpoint)
        self._check_config(config, checkpoint)
        self.model = encodec_model(config, package["best_state"], checkpoint).to(device)
        return config

    def _check_config(self, config: Any, checkpoint: str) -> None:
        odd = {"stereo": config.audio_channels != 1, "normalized": config.normalize, "chunked": config.chunk_length_s}
        if found := [name for name, is_so in odd.items() if is_so]:
            raise UsageError(
                f"{checkpoint} is a {', '.join(found)} EnCodec, whose codes are no single sequence of a mono clip: "
                "use facebook/encodec_24khz or facebook/encodec_32khz"
            )

    @property
    def is_causal(self) -> bool:
        return self.model.config.use_causal_conv and self.model.config.trim_right_ratio == 1.0

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        # Residual quantization: more codebooks than asked for leave the first ones as they are.
        return self.model.encode(signals, bandwidth=self._bandwidth).audio_codes[0][:, : self.spec.num_codebooks]

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        return self.model.decode(codes[None], [None]).audio_values[:, 0]

    def _next_codes(self, run: CausalRun, signals: torch.Tensor) -> torch.Tensor:
        codes = self.model.quantizer.encode(run.through([self.model.encoder], signals), self._bandwidth)
        return codes.transpose(0, 1)[:, : self.spec.num_codebooks]

    def _next_audio(self, run: CausalRun, codes: torch.Tensor) -> torch.Tensor:
        return run.through([self.model.decoder], self.model.quantizer.decode(codes.transpose(0, 1)))[:, 0]
