"""What the codecs of transformers share: finding the checkpoint, refusing what does not fit, their spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from slm.errors import UsageError
from slm.tokenizers._codec import NeuralCodec
from slm.tokenizers.base import TOKENIZERS
from slm.types import TokenizerSpec


class PretrainedCodec(NeuralCodec):
    """A codec of transformers."""

    family: ClassVar[str]
    """The `model_type` of the checkpoint, which is also the registered name."""
    model_class: ClassVar[str]
    code_settings: ClassVar[tuple[str, ...]]
    """Fields of the model's configuration that change the codes and leave no trace in the shapes of the weights."""

    def _load(self, checkpoint: str, device: str) -> Any:
        """The model on `device`, after `_check_config`. Sets nothing else."""
        config = load_config(self.family, checkpoint)
        self._check_config(config, checkpoint)
        self.model = load_model(self.model_class, checkpoint).to(device)
        return config

    def _check_config(self, config: Any, checkpoint: str) -> None:
        """Refuse, before weights are read, what the family's code does not support."""

    def _padded_spec(
        self, checkpoint: str, num_codebooks: int | None, available: int, hop_samples: int, **facts: Any
    ) -> TokenizerSpec:
        """The spec of a codec whose T = ceil(N / hop): the last frame is filled up, the audio back is cut to N."""
        config: Any = self.model.config
        return self._make_spec(
            name=self.family,
            checkpoint=checkpoint,
            num_codebooks=num_codebooks,
            codebook_sizes=(config.codebook_size,) * available,
            sample_rate_hz=config.sampling_rate,
            hop_samples=hop_samples,
            frame_offset_samples=hop_samples - 1,
            identity={key: getattr(config, key) for key in self.code_settings},
            **facts,
        )


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
