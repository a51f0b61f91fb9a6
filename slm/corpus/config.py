"""The options of tokenize_corpus.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

from slm.corpus.part import Part
from slm.corpus.segmentation import Segmentation
from slm.devices import available_cores
from slm.errors import UsageError
from slm.tokenizers.base import check_no_option


@dataclass(frozen=True)
class CorpusConfig:
    """Tokenize audio into a Hugging Face dataset of codes.

    Run the same command again to go on after a stop; a finished folder is left as it is.
    """

    audio: str
    """Folder of audio files (any depth), manifest (.jsonl, .json, .csv, .tsv, .parquet), Kaldi data directory, tree of
    LibriSpeech or Libri-Light, Lhotse cuts (LibriHeavy's too), WebDataset tars, dataset saved by save_to_disk, or
    NAME/NAME of the Hugging Face hub; here or by URL (s3://, https://, ...). docs/corpora.md tells how each is read. A
    manifest has a row a clip and a column path (or audio, audio_path, audio_filepath, file, filename, wav), relative to
    it; optionally id, start_s and end_s (or start, end). Other columns are kept in the dataset, but for those named as
    its own: codes, num_samples, duration_s, segment_of, start_s, end_s."""
    tokenizer: str
    """Name of a tokenizer (`python -m slm.tokenizers` lists them), or a YAML file such as those in
    configs/tokenizers."""
    out: str
    """Folder for the dataset: new, empty, or one that this command has begun."""
    source: str = "auto"
    """Kind of source that --audio is, where that cannot be told from its look: dataset, folder, hub, kaldi, lhotse,
    libriheavy, librilight, librispeech, manifest, webdataset."""
    source_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the source. manifest: path_column, id_column, start_column, end_column, root (of relative
    paths); kaldi, lhotse, libriheavy: root; dataset: split, audio_column, id_column; hub: these, config, revision."""
    tokenizer_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the tokenizer, over those of its file: --tokenizer_settings.layer 9"""
    device: str = "auto"
    """Where the tokenizer runs: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""
    engine: Literal["local", "ray"] = "local"
    """What does the work: processes of this machine, or of a Ray cluster."""
    processes: int | None = None
    """Processes that hold a tokenizer each (default: one a GPU; without GPUs, one a 4 cores)."""
    ray_address: str | None = None
    """Address of a Ray cluster, such as auto or ray://host:10001 (default: RAY_ADDRESS, else one is started here).
    Its machines need slm, the audio and --out at the same paths."""
    shard_range: str | None = None
    """Make only part i of n of the shards, from 0: 3/8. Each job of a Slurm array takes one part; the last to end
    finishes the corpus."""
    segmentation: Segmentation = field(default_factory=Segmentation)
    """How long recordings are cut, and which segments are kept."""
    shard_hours: float = 10.0
    """Hours of audio in a shard: a stop loses at most so much work."""
    batch_seconds: float = 110.0
    """Seconds of audio in a batch, padding included: lower it where the device lacks memory. On a GPU in mode batched
    the default fills one tensor, with the gaps between clips."""
    num_workers: int | None = None
    """Processes that read and resample audio ahead of each tokenizer (default: one a core, at most 8); 0: threads."""
    max_rejects: float | None = None
    """How many clips may be left out, or below 1, what share of all: more stop the run. Without it there is no limit,
    and a corpus without some clips ends with exit status 3."""

    def __post_init__(self) -> None:
        for name in ("shard_hours", "batch_seconds"):
            if not 0 < getattr(self, name) < inf:
                raise UsageError(f"--{name} must be above 0, not {getattr(self, name)}")
        for name, least in {"num_workers": 0, "max_rejects": 0, "processes": 1}.items():
            if getattr(self, name) is not None and not least <= getattr(self, name) < inf:
                raise UsageError(f"--{name} must be {least} or more, not {getattr(self, name)}")
        if self.ray_address is not None and self.engine != "ray":
            raise UsageError("--ray_address is for --engine ray: give that too")
        if self.engine == "ray" and self.device.startswith("cuda:"):
            raise UsageError(f"--device {self.device}: Ray gives each actor a GPU of its choice; give --device cuda")
        _ = self.part
        check_no_option(self.tokenizer_settings)

    @property
    def part(self) -> Part | None:
        return None if self.shard_range is None else Part.parse(self.shard_range)

    @property
    def log_name(self) -> str:
        """Each part has a log of its own: several machines would mix up the lines of one."""
        return "log.jsonl" if self.part is None else f"log-{self.part.file_name}.jsonl"

    def readers(self, processes: int = 1) -> int:
        """Processes that read for each of so many tokenizers on this machine."""
        return max(1, min(8, available_cores() // processes)) if self.num_workers is None else self.num_workers

    def allowed_rejects(self, num_clips: int) -> int | None:
        if self.max_rejects is None or self.max_rejects >= 1:
            return None if self.max_rejects is None else int(self.max_rejects)
        return int(self.max_rejects * num_clips + 1e-6)  # 0.29 x 100 is 28.999.. in binary
