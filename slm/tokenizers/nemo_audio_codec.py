"""NVIDIA NeMo's audio codecs of samples: NanoCodec (2025, arXiv 2508.05835), Low Frame-rate Speech Codec (2024, arXiv
2409.12117) and those at 86 Hz."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from slm.files import atomic_directory
from slm.tokenizers._checkpoints import with_weight_norm
from slm.tokenizers._codec import conv_context, pad_to_frames
from slm.tokenizers._nemo_checkpoint import CONFIG, WEIGHTS, NemoConfig, build, find_archive, read_archive
from slm.tokenizers._streaming import CausalCodec
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch

    from slm.tokenizers.networks.causal import CausalRun

NANO_CODEC = "nvidia/nemo-nano-codec-22khz-1.78kbps-12.5fps"
_MODULES = "nemo.collections.tts.modules.audio_codec_modules"
# NanoCodec at 12.5 Hz with 13 codebooks, of what its configuration says of inference.
PUBLISHED: Mapping[str, Any] = {
    "sample_rate": 22_050,
    "samples_per_frame": 1764,
    "audio_encoder": {
        "_target_": f"{_MODULES}.HiFiGANEncoder",
        "down_sample_rates": [2, 3, 6, 7, 7],
        "encoded_dim": 52,
        "base_channels": 24,
        "activation": "lrelu",
        "pad_mode": "replicate",
    },
    "audio_decoder": {
        "_target_": f"{_MODULES}.CausalHiFiGANDecoder",
        "up_sample_rates": [7, 7, 6, 3, 2],
        "input_dim": 52,
        "base_channels": 864,
        "activation": "half_snake",
        "output_activation": "clamp",
        "pad_mode": "zeros",
        "n_groups_equal_to_out_channels": True,
    },
    "vector_quantizer": {
        "_target_": f"{_MODULES}.GroupFiniteScalarQuantizer",
        "num_groups": 13,
        "num_levels_per_group": [8, 7, 6, 6],
    },
}


@TOKENIZERS.register("nemo-audio-codec")
class NemoAudioCodecTokenizer(CausalCodec):
    """NeMo's codecs: HiFi-GAN turned around, groups of four scalars, HiFi-GAN; 4 to 13 codebooks at 12.5 to 86 Hz.

    `checkpoint` is a hub id (whose file is called as the repository is), a `.nemo` file or a folder with one; of it the
    configuration is read, and the weights of encoder and decoder. Codecs that read spectra (`mel-codec`) are refused.
    Groups are no refinements of one another: `num_codebooks` keeps the first n, and decoding takes the others for 0.

    Codes are those of NeMo for a clip alone (in its batches zeros follow shorter clips at each layer, by which their
    last frames get other codes). Zeros fill the last frame: T = ceil(N / hop). Where ends are reflected (all but
    NanoCodec), NeMo cannot take less than 4 frames: here zeros follow such a clip, and its last codes are repeated for
    the decoder, what comes of them being cut off. NanoCodec's decoder is causal: it can be streamed, the encoder
    cannot. Raises UsageError when files cannot be had or do not fit.
    """

    batching: Literal["none", "frames", "samples"] = "frames"
    mismatch: ClassVar[Mapping[str, str]] = {"bf16": "4 to 9 %"}
    measured_on = "a CPU"
    about: ClassVar[Mapping[str, str]] = {
        "nemo-audio-codec": "4032 x 4 to 2016 x 13 at 12.5 Hz, 2016 x 8 at 21.5 Hz, 1000 x 8 at 86 Hz, from 22.05 or "
        f"44.1 kHz; decodes; needs the .nemo file of {NANO_CODEC} or others (hub or local)"
    }

    def __init__(self, *, checkpoint: str = NANO_CODEC, num_codebooks: int | None = None, device: str = "cpu"):
        from slm.tokenizers.networks.nemo_audio_codec import fewest_frames

        file = find_archive(checkpoint)
        config, state = read_archive(file)
        self._codec = codec = NemoConfig(config, str(file))
        self.model = build(codec, state, str(file)).to(device)
        hop = codec.hop_samples
        # The widest tensors are channels x samples: no longer ones than NanoCodec's in a minute.
        self.piece_s *= min(1.0, 24 * 22_050 / (codec.encoder.channels * codec.sample_rate_hz))
        self._fewest = fewest_frames(self.model.encoder, hop), fewest_frames(self.model.decoder, 1)
        self.context_frames = conv_context(self.model.encoder, hop)
        self.decoder_context_frames = conv_context(self.model.decoder, hop, from_frames=True)
        self.spec = self._make_spec(
            name="nemo-audio-codec",
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(prod(codec.levels),) * codec.groups,
            sample_rate_hz=codec.sample_rate_hz,
            hop_samples=hop,
            frame_offset_samples=hop - 1,
            identity={
                "encoder": asdict(codec.encoder),
                "eps": codec.eps,
                "sample_rate_hz": codec.sample_rate_hz,
            },
            taxonomy=taxonomy_of("nemo-audio-codec", checkpoint),
            published=state.values(),
        )

    @property
    def encodes_causally(self) -> bool:
        return self._codec.encoder.causal

    @property
    def decodes_causally(self) -> bool:
        return self._codec.decoder.causal

    @property
    def is_causal(self) -> bool:
        return self.encodes_causally and self.decodes_causally

    def _new_run(self) -> CausalRun:
        from slm.tokenizers.networks.nemo_audio_codec import CausalCodecRun

        return CausalCodecRun()

    def _next_codes(self, run: CausalRun, signals: torch.Tensor) -> torch.Tensor:
        latents = run.through([self.model.encoder], pad_to_frames(signals, self.spec.hop_samples))
        codes: torch.Tensor = self.model.quantizer.encode(latents)[:, : self.spec.num_codebooks]
        return codes

    def _next_audio(self, run: CausalRun, codes: torch.Tensor) -> torch.Tensor:
        return run.through([self.model.decoder], self._latents_of(codes))[:, 0]

    def _latents_of(self, codes: torch.Tensor) -> torch.Tensor:
        latents: torch.Tensor = self.model.quantizer.decode(codes)
        return latents.to(self.model.decoder.pre_conv.weight.dtype)

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        import torch

        hop = self.spec.hop_samples
        signals = pad_to_frames(signals, hop)
        frames = signals.shape[-1] // hop
        more = max(0, self._fewest[0] - frames) * hop
        latents = self.model.encoder(torch.nn.functional.pad(signals, (0, more)) if more else signals)
        codes: torch.Tensor = self.model.quantizer.encode(latents)[:, : self.spec.num_codebooks, :frames]
        return codes

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        frames = codes.shape[-1]
        if (more := self._fewest[1] - frames) > 0:
            codes = codes[..., [*range(frames), *[frames - 1] * more]]
        audio: torch.Tensor = self.model.decoder(self._latents_of(codes))
        return audio[:, 0, : frames * self.spec.hop_samples]

    @classmethod
    def write_untrained(cls, folder: str | Path, seed: int = 0, **changes: Any) -> None:
        """One `.nemo` file with random weights; `changes` are fields of the configuration, of its parts in dictionaries
        of their names."""
        import torch
        import yaml

        from slm.tokenizers._untrained import noise, own_folder, redraw
        from slm.tokenizers.networks.nemo_audio_codec import NemoAudioCodec, published_name

        folder = own_folder(folder)
        config = {
            name: {**value, **changes.get(name, {})} if isinstance(value, Mapping) else changes.get(name, value)
            for name, value in PUBLISHED.items()
        }
        codec = NemoConfig(config, str(folder))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            quantizer = codec.quantizer()
            model = NemoAudioCodec(codec.encoder, codec.decoder, quantizer).eval()
            redraw(model)
            hop = codec.hop_samples
            signal = noise(codec.sample_rate_hz)[..., : 4 * codec.sample_rate_hz // hop * hop]
            latents = _spread(model.encoder, signal, 1.0)
            _spread(model.decoder, quantizer.decode(quantizer.encode(latents)), 0.2)
        state = {published_name(name): value for name, value in with_weight_norm(model).items()}
        for group in range(codec.groups):
            for name, values in (("num_levels", quantizer.levels), ("dim_base_index", quantizer.bases)):
                state[f"vector_quantizer.fsqs.{group}.{name}"] = values.int()[None].clone()
        with atomic_directory(folder) as temporary:
            weights = io.BytesIO()
            torch.save(state, weights)
            text = yaml.safe_dump(config, sort_keys=False).encode()
            with tarfile.open(temporary / f"{NANO_CODEC.partition('/')[2]}.nemo", "w") as archive:
                for name, content in ((CONFIG, text), (WEIGHTS, weights.getvalue())):
                    member = tarfile.TarInfo(f"./{name}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def _spread(network: Any, values: torch.Tensor, spread: float) -> torch.Tensor:
    """Make the outputs of the last convolution have mean 0 and such a standard deviation, for `values`."""
    seen: list[torch.Tensor] = []
    hook = network.post_conv.register_forward_hook(lambda _, __, output: seen.append(output))
    network(values)
    hook.remove()
    scale = spread / seen[0].std(dim=(0, 2))
    network.post_conv.weight.mul_(scale[:, None, None])
    network.post_conv.bias.sub_(seen[0].mean(dim=(0, 2))).mul_(scale)
    spread_out: torch.Tensor = network(values)
    return spread_out
