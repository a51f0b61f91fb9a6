"""SQ-Codec, the scalar codec of SimpleSpeech (Yang et al., 2024, arXiv 2406.02328), from the authors' checkpoint."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from slm.errors import UsageError
from slm.files import atomic_directory
from slm.tokenizers._bounded import loaded
from slm.tokenizers._checkpoints import find_files, fold_weight_norm, read_tensors, with_weight_norm
from slm.tokenizers._codec import NeuralCodec, conv_context
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch

ARCHIVE, CONFIG, WEIGHTS = "SQ-Codec.zip", "config.yaml", "ckpt_00190000.pth"
DIGITS = 9
CODEBOOK_SIZE = 3**DIGITS
# A network of the published size (23.5 M parameters), rate and 36 scalars, for weights that are not trained.
UNTRAINED: Mapping[str, Any] = {
    "num_bands": 1,
    "sample_rate": 16_000,
    "causal": True,
    "num_samples": 1,
    "downsample_factors": [4, 4, 4, 5],
    "downsample_kernel_sizes": [8, 8, 8, 10],
    "upsample_factors": [5, 4, 4, 4],
    "upsample_kernel_sizes": [10, 8, 8, 8],
    "latent_hidden_dim": 36,
    "default_kernel_size": 7,
    "delay_kernel_size": 5,
    "init_channel": 48,
    "res_kernel_size": 7,
}


@TOKENIZERS.register("sq-codec")
class SQCodecTokenizer(NeuralCodec):
    """SQ-Codec: speech at 50 frames per second, 36 scalars of three levels in each, no learned codebooks.

    The tokens are those of SpeechBrain and DASB: each group of 9 scalars (-1, 0, 1) is a number of 9 ternary digits,
    the first scalar being the least of them, so that a frame is 4 codes of 19,683. `checkpoint` is the hub id, its
    `SQ-Codec.zip`, or a folder with that or with what it holds (`config.yaml` and one `.pth`). `num_codebooks` keeps
    the first n groups; decoding then takes the others for 0. T follows from the strides and paddings of
    `config.yaml`: ceil(N / hop) for causal networks. Raises UsageError when files cannot be had, do not fit, or are
    of SimpleSpeech's other codecs, whose scalars have more levels and no tokens.

    Follows github.com/yangdongchao/SimpleSpeech and `sq_codec.py` of SpeechBrain 1.0.
    """

    batching: Literal["none", "frames", "samples"] = "samples"
    mismatch: ClassVar[Mapping[str, str]] = {"batched": "under 0.01 %", "tf32": "0.8 %"}
    about: ClassVar[Mapping[str, str]] = {
        "sq-codec": "19683 x 4 (scalars in threes) at 50 Hz from 16 kHz; decodes; needs SQ-Codec.zip of "
        "Dongchao/UniAudio (hub or local folder)"
    }

    def __init__(self, *, checkpoint: str = "Dongchao/UniAudio", num_codebooks: int | None = None, device: str = "cpu"):
        with _opened(checkpoint) as (config_file, weights_file):
            config, state = read_config(config_file), _weights(read_tensors(weights_file), weights_file)
        self.model = build(config, {name: value.float() for name, value in state.items()}, checkpoint).to(device)
        hop, offset = self.model.frame_rule()
        # Other forms leave out windows at the end of a clip that are not full, which rows of a batch would fill.
        if not config["causal"] or config["num_samples"] != 1:
            self.batching = "none"
        # Averaging over `num_samples`, where there is any, reaches no further than one frame.
        self.context_frames = conv_context(self.model.encoder, hop) + 1
        self.decoder_context_frames = conv_context(self.model.decoder, hop, from_frames=True) + 1
        self.spec = self._make_spec(
            name="sq-codec",
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(CODEBOOK_SIZE,) * (config["latent_hidden_dim"] // DIGITS),
            sample_rate_hz=config["sample_rate"],
            hop_samples=hop,
            frame_offset_samples=offset,
            identity=config,
            taxonomy=taxonomy_of("sq-codec"),
            published=state.values(),
        )

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        digits = self.model.encode(signals).round().long() + 1
        digits = digits[:, : DIGITS * self.spec.num_codebooks].unflatten(1, (-1, DIGITS))
        return (digits * self._powers(digits)).sum(dim=2)

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        import torch

        digits = codes[:, :, None] // self._powers(codes) % 3
        scalars = (digits - 1).flatten(1, 2).to(self._parameter().dtype)
        missing = self.model.decoder[0].in_channels - scalars.shape[1]
        return self.model.decode(torch.nn.functional.pad(scalars, (0, 0, 0, missing)))[:, 0]

    @staticmethod
    def _powers(like: torch.Tensor) -> torch.Tensor:
        """The worth of each digit `[9, 1]`."""
        import torch

        return 3 ** torch.arange(DIGITS, device=like.device)[:, None]

    @classmethod
    def write_untrained(cls, folder: str | Path, seed: int = 0, **changes: Any) -> None:
        """`config.yaml` and `.pth` as in the authors' archive, with random weights; `changes` are fields of the
        configuration. The archive was not at hand: the sizes are ones that give the published number of parameters."""
        import torch
        import yaml

        from slm.tokenizers._untrained import noise, own_folder, redraw
        from slm.tokenizers.networks.sq_codec import Resample

        folder = own_folder(folder)
        config = {**UNTRAINED, **changes}
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            model = _network(config)
            redraw(model)
            spread = model.encoder[-1]
            scalars = torch.atanh(model.encode(noise(config["sample_rate"]))[0].clamp(-0.999, 0.999))
            scale = 1 / scalars.std(dim=1)
            spread.weight.mul_(scale[:, None, None])
            spread.bias.sub_(scalars.mean(dim=1)).mul_(scale)
        plain = {layer.conv for layer in model.modules() if isinstance(layer, Resample)}
        with atomic_directory(folder) as temporary:
            text = yaml.safe_dump({"generator": {"name": "ScalarModel", "config": config}}, sort_keys=False)
            (temporary / CONFIG).write_text(text, encoding="utf-8")
            torch.save({"codec_model": with_weight_norm(model, plain)}, temporary / WEIGHTS)


@contextmanager
def _opened(checkpoint: str) -> Iterator[tuple[Path, Path]]:
    """The configuration and the weights of a checkpoint, unpacked if need be."""
    source = Path(checkpoint).expanduser()
    if source.is_dir() and not (source / ARCHIVE).is_file():
        yield _pair(source)
        return
    archive = source if source.is_file() else find_files(checkpoint, [ARCHIVE])[ARCHIVE]
    with TemporaryDirectory() as temporary:
        try:
            with zipfile.ZipFile(archive) as packed:
                for member in packed.infolist():
                    name = Path(member.filename).name
                    if name == CONFIG or (name.endswith(".pth") and not name.startswith(".")):
                        (Path(temporary) / name).write_bytes(packed.read(member))
        except (OSError, zipfile.BadZipFile) as error:
            raise UsageError(f"{archive} cannot be unpacked: {error}; get {ARCHIVE} of Dongchao/UniAudio") from error
        yield _pair(Path(temporary), str(archive))


def _pair(folder: Path, what: str | None = None) -> tuple[Path, Path]:
    weights = sorted(folder.glob("*.pth"))
    if not (folder / CONFIG).is_file() or len(weights) != 1:
        raise UsageError(
            f"{what or folder} is no SQ-Codec: it must hold {CONFIG} and one file of weights (.pth), as {ARCHIVE} of "
            f"Dongchao/UniAudio does, or be a folder with that archive"
        )
    return folder / CONFIG, weights[0]


def read_config(path: Path) -> dict[str, Any]:
    """The authors' `generator.config`; UsageError where it is none or of another codec."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = {key: values["generator"]["config"][key] for key in UNTRAINED}
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise UsageError(f"{path} is no configuration of SQ-Codec: {' '.join(str(error).split())}") from error
    except KeyError as error:
        raise UsageError(f"{path} lacks {error} of `generator.config`: it is no configuration of SQ-Codec") from error
    scalars = config["latent_hidden_dim"]
    if not isinstance(scalars, int) or scalars < DIGITS or scalars % DIGITS:
        raise UsageError(
            f"{path} has {scalars} scalars in a frame, not groups of {DIGITS}: it is a codec of SimpleSpeech that has "
            f"no tokens; take {ARCHIVE} of Dongchao/UniAudio"
        )
    return config


def _weights(values: Any, path: Path) -> dict[str, torch.Tensor]:
    state = values.get("codec_model") if isinstance(values, Mapping) else None
    if not isinstance(state, Mapping):
        raise UsageError(f"{path} holds no `codec_model`: it is no SQ-Codec as its authors publish it")
    return dict(state)


def _network(config: Mapping[str, Any]) -> Any:
    from slm.tokenizers.networks.sq_codec import SQCodecConfig, SQCodecNetwork

    return SQCodecNetwork(SQCodecConfig(**config)).eval().requires_grad_(False)


def build(config: Mapping[str, Any], state: Mapping[str, torch.Tensor], what: str) -> Any:
    """The network with these weights (published names), in their precision."""
    dtype = next(iter(state.values())).dtype
    return loaded(lambda: _network(config).to(dtype), fold_weight_norm(state), what)
