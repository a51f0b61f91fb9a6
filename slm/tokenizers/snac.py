"""SNAC, the multi-scale codec (Siuzdak et al., 2024, arXiv 2410.14411), through its authors' package `snac`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from math import ceil, lcm, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from slm.errors import UsageError
from slm.files import atomic_directory, write_json
from slm.tokenizers._bounded import loaded
from slm.tokenizers._checkpoints import find_files, fold_in_place, read_config, read_tensors
from slm.tokenizers._codec import NeuralCodec, conv_context
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import taxonomy_of

if TYPE_CHECKING:
    import torch

# `config.json` of hubertsiuzdak/snac_24khz.
SNAC_24KHZ: Mapping[str, Any] = {
    "sampling_rate": 24_000,
    "encoder_dim": 48,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 1024,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": 4096,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}
_MOST_COLUMNS = 1000
"""Codes in a frame; published models have 7 and 15. No weight tells of strides, which say how many there are."""


@TOKENIZERS.register("snac")
class SnacTokenizer(NeuralCodec):
    """SNAC: residual codebooks of different frame rates, each twice as fast as the one before.

    A frame here is one code of the slowest level with the codes of the other levels in its time, level by level and in
    order: at 24 kHz 1 + 2 + 4 = 7 columns at 11.7 Hz, at 32 and 44.1 kHz 1 + 2 + 4 + 8 = 15 columns at 10.4 and
    14.4 Hz. Column c of level i with n codes in a frame is code n t + c of that level, so that nothing is lost or
    copied. `num_codebooks` keeps whole levels: 1, 3, 7 (or 15).

    `checkpoint` is a hub id (hubertsiuzdak/snac_24khz, snac_32khz, snac_44khz) or a folder with `config.json` and
    `pytorch_model.bin`. As SNAC pads a clip, T = ceil(N / hop) at 24 kHz; the others attend within windows of 4
    frames, and T = 4 ceil(N / (4 hop)).

    The decoder adds noise: each call draws it as after `torch.manual_seed(0)`, so that decoding can be repeated. Each
    piece of a long clip draws anew; but for that pieces equal one pass. Raises UsageError where the package or the
    weights are not there, and for a number of codebooks that is not of whole levels.
    """

    batching = "frames"
    mismatch: ClassVar[Mapping[str, str]] = {"batched": "under 0.01 %", "tf32": "8.3 %", "bf16": "69 %"}
    about: ClassVar[Mapping[str, str]] = {
        "snac": "4096 x 7 (1 + 2 + 4 of three rates) at 11.7 Hz from 24 kHz (32, 44.1 kHz by checkpoint); decodes; "
        "needs `pip install snac` and hubertsiuzdak/snac_24khz (hub or local folder)"
    }

    def __init__(
        self, *, checkpoint: str = "hubertsiuzdak/snac_24khz", num_codebooks: int | None = None, device: str = "cpu"
    ):
        from slm.tokenizers.networks.snake import with_own_snakes

        network = require_snac()
        files = find_files(checkpoint, ["config.json", "pytorch_model.bin"])
        config = _read_config(files["config.json"], network)
        state = read_tensors(files["pytorch_model.bin"])
        if not isinstance(state, Mapping):
            raise UsageError(f"{files['pytorch_model.bin']} holds no weights of SNAC")
        self.model = loaded(lambda: with_own_snakes(network(**config)), state, checkpoint)
        self.model.eval().requires_grad_(False).to(device)

        strides: list[int] = self.model.vq_strides
        self._per_frame = [strides[0] // stride for stride in strides]
        available = list(accumulate(self._per_frame))
        if num_codebooks is not None and num_codebooks not in available:
            raise UsageError(
                f"{checkpoint} has levels of {', '.join(map(str, self._per_frame))} codes in a frame: num_codebooks "
                f"must keep whole levels, {', '.join(map(str, available))}, not {num_codebooks}"
            )
        fine_hop = prod(self.model.encoder_rates)
        self._levels = available.index(num_codebooks or available[-1]) + 1
        self._codebook_counts = available[: self._levels]
        window = self.model.attn_window_size or 1
        frame_multiple = lcm(strides[0], window) // strides[0]
        hop = fine_hop * strides[0]
        # A window of attention, which is whole frames, reaches as far as the frames that it is of.
        reach = frame_multiple if window > 1 else 0
        self.context_frames = conv_context(self.model.encoder, hop) + reach
        fine_frames = conv_context(self.model.decoder, fine_hop, from_frames=True)
        self.decoder_is_random = config.get("noise", True)
        self.decoder_context_frames = ceil(fine_frames / strides[0]) + reach
        self.spec = self._make_spec(
            name="snac",
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(self.model.codebook_size,) * available[-1],
            sample_rate_hz=self.model.sampling_rate,
            hop_samples=hop,
            frame_offset_samples=hop * frame_multiple - 1,
            frame_multiple=frame_multiple,
            identity=config,
            taxonomy=taxonomy_of("snac", checkpoint),
        )
        fold_in_place(self.model)

    @property
    def codebook_counts(self) -> Sequence[int]:
        return self._codebook_counts

    def _to_bfloat16(self) -> None:
        super()._to_bfloat16()
        for module in self.model.encoder.modules():
            if type(module).__name__ == "SinusoidalEmbeddings":
                module.register_forward_hook(_as_the_keys)

    def _codes_of(self, signals: torch.Tensor) -> torch.Tensor:
        import torch

        levels = self.model.encode(signals)[: self._levels]
        frames = [level.unflatten(1, (-1, count)).mT for level, count in zip(levels, self._per_frame, strict=False)]
        return torch.cat(frames, dim=1)

    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes of any number of frames: the last one is repeated where a window of attention is not full."""
        import torch

        frames = codes.shape[-1]
        missing = -frames % self.spec.frame_multiple
        codes = torch.cat((codes, codes[..., -1:].expand(-1, -1, missing)), dim=-1)
        levels = codes.split(self._per_frame[: self._levels], dim=1)
        latents = sum(
            quantizer.out_proj(quantizer.decode_code(level.mT.flatten(1))).repeat_interleave(quantizer.stride, dim=-1)
            for quantizer, level in zip(self.model.quantizer.quantizers, levels, strict=False)
        )
        with torch.random.fork_rng(devices=[codes.device] if codes.is_cuda else []):
            _seed(codes.device)
            return self.model.decoder(latents)[:, 0, : frames * self.spec.hop_samples]

    def _pieces(self, frames: int, context: int) -> Iterator[tuple[int, int, int, int]]:
        """Pieces of whole windows of attention."""
        group = self.spec.frame_multiple
        step = max(1, int(self.piece_s * self.spec.frame_rate_hz / group)) * group
        context = ceil(context / group) * group
        for first in range(0, frames, step):
            last = min(first + step, frames)
            yield first, last, max(0, first - context), min(frames, last + context)

    @classmethod
    def write_untrained(cls, folder: str | Path, seed: int = 0, **changes: Any) -> None:
        """`config.json` (of 24 kHz) and `pytorch_model.bin` with random weights; `changes` are fields of the former."""
        import torch

        from slm.tokenizers._untrained import noise, own_folder

        folder = own_folder(folder)
        config = {**SNAC_24KHZ, **changes}
        network = require_snac()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            model = network(**config).eval()
            for parameter in model.parameters():
                if parameter.ndim == 3 and parameter.shape[1:].numel() > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
            _fill_codebooks(model, model.encoder(model.preprocess(noise(config["sampling_rate"]))))
        with atomic_directory(folder) as temporary:
            write_json(temporary / "config.json", config)
            torch.save(dict(model.state_dict()), temporary / "pytorch_model.bin")


def require_snac() -> Any:
    """The class `snac.SNAC`."""
    try:
        from snac import SNAC
    except ImportError as error:
        raise UsageError(f"tokenizer 'snac' needs its authors' package ({error}): pip install snac") from None
    return SNAC


def _read_config(path: Path, network: Any) -> dict[str, Any]:
    config = read_config(path)
    if "vq_strides" not in config:
        raise UsageError(f"{path} is no configuration of SNAC: it has no vq_strides")
    if unknown := sorted(config.keys() - inspect.signature(network).parameters):
        raise UsageError(f"{path} is no configuration of SNAC, which has no {', '.join(unknown)}")
    strides = config["vq_strides"]
    if any(strides[0] % stride for stride in strides):
        raise UsageError(f"{path}: levels of strides {strides} have no frame in common; the first must be a multiple")
    if (columns := sum(strides[0] // stride for stride in strides)) > _MOST_COLUMNS:
        raise UsageError(f"{path}: levels of strides {strides} have {columns} codes in a frame, more than any model")
    return config


def _seed(device: torch.device) -> None:
    """The generator that a device draws from, and of several GPUs no other: those are the caller's."""
    import torch

    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(0)
    elif device.type == "cpu":
        torch.default_generator.manual_seed(0)
    else:
        torch.manual_seed(0)


def _as_the_keys(_: Any, inputs: tuple[torch.Tensor], given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The package multiplies queries and keys by a one of float32, and attention then finds values of another type."""
    return tuple(values.to(inputs[0].dtype) for values in given)


def _fill_codebooks(model: Any, latents: torch.Tensor) -> None:
    """Give each codebook directions of latents that reach it, level by level, so that many codes come out."""
    import torch
    from torch.nn.functional import avg_pool1d

    for quantizer in model.quantizer.quantizers:
        projected = quantizer.in_proj(avg_pool1d(latents, quantizer.stride, quantizer.stride))[0]
        quantizer.in_proj.bias.sub_(projected.mean(dim=1))
        rows = (projected - projected.mean(dim=1, keepdim=True)).T
        table = quantizer.codebook.weight
        chosen = rows[torch.randperm(len(rows))[torch.arange(len(table)) % len(rows)]]
        table.copy_(chosen + 0.3 * rows.std(dim=0) * torch.randn(table.shape))
        latents = latents - quantizer(latents)[0]
