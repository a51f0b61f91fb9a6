"""What is known about audio tokenizers, those that `slm` loads and others: one typed record for each.

The data stand in `loadable.yaml` and `survey.yaml`. The vocabulary is that of the survey "Discrete Audio Tokens: More
Than a Survey!" (arXiv 2506.10274), whose 52 tokenizers are all here; where its table slipped, a record's note says so.
None means unknown, an empty tuple none. What follows from other facts (bitrate) is computed, never typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from math import log2
from pathlib import Path
from typing import Any

from slm.errors import UsageError, did_you_mean

VOCABULARY: dict[str, tuple[str, ...]] = {
    "encoder": ("CNN", "RNN", "T", "signal processing", "none"),
    "decoder": ("CNN", "RNN", "T", "signal processing", "none"),
    "inputs": ("time", "time-frequency"),
    "quantizer": ("RVQ", "GVQ", "SVQ", "MSRVQ", "CSRVQ", "PQ", "FSQ", "SQ", "k-means"),
    "bitrate": ("fixed", "adaptive"),
    "objectives": (
        *("adversarial", "feature-matching", "reconstruction", "vq", "diffusion", "masked-prediction", "prediction"),
        "supervised",
    ),
    "auxiliary": ("disentanglement", "semantic-distillation", "supervised-semantic"),
    "domains": ("speech", "music", "audio"),
}
"""The words that a field may hold. T is a Transformer; several parts are joined by + (CNN+T)."""

TAXONOMY = (
    *("encoder", "decoder", "inputs", "quantizer", "bitrate", "scalable", "objectives", "auxiliary", "joint"),
    *("streamable", "domains"),
)
"""The fields that the survey classifies tokenizers by."""


@dataclass(frozen=True)
class Paper:
    title: str
    year: int
    arxiv: str | None = None


@dataclass(frozen=True)
class TokenizerRecord:
    """One tokenizer: a published checkpoint, or a family of which no checkpoint is told apart. None: unknown."""

    name: str
    family: str
    """As its authors spell it; several records may be of one family."""
    survey: str | None = None
    """The survey's name for the family; None for those that it does not have."""
    loads: str | None = None
    """The registered name that loads it; `checkpoint` and `settings` go with it."""
    checkpoint: str | None = None
    """A hub id, or a web address."""
    settings: tuple[tuple[str, Any], ...] = ()
    """What `load_tokenizer` is given beside the name; the checkpoint is among it where the family takes one."""
    untrained: tuple[tuple[str, Any], ...] = ()
    """What `write_untrained` of its class must be told for its architecture, where that is not the default one; for
    `ssl-kmeans`, what `write_untrained_units` must be told."""
    encoder: str | None = None
    decoder: str | None = None
    inputs: tuple[str, ...] | None = None
    """What the encoder reads: samples (time), a spectrum (time-frequency), or both."""
    quantizer: str | None = None
    bitrate: str | None = None
    """`fixed`: every code costs the same bits; `adaptive`: codes are entropy coded."""
    scalable: bool | None = None
    """Whether its first n codebooks are a code of their own, at a lower bitrate."""
    objectives: tuple[str, ...] | None = None
    auxiliary: tuple[str, ...] | None = None
    joint: bool | None = None
    """Whether encoder, quantizer and decoder are trained together."""
    streamable: bool | None = None
    domains: tuple[str, ...] | None = None
    sample_rate_hz: int | None = None
    hop_samples: int | None = None
    codebook_sizes: tuple[int, ...] | None = None
    stated_frame_rates_hz: tuple[float, ...] | None = None
    """As published, where the sample rate and the hop are not known; more than one for several variants."""
    parameters: int | None = None
    macs_per_s: float | None = None
    """Multiply-accumulates for a second of audio there and back, as the survey measured them."""
    licence: str | None = None
    """Of the weights."""
    paper: Paper | None = None
    note: str | None = None

    @property
    def frame_rates_hz(self) -> tuple[float, ...] | None:
        if self.sample_rate_hz and self.hop_samples:
            return (self.sample_rate_hz / self.hop_samples,)
        return self.stated_frame_rates_hz

    @property
    def bitrate_bps(self) -> float | None:
        """Nominal bits per second, with all codebooks: frame rate x sum of log2(codebook size)."""
        rates = self.frame_rates_hz
        if not self.codebook_sizes or not rates or len(rates) > 1:
            return None
        return rates[0] * sum(map(log2, self.codebook_sizes))

    @property
    def taxonomy(self) -> dict[str, str]:
        """The known facts of TAXONOMY as text, for a `TokenizerSpec`."""
        return {name: text(value) for name in TAXONOMY if (value := getattr(self, name)) is not None}


def text(value: Any) -> str:
    """A field's value as people read it."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def records() -> tuple[TokenizerRecord, ...]:
    """All records, those that `slm` can load first."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    rows: list[TokenizerRecord] = []
    for file in ("loadable.yaml", "survey.yaml"):
        path = Path(__file__).with_name(file)
        for entry in yaml.load(path.read_text(encoding="utf-8"), Loader=loader):
            shared = {key: value for key, value in entry.items() if key != "releases"}
            rows += [read_record({**shared, **release}) for release in entry.get("releases", [{}])]
    names = [row.name for row in rows]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"records of one name: {', '.join(sorted(twice))}")
    return tuple(rows)


def find_records(
    name: str, among: Iterable[TokenizerRecord] | None = None, other_words: Iterable[str] = ()
) -> list[TokenizerRecord]:
    """The record of that name; else those that the registered name loads; else those of the family.

    UsageError when there is none, with suggestions, also from `other_words` that could have been meant.
    """
    rows = list(records() if among is None else among)
    wanted = name.casefold()
    for key in ("name", "loads", "family", "survey"):
        if wanted and (found := [row for row in rows if (getattr(row, key) or "").casefold() == wanted]):
            return found
    known = {row.name for row in rows} | {row.loads for row in rows if row.loads} | set(other_words)
    raise UsageError(f"unknown tokenizer {name!r}{did_you_mean(name, known)}")


def taxonomy_of(name: str, checkpoint: str | None = None) -> dict[str, str]:
    """The taxonomy of a record or a registered name, for a `TokenizerSpec`.

    Of several records, `checkpoint` picks the one; for a checkpoint that has no record (a folder, weights of one's
    own), only that is said in which all records of the name agree.
    """
    found = find_records(name)
    told = [row.taxonomy for row in found if checkpoint and row.checkpoint == checkpoint] or [
        row.taxonomy for row in found
    ]
    return {key: value for key, value in told[0].items() if all(other.get(key) == value for other in told)}


def read_record(values: Mapping[str, Any]) -> TokenizerRecord:
    """A record from fields as the files have them; ValueError for fields and words that do not exist."""
    made = dict(values)
    if "codebooks" in made:
        made["codebook_sizes"] = _sizes(str(made.pop("codebooks")))
    if "paper" in made:
        made["paper"] = Paper(**made["paper"])
    made |= {key: tuple(made[key].items()) for key in ("settings", "untrained") if key in made}
    made |= {key: tuple(value) for key, value in made.items() if isinstance(value, list)}
    if rates := made.get("stated_frame_rates_hz"):
        made["stated_frame_rates_hz"] = tuple(map(float, rates))
    known = {field.name: field for field in fields(TokenizerRecord)}
    missing = [name for name, field in known.items() if field.default is MISSING and name not in made]
    if unknown := [*(set(made) - set(known)), *missing]:
        raise ValueError(f"record {made.get('name')}: fields that do not exist or are missing: {', '.join(unknown)}")
    for key, words in VOCABULARY.items():
        value = made.get(key)
        parts = value if isinstance(value, tuple) else [] if value is None else value.split("+")
        if wrong := set(parts) - set(words):
            raise ValueError(f"record {made['name']}: {key} {', '.join(sorted(wrong))} is not in the vocabulary")
    return TokenizerRecord(**made)


def _sizes(text: str) -> tuple[int, ...]:
    """`1024 x 8`, or `512 x 2, 16, 64`: codebook sizes, and how many of each."""
    made: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:\s*x\s*(\d+))?\s*", part)
        if not found:
            raise ValueError(f"codebooks {text!r}: write them as `1024 x 8` or `512 x 2, 16`")
        made += [int(found[1])] * int(found[2] or 1)
    return tuple(made)
