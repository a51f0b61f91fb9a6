"""SpeechTokenizer (Zhang et al., 2023, arXiv 2308.16692), from the authors' own checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from slm.errors import UsageError
from slm.files import atomic_directory, write_json
from slm.tokenizers._bounded import loaded
from slm.tokenizers._checkpoints import find_files, read_config, read_tensors
from slm.tokenizers._seanet import TwoWaySEANetCodec, fill_with_noise, pick
from slm.tokenizers._untrained import own_folder
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch

# What `config.json` says of the network, with the values of the release trained on LibriSpeech.
PUBLISHED: Mapping[str, Any] = {
    "n_filters": 64,
    "strides": [8, 5, 4, 2],
    "dimension": 1024,
    "bidirectional": True,
    "dilation_base": 2,
    "residual_kernel_size": 3,
    "n_residual_layers": 1,
    "lstm_layers": 2,
    "activation": "ELU",
    "codebook_size": 1024,
    "n_q": 8,
    "sample_rate": 16_000,
}
# Only training needs these: the projection to HuBERT's features, and how often each code was used.
_TRAINING_ONLY = ("transform.", ".inited", ".cluster_size", ".embed_avg")


@TOKENIZERS.register("speechtokenizer")
class SpeechTokenizer(TwoWaySEANetCodec):
    """SpeechTokenizer: speech at 50 frames per second; the first codebook is semantic (distilled from HuBERT).

    `checkpoint` is a folder or a hub id, with the sub-folder behind it, that holds `config.json` and the file
    `weights`. Releases: fnlp/SpeechTokenizer/speechtokenizer_hubert_avg (LibriSpeech), and the one with Snake
    activations, fnlp/AnyGPT-speech-modules/speechtokenizer with weights ckpt.dev (also Common Voice). `num_codebooks`
    keeps the first n (default: all 8). T = ceil(N / 320).

    The encoder's LSTM runs both ways, so that each code depends on the whole clip; long clips are exact all the same
    (see SEANetCodec), and take three times as long beyond 10 minutes. Raises UsageError when files cannot be had or
    do not fit, and when codebooks are asked for that do not exist.

    Follows github.com/ZhangXInFD/SpeechTokenizer.
    """

    mismatch: ClassVar[Mapping[str, str]] = {"batched": "under 0.1 %", "tf32": "1.7 %", "bf16": "14 %"}
    about: ClassVar[Mapping[str, str]] = {
        "speechtokenizer": "1024 x 8 at 50 Hz from 16 kHz (the first is semantic); decodes; "
        "needs fnlp/SpeechTokenizer (hub or local folder)"
    }

    def __init__(
        self,
        *,
        checkpoint: str = "fnlp/SpeechTokenizer/speechtokenizer_hubert_avg",
        weights: str = "SpeechTokenizer.pt",
        num_codebooks: int | None = None,
        device: str = "cpu",
    ):
        files = find_files(checkpoint, ["config.json", weights])
        config = _read_config(files["config.json"])
        state = _inference_weights(read_tensors(files[weights]), files[weights])
        self.model = build(config, {name: value.float() for name, value in state.items()}, checkpoint).to(device)
        self.spec = self._make_spec(
            name="speechtokenizer",
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(config["codebook_size"],) * config["n_q"],
            sample_rate_hz=config["sample_rate"],
            hop_samples=prod(config["strides"]),
            frame_offset_samples=prod(config["strides"]) - 1,
            identity=config,
            settings={"weights": weights},
            semantic_codebooks=(0,),
            taxonomy=taxonomy_of("speechtokenizer"),
            published=state.values(),
        )

    @classmethod
    def write_untrained(cls, folder: str | Path, seed: int = 0, **changes: Any) -> None:
        """A checkpoint as the authors publish it, with random weights; `changes` are fields of `config.json`."""
        import torch

        folder = own_folder(folder)
        config = {**PUBLISHED, **changes}
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            model = _network(config)
            fill_with_noise(model, config["sample_rate"])
        from slm.tokenizers.networks.seanet import published_names

        with atomic_directory(folder) as temporary:
            write_json(temporary / "config.json", config)
            torch.save(published_names(model), temporary / "SpeechTokenizer.pt")


def _read_config(path: Path) -> dict[str, Any]:
    config = pick(read_config(path), PUBLISHED, str(path))
    if config["activation"] not in ("ELU", "Snake"):
        raise UsageError(f"{path}: activation must be ELU or Snake, as in the authors' releases")
    for name in ("lstm_layers", "dilation_base"):
        if config[name] < 1:
            raise UsageError(f"{path}: {name} must be 1 or more, as in the authors' releases")
    return config


def _inference_weights(state: Any, path: Path) -> dict[str, torch.Tensor]:
    if not isinstance(state, Mapping) or not any(name.startswith("encoder.") for name in state):
        raise UsageError(f"{path} holds no SpeechTokenizer: its weights must be as the authors publish them")
    return {
        name: value
        for name, value in state.items()
        if not name.startswith(_TRAINING_ONLY) and not name.endswith(_TRAINING_ONLY)
    }


def _network(config: Mapping[str, Any]) -> torch.nn.Module:
    from slm.tokenizers.networks.seanet import SEANetConfig
    from slm.tokenizers.networks.speechtokenizer import SpeechTokenizerNetwork

    form = SEANetConfig(
        strides=tuple(config["strides"]),
        width=config["n_filters"],
        latent_width=config["dimension"],
        lstm_layers=config["lstm_layers"],
        residual_layers=config["n_residual_layers"],
        residual_kernel=config["residual_kernel_size"],
        dilation_base=config["dilation_base"],
        snake=config["activation"] == "Snake",
    )
    network = SpeechTokenizerNetwork(form, config["n_q"], config["codebook_size"], config["bidirectional"])
    return network.eval().requires_grad_(False)


def build(config: Mapping[str, Any], state: Mapping[str, torch.Tensor], what: str) -> torch.nn.Module:
    """The network with these weights (published names), in their precision."""
    from slm.tokenizers.networks.seanet import own_names

    own = own_names(state)
    return loaded(lambda: _network(config).to(next(iter(own.values())).dtype), own, what)
