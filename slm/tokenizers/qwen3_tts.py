"""Qwen3-TTS's tokenizer at 12.5 Hz (2026, arXiv 2601.15621): Mimi's encoder, trained anew, and a decoder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from slm.audio import joined
from slm.errors import UsageError, is_out_of_memory
from slm.files import atomic_directory, write_json
from slm.load_report import without_table
from slm.tokenizers._bounded import bounded, loaded
from slm.tokenizers._checkpoints import check_all_used, check_shapes, find_files, read_config, read_tensors
from slm.tokenizers._codec import scalars_on_host
from slm.tokenizers._modes import inference
from slm.tokenizers._pretrained import check_rotation
from slm.tokenizers.base import TOKENIZERS, StreamDecoder, Tokenizer
from slm.tokenizers.database import taxonomy_of
from slm.tokenizers.mimi import MimiTokenizer

if TYPE_CHECKING:
    import torch

    from slm.tokenizers.networks.causal import CausalRun

# `decoder_config` of `config.json` of Qwen/Qwen3-TTS-Tokenizer-12Hz. Its `encoder_config` is Mimi's.
DECODER: Mapping[str, Any] = {
    "codebook_dim": 512,
    "codebook_size": 2048,
    "num_quantizers": 16,
    "latent_dim": 1024,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "head_dim": 64,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "attention_bias": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000,
    "sliding_window": 72,
    "max_position_embeddings": 8000,
    "upsampling_ratios": [2, 2],
    "upsample_rates": [8, 5, 4, 3],
    "decoder_dim": 1536,
}
_OF_MIMI_ALONE = ("decoder.", "decoder_transformer.", "upsample.")


@TOKENIZERS.register("qwen3-tts-12hz")
class Qwen3TtsTokenizer(MimiTokenizer):
    """16 codebooks of 2048 at 12.5 Hz for speech, the first semantic (distilled from WavLM).

    `checkpoint` is a hub id (Qwen/Qwen3-TTS-Tokenizer-12Hz) or a folder with `config.json` and `model.safetensors`;
    `num_codebooks` keeps the first n. T = ceil(N / 1920): as in the authors' package (`qwen-tts`, one clip at a time),
    the encoder fills its last frame itself, layer by layer.

    Attention keeps to the window that the configuration says, 10 s; with the version of transformers that the package
    pins it does so by flash attention alone, and codes of longer clips are others there without.

    The decoder sees the past alone. As in the package it makes 300 frames at a time, and knows 25 of those before: of
    long clips that is not what one pass would make, and it is not streamed here. Raises UsageError where weights cannot
    be had or fit no such network.
    """

    batching: Literal["none", "frames", "samples"] = "samples"
    family = "qwen3-tts-12hz"
    mismatch: ClassVar[Mapping[str, str]] = {}
    about: ClassVar[Mapping[str, str]] = {
        "qwen3-tts-12hz": "2048 x 16 at 12.5 Hz from 24 kHz (the first is semantic); decodes; "
        "needs Qwen/Qwen3-TTS-Tokenizer-12Hz (hub or local folder)"
    }
    decoded_frames: ClassVar[int] = 300
    decoder_knows_frames: ClassVar[int] = 25

    def __init__(
        self,
        *,
        checkpoint: str = "Qwen/Qwen3-TTS-Tokenizer-12Hz",
        num_codebooks: int | None = None,
        device: str = "cpu",
    ):
        from slm.tokenizers.networks.clip_by_clip import run_clip_by_clip

        files = find_files(checkpoint, ["config.json", "model.safetensors"])
        config = _read_config(files["config.json"])
        self.model = _load(config, files["model.safetensors"], checkpoint).to(device)
        scalars_on_host(self.model)
        run_clip_by_clip(self.encoder_stages()[1])
        encoder = self.model.config
        self.spec = self._make_spec(
            name=self.family,
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(encoder.codebook_size,) * config["encoder_valid_num_quantizers"],
            sample_rate_hz=encoder.sampling_rate,
            hop_samples=config["encode_downsample_rate"],
            frame_offset_samples=config["encode_downsample_rate"] - 1,
            identity={key: getattr(encoder, key, None) for key in self.code_settings},
            semantic_codebooks=tuple(range(encoder.num_semantic_quantizers)),
            taxonomy=taxonomy_of(self.family),
        )

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        codes: torch.Tensor = self.model.encode(signals, num_quantizers=self.spec.num_codebooks).audio_codes
        return codes

    def _next_codes(self, run: CausalRun, signals: torch.Tensor) -> torch.Tensor:
        latents = run.through(self.encoder_stages(), signals)
        codes: torch.Tensor = self.model.quantizer.encode(latents, self.spec.num_codebooks)
        return codes.transpose(0, 1)

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        audio: torch.Tensor = self.model.decoder(codes)
        return audio

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        hop, known = self.spec.hop_samples, self.decoder_knows_frames
        made = []
        with inference():
            for start in range(0, len(codes), self.decoded_frames):
                before = min(start, known)
                audio = self._decode_whole(codes[start - before : start + self.decoded_frames])
                made.append(audio[before * hop :])
        return joined(iter(made))

    def stream_decoder(self) -> StreamDecoder:
        return Tokenizer.stream_decoder(self)

    @classmethod
    def write_untrained(cls, folder: str | Path, seed: int = 0, **changes: Any) -> None:
        """`config.json` and `model.safetensors` with random weights; `changes` are fields of `encoder_config` and
        `decoder_config`, in dictionaries of these names, and of the configuration around them."""
        import torch
        from transformers import MimiConfig, MimiModel

        from slm.tokenizers._untrained import fill_codebooks, own_folder
        from slm.tokenizers.networks.qwen3_tts import Decoder

        folder = own_folder(folder)
        config = {
            "model_type": "qwen3_tts_tokenizer_12hz",
            "encoder_valid_num_quantizers": 16,
            "input_sample_rate": 24_000,
            "output_sample_rate": 24_000,
            "encode_downsample_rate": 1920,
            "decode_upsample_rate": 1920,
            **changes,
            "encoder_config": {"frame_rate": 12.5, **changes.get("encoder_config", {})},
            "decoder_config": {**DECODER, **changes.get("decoder_config", {})},
        }
        with torch.random.fork_rng(devices=[]), torch.no_grad(), atomic_directory(folder) as temporary:
            torch.default_generator.manual_seed(seed)
            encoder = MimiModel(MimiConfig(**config["encoder_config"])).eval()
            fill_codebooks(encoder, seed)
            decoder = Decoder(config["decoder_config"]).eval()
            for name, parameter in decoder.named_parameters():
                if name.endswith("embedding_sum") or parameter.ndim == 3:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
            _save(encoder, decoder, temporary)
            write_json(temporary / "config.json", config)


def _read_config(path: Path) -> dict[str, Any]:
    config = read_config(path)
    kind = config.get("model_type")
    if kind != "qwen3_tts_tokenizer_12hz" or not {"encoder_config", "decoder_config"} <= config.keys():
        raise UsageError(f"{path} is no configuration of Qwen3-TTS's tokenizer at 12 Hz: its model_type is {kind!r}")
    decoder = {name: config["decoder_config"].get(name, default) for name, default in DECODER.items()}
    for name, value in decoder.items():
        if type(DECODER[name]) in (int, float) and not (type(value) in (int, float) and 0 < value <= 1e7):
            raise UsageError(f"{path} has {name} {value!r} in decoder_config, not a number above 0, up to 10 million")
    hop, back = config.get("encode_downsample_rate"), prod(decoder["upsample_rates"] + decoder["upsampling_ratios"])
    if hop != back:
        raise UsageError(f"{path}: a frame of {hop} samples would come back as {back}")
    count = config.get("encoder_valid_num_quantizers")
    if type(count) is not int or count != decoder["num_quantizers"]:
        raise UsageError(f"{path}: of {count!r} codebooks the decoder would take {decoder['num_quantizers']!r}")
    return {**config, "decoder_config": decoder}


def _load(config: Mapping[str, Any], path: Path, checkpoint: str) -> Any:
    """Mimi's model, whose decoder is Qwen's."""
    from transformers import MimiConfig

    from slm.tokenizers.networks.mimi import MimiModel
    from slm.tokenizers.networks.qwen3_tts import Decoder

    state = read_tensors(path)
    halves: dict[str, dict[str, torch.Tensor]] = {"encoder": {}, "decoder": {}}
    for name, value in state.items():
        half, _, rest = name.partition(".")
        if half in halves:
            halves[half][rest] = value.float() if value.is_floating_point() else value
    try:
        form = MimiConfig(**config["encoder_config"])
        check_rotation(form, checkpoint)
        with without_table(), bounded(checkpoint):
            model, report = MimiModel.from_pretrained(
                None, config=form, state_dict=halves["encoder"], output_loading_info=True, ignore_mismatched_sizes=True
            )
    except UsageError:
        raise
    except Exception as error:  # transformers raises whatever its validation and its layers raise
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"cannot load the encoder of {checkpoint}: {reason}") from error
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith(_OF_MIMI_ALONE)):
        raise UsageError(f"{checkpoint} lacks {len(missing)} weights of its encoder, such as {missing[0]}")
    check_shapes(checkpoint, report)
    check_all_used(model, f"the encoder of {checkpoint}", report, but=_OF_MIMI_ALONE)
    for name in ("decoder_transformer", "upsample"):  # in the model itself in older versions of transformers
        model._modules.pop(name, None)
    model.decoder = loaded(lambda: Decoder(config["decoder_config"]), halves["decoder"], checkpoint)
    return model.eval().requires_grad_(False)


def _save(encoder: Any, decoder: torch.nn.Module, folder: Path) -> None:
    """As published: both in one file, the encoder's weights as transformers writes them."""
    from safetensors.torch import load_file, save_file

    encoder.save_pretrained(folder / "mimi")
    state = {
        f"encoder.{name}": value
        for name, value in load_file(folder / "mimi/model.safetensors").items()
        if not name.startswith(_OF_MIMI_ALONE)
    }
    rmtree(folder / "mimi")
    state |= {f"decoder.{name}": value.contiguous() for name, value in decoder.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
