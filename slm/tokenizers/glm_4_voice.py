"""GLM-4-Voice's tokenizer (Zeng et al., 2024, arXiv 2412.02612), which Kimi-Audio has too: Whisper, quantized."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from slm.errors import UsageError
from slm.files import atomic_directory, write_json
from slm.tokenizers._bounded import loaded
from slm.tokenizers._checkpoints import find_files, read_config, read_tensors
from slm.tokenizers._log_mel import whisper_log_mel
from slm.tokenizers._supervised import MEL_HOP, SupervisedTokenizer, fill_codebook
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch

    from slm.tokenizers.networks.whisper_vq import WhisperVQ

# Of `config.json` of zai-org/glm-4-voice-tokenizer what its encoder is made by.
PUBLISHED: Mapping[str, Any] = {
    "num_mel_bins": 128,
    "d_model": 1280,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "activation_function": "gelu",
    "max_source_positions": 1500,
    "quantize_position": 16,
    "quantize_vocab_size": 16_384,
    "quantize_causal_block_size": 200,
    "pooling_position": 16,
    "pooling_kernel_size": 4,
    "pooling_type": "avg",
    "encoder_causal_convolution": True,
    "encoder_causal_attention": False,
    "quantize_causal_encoder": False,
}
_FIXED = ("pooling_type", "encoder_causal_convolution", "encoder_causal_attention", "quantize_causal_encoder")
_RATE_HZ = 16_000


@TOKENIZERS.register("glm-4-voice")
class Glm4VoiceTokenizer(SupervisedTokenizer):
    """One codebook of 16,384 at 12.5 Hz: half of Whisper large-v3's encoder, trained further on recognizing speech, its
    frames averaged four at a time. No decoder: the way back is GLM-4-Voice's flow matching, a model for itself.

    `checkpoint` is a hub id (zai-org/glm-4-voice-tokenizer) or a folder with `config.json` and `model.safetensors`, of
    which the first half of the encoder is taken.

    T = ceil(N / 1280): zeros fill the last code, to which nothing attends. Attention sees what comes before, and the
    rest of a block of 4 s. As the authors do, a clip is coded in pieces of 30 s that know nothing of one another. Where
    they put pieces of several lengths in one batch, the last code of the shorter ones hears other zeros than alone;
    here it does not.

    Raises UsageError where the weights are not there or are of another form, and for more than one codebook.
    """

    mismatch: ClassVar[Mapping[str, str]] = {"bf16": "about 2 %"}
    measured_on = "a CPU"
    about: ClassVar[Mapping[str, str]] = {
        "glm-4-voice": "16384 x 1 at 12.5 Hz from 16 kHz (supervised, of Whisper's encoder); no decoder; needs "
        "zai-org/glm-4-voice-tokenizer (hub or local folder)"
    }

    def __init__(
        self,
        *,
        checkpoint: str = "zai-org/glm-4-voice-tokenizer",
        num_codebooks: int | None = None,
        device: str = "cpu",
    ):
        files = find_files(checkpoint, ["config.json", "model.safetensors"])
        config = _read_config(files["config.json"])
        weights = _inference_weights(read_tensors(files["model.safetensors"]), config)
        self.model = loaded(lambda: _network(config), weights, checkpoint, as_published=_published_name)
        self.model.eval().requires_grad_(False).to(device)
        self._log_mel = whisper_log_mel(config["num_mel_bins"])
        self.spectra_per_frame = config["pooling_kernel_size"]
        hop = 2 * MEL_HOP * self.spectra_per_frame
        self.piece_samples = 2 * MEL_HOP * config["max_source_positions"] // hop * hop
        self.spec = self._make_spec(
            name="glm-4-voice",
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(config["quantize_vocab_size"],),
            sample_rate_hz=_RATE_HZ,
            hop_samples=hop,
            frame_offset_samples=hop - 1,
            identity=config,
            taxonomy=taxonomy_of("glm-4-voice", checkpoint),
        )

    def encoder_stages(self) -> Sequence[Any]:
        return list(self.model.encoder.layers)

    def _cut(self, signal: np.ndarray) -> Iterable[np.ndarray]:
        for start in range(0, len(signal), self.piece_samples):
            yield signal[start : start + self.piece_samples]

    def _is_long(self, num_samples: int) -> bool:
        return False

    def spectra_of(self, signal: torch.Tensor) -> torch.Tensor:
        """Here, what the convolutions make of log-mel frames, two in one."""
        import torch

        filled = torch.nn.functional.pad(signal, (0, -len(signal) % self.spec.hop_samples))
        made: torch.Tensor = self.model.encoder.frames_of(
            self._to_model(self._log_mel(filled)), -(-len(signal) // MEL_HOP)
        )
        return made

    @classmethod
    def write_untrained(cls, folder: str | Path, seed: int = 0, **changes: Any) -> None:
        """`config.json` and `model.safetensors` with random weights; `changes` are fields of the former."""
        import torch
        from safetensors.torch import save_file
        from transformers.models.whisper.modeling_whisper import sinusoids

        from slm.tokenizers._untrained import noise, own_folder, redraw

        folder = own_folder(folder)
        config = {**PUBLISHED, **changes}
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            model = _network(config).eval()
            encoder = model.encoder
            redraw(encoder)
            encoder.embed_positions.weight.copy_(sinusoids(*encoder.embed_positions.weight.shape))
            spectra = whisper_log_mel(config["num_mel_bins"])(noise(_RATE_HZ)[0, 0])
            whole = spectra.shape[1] // (2 * encoder.per_code) * 2 * encoder.per_code
            hidden = encoder(encoder.frames_of(spectra[:, :whole], whole), torch.empty(0))
            fill_codebook(model.quantizer.weight, hidden[0])
        state = {_published_name(name): value.contiguous() for name, value in model.state_dict().items()}
        with atomic_directory(folder) as temporary:
            write_json(temporary / "config.json", {"model_type": "whisper", **config})
            save_file(state, temporary / "model.safetensors", {"format": "pt"})


def _network(config: Mapping[str, Any]) -> WhisperVQ:
    from transformers import WhisperConfig

    from slm.tokenizers.networks.whisper_vq import Encoder, WhisperVQ

    names = ("d_model", "encoder_attention_heads", "encoder_ffn_dim", "activation_function", "max_source_positions")
    form = WhisperConfig(**{name: config[name] for name in names})
    form._attn_implementation = "sdpa"
    encoder = Encoder(
        form,
        config["num_mel_bins"],
        config["quantize_position"],
        config["quantize_causal_block_size"],
        config["pooling_kernel_size"],
    )
    return WhisperVQ(encoder, config["quantize_vocab_size"])


def _read_config(path: Path) -> dict[str, Any]:
    given = read_config(path)
    if "quantize_vocab_size" not in given:
        raise UsageError(f"{path} is no configuration of GLM-4-Voice's tokenizer: it has no quantize_vocab_size")
    config = {name: given.get(name, default) for name, default in PUBLISHED.items()}
    for name, value in config.items():
        if name in _FIXED and value != PUBLISHED[name]:
            raise UsageError(f"{path} has {name} {value!r}: only {PUBLISHED[name]!r} is known")
        if type(PUBLISHED[name]) is int and not (type(value) is int and value > 0):
            raise UsageError(f"{path} has {name} {value!r}, not a whole number from 1 on")
    if config["pooling_position"] != config["quantize_position"]:
        raise UsageError(f"{path} pools after layer {config['pooling_position']} and quantizes after another")
    if config["pooling_kernel_size"] > config["max_source_positions"]:
        raise UsageError(f"{path} pools {config['pooling_kernel_size']} frames, more than a piece has")
    return config


def _inference_weights(state: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Of all weights those of the encoder up to its codebook, in fp32."""
    kept = {}
    for name, value in state.items():
        name = name.removeprefix("model.").removeprefix("encoder.")
        if name == "codebook.weight":
            kept["quantizer.weight"] = value.float()
        part, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        is_layer = part == "layers" and number.isdecimal() and int(number) < config["quantize_position"]
        if is_layer or part in ("conv1", "conv2", "embed_positions"):
            kept[f"encoder.{name}"] = value.float()
    return kept


def _published_name(name: str) -> str:
    return "model.encoder." + name.removeprefix("encoder.").replace("quantizer.", "codebook.")
