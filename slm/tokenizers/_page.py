"""The page of one tokenizer, from its record: `python -m slm.tokenizers NAME`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from slm.errors import UsageError
from slm.tokenizers._catalogue import as_dict, catalogue, is_runnable, modes_of
from slm.tokenizers.database import TokenizerRecord, find_records, text

WIDTH = 100
LONGEST_S = 10_800


@dataclass(frozen=True)
class ShowConfig:
    """All that is known about one tokenizer, and what it costs on this machine."""

    measure: bool = False
    """Measure parameters, multiply-accumulates and speed of the true architecture: with its checkpoint where that can
    be had, else with random weights."""
    device: str = "cpu"
    """Where to measure: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""
    seconds: float = 10.0
    """Length of the clip that is measured."""
    seed: int = 0
    """Decides the clip, which is noise, and random weights."""
    json: bool = False
    """Print the record as JSON."""

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise UsageError(f"--seconds must be positive, not {self.seconds:g}")
        if self.seconds > LONGEST_S:
            raise UsageError(f"--seconds must be at most {LONGEST_S}, which are held in memory, not {self.seconds:g}")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed must be in [0, 2^63), not {self.seed}")
        how = (f for f in fields(self) if f.name in ("device", "seconds", "seed"))
        asked = [f.name for f in how if getattr(self, f.name) != f.default]
        if asked and not self.measure:
            raise UsageError(f"--{asked[0]} says how to measure: give --measure too")


def show(name: str, commands: Iterable[str], config: ShowConfig) -> None:
    """Print all about the tokenizer that `name` means, measured if asked for; `commands` may have been meant."""
    row, *others = find_records(name, catalogue(), commands)
    made, told = None, None
    if config.measure:
        from slm.devices import choose_device
        from slm.tokenizers._measure import measure, report

        made = measure(row, choose_device(config.device), config.seconds, config.seed)
        told = report(made)
    if config.json:
        print(json.dumps({**as_dict(row), "measured": made and asdict(made)}, indent=2))
        return
    print("\n".join(page(row, told)))
    if others:
        print(f"\n{name} is also: {', '.join(other.name for other in others)}")


def page(row: TokenizerRecord, measured: Mapping[str, str] | None = None) -> list[str]:
    """All about one tokenizer, a line for each fact; what is unknown says so."""
    rates = row.frame_rates_hz
    runnable = is_runnable(row)
    facts = {
        "loaded by": loading_line(row) if runnable else "nothing here: known, not loaded",
        "checkpoint": row.checkpoint or ("none is needed" if runnable else None),
        "sample rate": row.sample_rate_hz and f"{row.sample_rate_hz} Hz",
        "frame rate": rates and " / ".join(f"{rate:.6g}" for rate in rates) + " Hz",
        "codebooks": row.codebook_sizes and _codebooks(row.codebook_sizes),
        "bitrate": row.bitrate_bps and f"{row.bitrate_bps:.6g} bit/s with all codebooks",
        "bit allocation": row.bitrate,
        **{name: getattr(row, name) for name in ("scalable", "encoder", "decoder", "inputs", "quantizer")},
        **{name: getattr(row, name) for name in ("objectives", "auxiliary")},
        "trained jointly": row.joint,
        **{name: getattr(row, name) for name in ("streamable", "domains")},
        "parameters": _published(row.parameters, 1e6, "M"),
        "operations": _published(row.macs_per_s, 1e9, "G multiply-accumulates per second of audio"),
        **{f"mode {mode}": known for mode, known in modes_of(row).items()},
        "licence": row.licence,
        "paper": row.paper and f"{row.paper.title}, {row.paper.year}, {_arxiv(row)}",
        "in the survey": row.survey or "no",
        **({"note": row.note} if row.note else {}),
    }
    lines = [f"{row.name} ({row.family})", *_lines(facts)]
    return [*lines, "", *_lines(measured)] if measured else lines


def _lines(facts: Mapping[str, Any]) -> list[str]:
    margin = " " * 19
    return [
        line
        for name, value in facts.items()
        for line in textwrap.wrap(
            f"  {name + ':':<17}{text(value)}",
            WIDTH,
            subsequent_indent=margin,
            break_on_hyphens=False,
            break_long_words=False,
        )
    ]


def _codebooks(given: tuple[int, ...]) -> str:
    return f"{len(given)} of {', '.join(map(str, given)) if len(set(given)) > 1 else given[0]} codes"


def _published(value: float | None, unit: float, name: str) -> str | None:
    if value is None:
        return None
    return f"{value / unit:.4g} {name} (as published)" if value else "none: no network"


def _arxiv(row: TokenizerRecord) -> str:
    return f"arXiv {row.paper.arxiv}" if row.paper and row.paper.arxiv else "arXiv id unknown"


def loading_line(row: TokenizerRecord) -> str:
    """The call that loads it."""
    return f"load_tokenizer({', '.join([repr(row.loads), *(f'{k}={v!r}' for k, v in row.settings)])})"
