"""How reconstructions are judged: the options `--reconstruction.X` of eval/run.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slm.errors import UsageError


@dataclass(frozen=True)
class Reconstruction:
    """How reconstructions are judged."""

    codebooks: str = ""
    """Numbers of codebooks, with commas between; empty: 1, 2, 4, 8, ... and all, of a tokenizer that can do with
    fewer."""
    domain: Literal["speech", "music", "audio"] = "speech"
    """What files are that lie in no folder named speech, music or audio."""
    sample_rate_hz: int = 0
    """Rate at which signals are compared; 0: speech at 16000, music at 24000, other audio at the tokenizer's own, as
    in arXiv 2506.10274."""
    alignment: Literal["constant", "each", "none"] = "constant"
    """How output and input are aligned: by one delay for the tokenizer (the median of its first clips), by the delay
    of each clip, or as they come."""
    max_delay_s: float = 0.1
    """The longest delay that is looked for, either way."""
    cut_s: float = 0.0
    """Cut files into pieces of so many seconds (the rest at the end is left out where it is shorter than one); 0:
    whole files. Pieces of a file are one observation."""
    max_files: int = 0
    """The first so many files of each domain that can be read (and are as long as cut_s), in the order of their names;
    those that cannot are named beside. 0 for all."""
    metrics: str = ""
    """Names with commas between; empty: all (docs/reconstruction.md)."""
    mos: str = "dnsmos,distillmos,utmos"
    """Predictors of opinion to ask about speech, with commas between; empty: none. utmos=DIR says where one is."""
    asr: str = "openai/whisper-tiny.en"
    """Speech recognizer for word error rates: a hub id or folder of a Whisper or CTC model; empty: none."""
    speaker: str = "resemblyzer"
    """Speaker embedding: resemblyzer, or a hub id or folder of an x-vector model; empty: none."""
    samples: int = 3
    """Recordings of each domain to keep, with what came back of them."""
    workers: int = 0
    """Processes that compute metrics beside the tokenizer; 0: one for each CPU, 1: none beside."""

    def __post_init__(self) -> None:
        if self.max_delay_s < 0 or self.cut_s < 0 or self.max_files < 0 or self.samples < 0 or self.workers < 0:
            raise UsageError("reconstruction: max_delay_s, cut_s, max_files, samples and workers must be 0 or more")
        if self.sample_rate_hz and not 8_000 <= self.sample_rate_hz <= 192_000:
            raise UsageError("--reconstruction.sample_rate_hz must be 0, or 8000 to 192000")
        _ = self.counts

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of codebooks asked for, ascending; none where the tokenizer is to say."""
        words = [word.strip() for word in self.codebooks.split(",") if word.strip()]
        if not all(word.isdigit() and int(word) for word in words):
            raise UsageError(f"--reconstruction.codebooks {self.codebooks}: give numbers from 1, such as 1,2,4,8")
        return tuple(sorted({int(word) for word in words}))

    def rate_hz(self, domain: str, own_hz: int) -> int:
        """At which signals of a domain are compared that come back at `own_hz`."""
        return self.sample_rate_hz or {"speech": 16_000, "music": 24_000}.get(domain, own_hz)
