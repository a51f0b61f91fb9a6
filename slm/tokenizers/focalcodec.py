"""FocalCodec (Della Libera et al., 2025, arXiv 2502.04465), from its authors' own checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from slm.files import atomic_directory, write_json
from slm.tokenizers._bounded import check_size
from slm.tokenizers._checkpoints import find_files, fold_in_place, load_strict, read_tensors
from slm.tokenizers._codec import NeuralCodec
from slm.tokenizers._encoder_families import attend_clip_by_clip
from slm.tokenizers._focalcodec_checkpoint import (
    CLASSES,
    PUBLISHED,
    WINDOW,
    own_names,
    published_names,
    read_focal_config,
)
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch

    from slm.tokenizers.networks.focalcodec import FocalCodecNetwork

SAMPLE_RATE_HZ = 16_000


@TOKENIZERS.register("focalcodec")
class FocalCodecTokenizer(NeuralCodec):
    """FocalCodec: speech in one stream of 50, 25 or 12.5 codes of 8192 per second (0.65 to 0.16 kbit/s).

    `checkpoint` is a hub id (lucadellalib/focalcodec_50hz, focalcodec_25hz, focalcodec_12_5hz) or a folder with
    `config.json` and `model.safetensors`, with the names of either release of the authors' code. The causal ones
    (focalcodec_50hz_2k_causal, .._4k_causal, .._65k_causal) are other networks, and not read.

    WavLM large's convolutions make floor((N - 80) / 320) frames of a clip, as they are unpadded; frames of zeros fill
    the last code. (Of a clip of less than 400 samples, 25 ms, the authors' code makes one frame, between zeros; here it
    has none.) Six layers of WavLM attend to the whole clip, and focal modulation averages over it, both ways: a clip is
    encoded and decoded in one piece, of 10 minutes at most, the convolutions aside.

    Raises UsageError where weights cannot be had or are of another form, and for more than one codebook.

    Follows github.com/lucadellalib/focalcodec.
    """

    batching: Literal["none", "frames", "samples"] = "samples"
    longest_clip_s = 600.0
    mismatch: ClassVar[Mapping[str, str]] = {"bf16": "about 15 %"}
    measured_on = "a CPU"
    about: ClassVar[Mapping[str, str]] = {
        "focalcodec": "8192 x 1 at 50, 25 or 12.5 Hz from 16 kHz (out of WavLM's lower layers); decodes; needs "
        "lucadellalib/focalcodec_50hz (hub or local folder)"
    }

    def __init__(
        self,
        *,
        checkpoint: str = "lucadellalib/focalcodec_50hz",
        num_codebooks: int | None = None,
        device: str = "cpu",
    ):
        import torch

        files = find_files(checkpoint, ["config.json", "model.safetensors"])
        config = read_focal_config(files["config.json"])
        state = own_names(read_tensors(files["model.safetensors"]))
        window = torch.empty(config["decoder"]["n_fft"], device="meta")
        check_size(lambda: _network(config), {WINDOW: window, **state}, checkpoint)
        self.model = _network(config).eval().requires_grad_(False)
        load_strict(self.model, {WINDOW: self.model.get_buffer(WINDOW), **state}, checkpoint)
        self.model.to(device)
        factor = prod(config["compressor"]["downscale_factors"])
        hop, encoder = factor * self.model.encoder.hop_samples, self.model.encoder
        self._tail = encoder.window_samples - encoder.hop_samples
        self.spec = self._make_spec(
            name="focalcodec",
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(config["quantizer"]["codebook_size"],),
            sample_rate_hz=SAMPLE_RATE_HZ,
            hop_samples=hop,
            frame_offset_samples=hop - encoder.window_samples,
            identity={"encoder": config["encoder"]},
            taxonomy=taxonomy_of("focalcodec", checkpoint),
        )

    def encoder_stages(self) -> Sequence[Any]:
        wavlm = self.model.encoder.wavlm
        return [wavlm.feature_extractor, wavlm.encoder, self.model.encoder.compressor]

    @property
    def _tail_samples(self) -> int:
        return self._tail

    def _to_bfloat16(self) -> None:
        import torch

        self.model.encoder.to(torch.bfloat16)

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        codes: torch.Tensor = self.model.quantizer(self.model.encoder(signals))
        return codes

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        audio: torch.Tensor = self.model.decode(codes)
        return audio

    @classmethod
    def write_untrained(cls, folder: str | Path, seed: int = 0, **changes: Any) -> None:
        """`config.json` and `model.safetensors` with random weights; `changes` are fields of the parts of the former,
        in dictionaries called as there (`compressor_config`)."""
        import torch
        from safetensors.torch import save_file

        from slm.tokenizers._untrained import noise, own_folder, redraw, spread_scalars

        folder = own_folder(folder)
        given = {f"{part}_config": {**PUBLISHED[part], **changes.get(f"{part}_config", {})} for part in PUBLISHED}
        names = {f"{part}_name": name for part, name in CLASSES.items()}
        with atomic_directory(folder) as temporary:
            write_json(temporary / "config.json", {**names, **given})
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.default_generator.manual_seed(seed)
                model = _network(read_focal_config(temporary / "config.json")).eval()
                redraw(model)
                signal = 0.1 * noise(SAMPLE_RATE_HZ)[..., : 4 * SAMPLE_RATE_HZ]
                spread_scalars(model.encoder.compressor.out_proj, lambda: model.encoder(signal))
                width = model.encoder.wavlm.config.hidden_size
                unread = {f"encoder.encoder.norm.{name}": torch.ones(width) for name in ("weight", "bias")}
                unread["quantizer.mask"] = model.quantizer.places
            state = {**published_names(model.state_dict()), **unread}
            save_file(state, temporary / "model.safetensors", {"format": "pt"})


def _network(config: Mapping[str, Mapping[str, Any]]) -> FocalCodecNetwork:
    from torch import nn
    from transformers import WavLMConfig, WavLMModel

    from slm.tokenizers.networks import focalcodec as parts
    from slm.tokenizers.networks.vocos import ISTFTHead

    heard, squeezed, back, audio = (config[part] for part in ("encoder", "compressor", "decompressor", "decoder"))
    form = WavLMConfig(
        conv_dim=heard["hidden_dims"],
        conv_kernel=heard["kernel_sizes"],
        conv_stride=heard["strides"],
        num_feat_extract_layers=len(heard["hidden_dims"]),
        num_hidden_layers=heard["num_layers"],
        hidden_size=heard["dim"],
        intermediate_size=heard["ffn_dim"],
        num_attention_heads=heard["num_heads"],
        num_buckets=heard["num_buckets"],
        max_bucket_distance=heard["max_distance"],
        num_conv_pos_embeddings=heard["conv_pos"],
        num_conv_pos_embedding_groups=heard["conv_pos_groups"],
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        mask_time_prob=0.0,
        mask_feature_prob=0.0,
    )
    wavlm = WavLMModel(form)
    wavlm.encoder.layer_norm = nn.Identity()
    fold_in_place(wavlm)  # published without a weight norm
    attend_clip_by_clip(wavlm)
    compressor = parts.Compressor(
        [squeezed["input_dim"], *squeezed["hidden_dims"]],
        squeezed["downscale_factors"],
        _kernels(squeezed),
        squeezed["output_dim"],
    )
    widths = [*back["hidden_dims"], back["output_dim"]]
    return parts.FocalCodecNetwork(
        parts.Encoder(wavlm, compressor),
        parts.BinaryQuantizer(squeezed["output_dim"]),
        parts.Decompressor(back["input_dim"], widths, back["upscale_factors"], _kernels(back)),
        parts.Vocos(
            parts.Backbone(audio["input_dim"], audio["dim"], audio["ffn_dim"], audio["num_layers"]),
            ISTFTHead(audio["dim"], audio["n_fft"], audio["hop_length"]),
        ),
    )


def _kernels(focal: Mapping[str, Any]) -> list[int]:
    return [focal["focal_window"] + level * focal["focal_factor"] for level in range(focal["focal_level"])]
