"""The options of tokenize_corpus.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from slm.corpus.segmentation import Segmentation
from slm.errors import UsageError


@dataclass(frozen=True)
class CorpusConfig:
    """Tokenize audio into a Hugging Face dataset of codes.

    Run the same command again to go on after a stop; a finished folder is left as it is.
    """

    audio: str
    """Folder of audio files (any depth), or a manifest (.jsonl, .csv, .tsv, .parquet): one row a clip, with a column
    path (or audio, audio_path, audio_filepath, file, filename, wav), relative to the manifest; optionally id, start_s
    and end_s (or start, end). All other columns are kept in the dataset, but for those named as its own: codes,
    num_samples, duration_s."""
    tokenizer: str
    """Name of a tokenizer (`python -m slm.tokenizers` lists them), or a YAML file such as those in
    configs/tokenizers."""
    out: str
    """Folder for the dataset: new, empty, or one that this command has begun."""
    source: str = "auto"
    """Kind of source that --audio is, where that cannot be told from its look: folder, manifest."""
    source_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the source: --source_settings.path_column wav_file"""
    tokenizer_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the tokenizer, over those of its file: --tokenizer_settings.layer 9"""
    device: str = "auto"
    """Where the tokenizer runs: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""
    engine: Literal["local"] = "local"
    """What does the work: this machine."""
    segmentation: Segmentation = field(default_factory=Segmentation)
    """How long recordings are cut, and which segments are kept."""
    shard_hours: float = 10.0
    """Hours of audio in a shard: a stop loses at most so much work."""
    batch_seconds: float = 120.0
    """Seconds of audio in a batch, padding included: lower it where the device lacks memory."""
    num_workers: int | None = None
    """Processes that read and resample audio ahead of the tokenizer (default: one a core, at most 8); 0: threads."""

    def __post_init__(self) -> None:
        for name in ("shard_hours", "batch_seconds"):
            if not getattr(self, name) > 0:
                raise UsageError(f"--{name} must be above 0, not {getattr(self, name)}")
        if self.num_workers is not None and self.num_workers < 0:
            raise UsageError(f"--num_workers must be 0 or more, not {self.num_workers}")
        for name, option in {"device": "device", "name": "tokenizer", "source": "tokenizer"}.items():
            if name in self.tokenizer_settings:
                raise UsageError(f"--tokenizer_settings.{name} is no setting of a tokenizer: give --{option}")
