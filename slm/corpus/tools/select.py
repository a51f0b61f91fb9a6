"""`python -m slm.corpus select`: the clips of a corpus that fit become one of their own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from slm.corpus.remote import open_text
from slm.corpus.summary import CorpusSummary
from slm.corpus.tools.derive import Part, derive
from slm.corpus.tools.files import tracked
from slm.corpus.tools.finished import FinishedCorpus, clip_frames
from slm.corpus.tools.where import holds
from slm.errors import UsageError
from slm.types import stable_hash


@dataclass(frozen=True)
class SelectConfig:
    """Make a corpus of those clips of another that fit: `python -m slm.corpus select IN --where EXPRESSION --out C`.

    Several options must all hold; a sample is drawn from what they leave. The order of the clips stays. A run that was
    stopped goes on when the same command is given again.
    """

    corpus: str
    """Folder of a finished corpus."""
    out: str
    """Folder for the new one."""
    where: str | None = None
    """What must hold of a clip, over its columns (id, duration_s, num_samples and those of its source):
    "speaker == 'x' and 2 < duration_s <= 20", "lang in ['en', 'de']", "text.str.contains('sea')", "not text.isna()",
    "snr.astype(float) > 20" (of a CSV). What is missing equals nothing and is neither above nor below."""
    ids: str | None = None
    """File of ids, one a line; all must be there."""
    sample_clips: int | None = None
    """So many clips at random; a larger sample holds the smaller ones of the same seed."""
    sample_hours: float | None = None
    """Clips at random, as many as fit into so many hours; likewise."""
    seed: int = 0
    """Decides the sample."""

    def __post_init__(self) -> None:
        asked = (self.where, self.ids, self.sample_clips, self.sample_hours)
        if all(option is None for option in asked):
            raise UsageError("select needs --where, --ids, --sample_clips or --sample_hours: give at least one")
        if self.sample_clips is not None and self.sample_hours is not None:
            raise UsageError("give --sample_clips or --sample_hours, not both")
        for name in ("sample_clips", "sample_hours"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise UsageError(f"--{name} must be above 0, not {value}")


def select(config: SelectConfig) -> None:
    """Write the corpus and print what it is."""
    print(select_clips(config).describe())


@dataclass(frozen=True)
class _Chosen:
    """Rows of one shard, each with its frames, its seconds and its draw: the sample takes the lowest."""

    name: str
    shard_frames: int
    rows: np.ndarray
    frames: np.ndarray
    seconds: np.ndarray
    draws: np.ndarray

    def only(self, mask: np.ndarray) -> _Chosen:
        kept = (array[mask] for array in (self.rows, self.frames, self.seconds, self.draws))
        return _Chosen(self.name, self.shard_frames, *kept)


def select_clips(config: SelectConfig) -> CorpusSummary:
    """UsageError for an expression that cannot be evaluated, ids that are not there, and where nothing is left."""
    corpus = FinishedCorpus(config.corpus)
    wanted = None if config.ids is None else _read_ids(config.ids)
    missing = set(wanted or ())
    chosen = [
        _choose(corpus, name, config, wanted, missing) for name in tracked(corpus.names, "looking", len(corpus.names))
    ]
    if missing:
        raise UsageError(f"{len(missing)} ids of {config.ids} are not in {config.corpus}, such as {min(missing)!r}")
    kept = [some for some in _sample(chosen, config) if len(some.rows)]
    if not kept:
        raise UsageError(f"no clip of {config.corpus} fits: ask for less")
    parts = [Part(corpus, some.name, int(some.frames.sum()), some.rows) for some in kept]
    settings = {
        "where": config.where,
        "ids": None if wanted is None else stable_hash(sorted(wanted)),
        "sample_clips": config.sample_clips,
        "sample_hours": config.sample_hours,
        "seed": config.seed,
    }
    return derive(config.out, "select", settings, parts, max(some.shard_frames for some in chosen))


def _read_ids(path: str) -> set[str]:
    with open_text(path) as lines:
        ids = {id for line in lines if (id := line.rstrip("\r\n"))}
    if not ids:
        raise UsageError(f"{path} holds no id: give a file with one a line")
    return ids


def _choose(
    corpus: FinishedCorpus, name: str, config: SelectConfig, wanted: set[str] | None, missing: set[str]
) -> _Chosen:
    """What fits of one shard; its ids are taken out of `missing`."""
    table = corpus.table(name)
    ids, frames = table.column("id").to_pylist(), clip_frames(table)
    fits = np.ones(len(table), bool) if config.where is None else holds(config.where, table)
    if wanted is not None:
        missing.difference_update(ids)
        fits = fits & np.fromiter((id in wanted for id in ids), bool, len(ids))
    rows = np.flatnonzero(fits)
    seconds = table.column("num_samples").to_numpy()[rows] / corpus.spec.sample_rate_hz
    draws = np.fromiter((_draw(config.seed, ids[row]) for row in rows), np.uint64, len(rows))
    return _Chosen(name, int(frames.sum()), rows, frames[rows], seconds, draws)


def _draw(seed: int, id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{id}".encode()).digest()[:8], "big")


def _sample(chosen: list[_Chosen], config: SelectConfig) -> list[_Chosen]:
    """The clips of the lowest draws, whose order depends on seed and id alone."""
    if config.sample_clips is None and config.sample_hours is None:
        return chosen
    order = np.argsort(np.concatenate([some.draws for some in chosen]), kind="stable")
    hours = np.cumsum(np.concatenate([some.seconds for some in chosen])[order]) / 3600
    all_hours = float(hours[-1]) if len(hours) else 0.0
    if (config.sample_clips or 0) > len(order) or (config.sample_hours or 0.0) > all_hours:
        raise UsageError(f"there are {len(order)} clips of {all_hours:.3f} h to draw from: ask for a smaller sample")
    count = config.sample_clips or np.searchsorted(hours, config.sample_hours or 0.0, side="right")
    if not count:
        first_s = hours[0] * 3600
        raise UsageError(
            f"no clip of {config.corpus} fits: the first one drawn lasts {first_s:.3g} s; ask for more hours"
        )
    mask = np.zeros(len(order), bool)
    mask[order[:count]] = True
    masks = np.split(mask, np.cumsum([len(some.rows) for some in chosen])[:-1])
    return [some.only(mask) for some, mask in zip(chosen, masks, strict=True)]
