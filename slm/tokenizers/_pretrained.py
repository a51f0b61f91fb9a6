"""What the codecs of transformers share: finding the checkpoint, refusing what does not fit, their spec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from slm.errors import UsageError, is_out_of_memory
from slm.load_report import refused_in_a_line
from slm.tokenizers._bounded import bounded
from slm.tokenizers._checkpoints import check_all_used, check_shapes
from slm.tokenizers._codec import NeuralCodec
from slm.tokenizers.base import TOKENIZERS
from slm.types import TokenizerSpec


class PretrainedCodec(NeuralCodec):
    """A codec of transformers."""

    family: ClassVar[str]
    """The `model_type` of the checkpoint, which is the registered name where the family says no other."""
    model_class: ClassVar[str]
    code_settings: ClassVar[tuple[str, ...]]
    """Fields of the model's configuration that change the codes and leave no trace in the shapes of the weights."""
    published: ClassVar[Mapping[str, Any]] = {}
    """The configuration of the default checkpoint, where it differs from the defaults of transformers."""

    @classmethod
    def _network(cls) -> Any:
        """The class of the model."""
        import transformers

        return getattr(transformers, cls.model_class)

    @classmethod
    def write_untrained(cls, folder: str | Path, seed: int = 0, **changes: Any) -> None:
        """Write a checkpoint of the published architecture with seeded random weights to `folder`, as the hub has it.

        `changes` are fields of the configuration (of nested ones, dictionaries), such as narrower widths for tests.
        Weights do not hear: the codes are many and reproducible, and mean nothing.
        """
        from slm.tokenizers._untrained import write_untrained

        write_untrained(cls._network(), {**cls.published, **changes}, Path(folder), seed, cls._prepare_untrained)

    @classmethod
    def _prepare_untrained(cls, model: Any, seed: int) -> None:
        """Give a freshly drawn model a quantizer with many codes."""
        from slm.tokenizers._untrained import fill_codebooks

        fill_codebooks(model, seed)

    def _load(self, checkpoint: str, device: str) -> Any:
        """The model on `device`, after `_check_config`. Sets nothing else."""
        config = load_config(self.family, checkpoint)
        self._check_config(config, checkpoint)
        from slm.tokenizers.networks.snake import with_own_snakes

        self.model = with_own_snakes(load_model(self._network(), checkpoint)).to(device)
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
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its validation and its layers raise
        raise UsageError(_cannot_load(family, checkpoint, error)) from error
    if config.model_type != family:
        name = config.model_type.replace("_", "-").removesuffix("-tokenizer")  # as Higgs Audio's is called
        found = f"use the tokenizer {name!r}" if name in TOKENIZERS.names() else "not supported"
        raise UsageError(f"{checkpoint} holds a {config.model_type!r} model, not {family!r}: {found}")
    check_rotation(config, checkpoint)
    return config


def check_rotation(config: Any, checkpoint: str) -> None:
    """UsageError for positions that turn queries and keys by no number, which transformers does."""
    base = (getattr(config, "rope_parameters", None) or {}).get("rope_theta", 1.0)
    if not (isinstance(base, (int, float)) and base > 0):
        raise UsageError(f"{checkpoint} has rope_theta {base!r} in its configuration, not a number above 0")


@refused_in_a_line(UsageError)
def load_model(network: Any, checkpoint: str) -> Any:
    """A `network` of transformers in fp32 for inference, from safetensors.

    UsageError when weights cannot be had, are incomplete, too many or do not fit the configuration.
    """
    import torch

    try:
        with bounded(checkpoint):
            model, loading = network.from_pretrained(
                checkpoint,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # transformers' own complaint of them names none
            )
    except UsageError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UsageError(_cannot_load(network.config_class.model_type, checkpoint, error)) from error
    if missing := sorted(loading["missing_keys"]):
        raise UsageError(f"{checkpoint} lacks {len(missing)} weights of {network.__name__}, such as {missing[0]}")
    check_shapes(checkpoint, loading)
    check_all_used(model, checkpoint, loading)
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
