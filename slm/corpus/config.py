"""The options of tokenize_corpus.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from slm.errors import UsageError


@dataclass(frozen=True)
class CorpusConfig:
    """Tokenize audio into a Hugging Face dataset of codes.

    Run the same command again to go on after a stop; a finished folder is left as it is.
    """

    audio: str
    """Folder of audio files (any depth), or a manifest (.jsonl, .csv, .tsv): one row a clip, with a column path (or
    audio, audio_path, file, filename, wav), relative to the manifest; optionally id, start_s and end_s (or start, end).
    All other columns are kept in the dataset, but for those named as its own: codes, num_samples, duration_s."""
    tokenizer: str
    """Name of a tokenizer (`python -m slm.tokenizers` lists them), or a YAML file such as those in
    configs/tokenizers."""
    out: str
    """Folder for the dataset: new, empty, or one that this command has begun."""
    tokenizer_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the tokenizer, over those of its file: --tokenizer_settings.layer 9"""
    device: str = "auto"
    """Where the tokenizer runs: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""
    engine: Literal["local"] = "local"
    """What does the work: this machine."""
    shard_hours: float = 10.0
    """Hours of audio in a shard: a stop loses at most so much work."""
    batch_seconds: float = 120.0
    """Seconds of audio in a batch, padding included: lower it where the device lacks memory."""
    num_workers: int | None = None
    """Threads that read and resample audio ahead of the tokenizer (default: one a core, at most 8)."""

    def __post_init__(self) -> None:
        for name in ("shard_hours", "batch_seconds", "num_workers"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--{name} must be above 0, not {value}")
        for name, option in {"device": "device", "name": "tokenizer", "source": "tokenizer"}.items():
            if name in self.tokenizer_settings:
                raise UsageError(f"--tokenizer_settings.{name} is no setting of a tokenizer: give --{option}")
