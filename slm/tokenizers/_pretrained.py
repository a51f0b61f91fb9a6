"""What the neural codecs of transformers share: finding the checkpoint, its identity, one clip at a time.

Clips are never stacked. Rows of a batch go through other kernels than a clip alone, and rounding then decides near
ties otherwise; residual quantization carries one flip into all later codebooks. Stacking clips of equal length changed
1 % of Mimi's codes and 2 % of EnCodec's on a CPU in fp32 (random weights, codebooks filled with latents of speech).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from slm.errors import UsageError
from slm.tokenizers.base import TOKENIZERS, Tokenizer, fingerprint, weight_digests
from slm.types import TokenizerSpec

if TYPE_CHECKING:
    import torch


class PretrainedCodec(Tokenizer):
    """A codec of transformers, in fp32. T = ceil(N / hop): the last frame is filled up, the audio back is cut to N.

    A clip is coded in one piece: 60 s take about 1 GB beside the weights, and more grows in proportion (Mimi's
    attention mask with the square). Cut long recordings into segments before.
    """

    family: ClassVar[str]
    """The `model_type` of the checkpoint, which is also the registered name."""
    model_class: ClassVar[str]
    code_settings: ClassVar[tuple[str, ...]]
    """Fields of the model's configuration that change the codes and leave no trace in the shapes of the weights."""

    def _load(self, checkpoint: str, device: str) -> Any:
        """The model on `device`, after `_check_config`. Sets nothing else."""
        config = load_config(self.family, checkpoint)
        self._check_config(config, checkpoint)
        self.model = load_model(self.model_class, checkpoint)
        self._weights = weight_digests(self.model.state_dict().values())
        self.model.to(device)
        return config

    def _check_config(self, config: Any, checkpoint: str) -> None:
        """Refuse, before weights are read, what the family's code does not support."""

    def _make_spec(
        self,
        checkpoint: str,
        num_codebooks: int | None,
        available: int,
        hop_samples: int,
        semantic_codebooks: tuple[int, ...] = (),
        taxonomy: Mapping[str, str] | None = None,
    ) -> TokenizerSpec:
        """The spec of the first `num_codebooks` (None: all) of the `available` ones."""
        count = available if num_codebooks is None else num_codebooks
        if not isinstance(count, int) or not 1 <= count <= available:
            raise UsageError(
                f"{checkpoint} has {available} codebooks: num_codebooks must be 1 to {available}, not {count}"
            )
        config = self.model.config
        identity = {key: getattr(config, key) for key in self.code_settings}
        parameters = sum(p.numel() for p in self.model.parameters())
        folder = Path(checkpoint)
        return TokenizerSpec(
            name=self.family,
            fingerprint=fingerprint(
                {"family": self.family, "num_codebooks": count, "weights": self._weights, **identity}
            ),
            sample_rate_hz=config.sampling_rate,
            hop_samples=hop_samples,
            codebook_sizes=(config.codebook_size,) * count,
            frame_offset_samples=hop_samples - 1,
            semantic_codebooks=tuple(k for k in semantic_codebooks if k < count),
            # A folder is kept as an absolute path: the next stage may run elsewhere.
            settings={"checkpoint": str(folder.resolve()) if folder.is_dir() else checkpoint, "num_codebooks": count},
            taxonomy={**(taxonomy or {}), "parameters": f"{parameters / 1e6:.1f} M"},
        )

    @abstractmethod
    def _codes_of(self, signal: torch.Tensor) -> torch.Tensor:
        """One signal `[1, 1, N]` -> codes `[1, K, T]`."""

    @abstractmethod
    def _audio_of(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `[1, K, T]` -> audio, about T x hop samples in one row."""

    def _encode(self, signals: Sequence[np.ndarray]) -> list[np.ndarray]:
        import torch

        made = []
        with torch.inference_mode(), _exact_fp32():
            for signal in signals:
                values = torch.from_numpy(np.ascontiguousarray(signal))[None, None].to(self.model.device)
                made.append(self._codes_of(values)[0].T.cpu().numpy())
        return made

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode(), _exact_fp32():
            values = torch.from_numpy(codes.T.astype(np.int64))[None].to(self.model.device)
            return self._audio_of(values).flatten().cpu().numpy()


def _exact_fp32() -> Any:
    """On CUDA, convolutions default to TF32, whose 10-bit mantissa moves codes away from those of fp32."""
    from torch.backends import cudnn

    return cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


def pad_to_frames(signal: torch.Tensor, hop_samples: int) -> torch.Tensor:
    """Zeros behind `[1, 1, N]`, up to whole frames."""
    import torch

    return torch.nn.functional.pad(signal, (0, -signal.shape[-1] % hop_samples))


def load_config(family: str, checkpoint: str) -> Any:
    """The configuration at a hub id or folder. UsageError when it cannot be had, or is of another family."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(checkpoint)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(_cannot_load(family, checkpoint, error)) from error
    if config.model_type != family:
        found = (
            f"use the tokenizer {config.model_type!r}" if config.model_type in TOKENIZERS.names() else "not supported"
        )
        raise UsageError(f"{checkpoint} holds a {config.model_type!r} model, not {family!r}: {found}")
    return config


def load_model(model_class: str, checkpoint: str) -> Any:
    """The model in fp32 for inference, from safetensors. UsageError when weights cannot be had or are incomplete."""
    import torch
    import transformers
    from safetensors import SafetensorError

    cls = getattr(transformers, model_class)
    try:
        model, loading = cls.from_pretrained(
            checkpoint, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UsageError(_cannot_load(cls.config_class.model_type, checkpoint, error)) from error
    if missing := sorted(loading["missing_keys"]):
        raise UsageError(f"{checkpoint} lacks {len(missing)} weights of {model_class}, such as {missing[0]}")
    return model.eval().requires_grad_(False)


def _cannot_load(family: str, checkpoint: str, error: Exception) -> str:
    reason = str(error).strip().split("\n")[0].rstrip(".")
    if checkpoint.startswith((".", "/", "~")) and not Path(checkpoint).is_dir():
        return f"cannot load the {family} checkpoint: no such folder: {checkpoint}"
    if Path(checkpoint).is_dir():
        remedy = "the folder must hold config.json and model.safetensors, as `save_pretrained` writes them"
    else:
        remedy = (
            f"run `hf download {checkpoint}` where there is network, or give `checkpoint` a folder with its "
            "config.json and model.safetensors"
        )
    return f"cannot load the {family} checkpoint {checkpoint!r}: {remedy} ({reason})"
