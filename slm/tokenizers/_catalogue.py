"""The list of tokenizers, from their records: `python -m slm.tokenizers`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slm.errors import UsageError, did_you_mean
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.database import VOCABULARY, TokenizerRecord, read_record, records, text


@dataclass(frozen=True)
class ListConfig:
    """List the audio tokenizers, those that slm loads first; with options, those of which all of them hold.

    Several values of one option are joined by commas, and all must hold. What is unknown of a tokenizer never holds.
    `python -m slm.tokenizers NAME` tells all about one, and measures it on this machine with --measure;
    `fit --help` and `import-kmeans --help` tell how to make the centroids of k-means tokenizers.
    """

    quantizer: str | None = None
    """RVQ, GVQ, SVQ, MSRVQ, CSRVQ, PQ, FSQ, SQ or k-means."""
    domain: str | None = None
    """speech, music, audio."""
    encoder: str | None = None
    """Its parts: CNN, RNN, T (Transformer), 'signal processing'; 'CNN,RNN' are those that have both."""
    decoder: str | None = None
    """As for the encoder; 'none' are those without one."""
    input: str | None = None
    """What the encoder reads: time (samples), time-frequency (a spectrum)."""
    bitrate: str | None = None
    """fixed or adaptive (entropy coded)."""
    objective: str | None = None
    """adversarial, feature-matching, reconstruction, vq, diffusion, masked-prediction, prediction, supervised."""
    auxiliary: str | None = None
    """disentanglement, semantic-distillation, supervised-semantic; 'none' are those without."""
    joint: bool | None = None
    """Encoder, quantizer and decoder trained together; `--joint false` are those trained in steps."""
    streamable: bool | None = None
    """Works while audio comes in; `--streamable false` are those that do not."""
    scalable: bool | None = None
    """The first codebooks alone are a code of a lower bitrate."""
    max_frame_rate_hz: float | None = None
    """At most so many frames per second."""
    max_bitrate_bps: float | None = None
    """At most so many bits per second, with all codebooks."""
    runnable: bool | None = None
    """Loaded by slm."""
    json: bool = False
    """Print records as JSON."""
    markdown: bool = False
    """Print a Markdown table."""

    def __post_init__(self) -> None:
        if self.json and self.markdown:
            raise UsageError("--json and --markdown are two forms of one list: give one of them")
        for name in ("max_frame_rate_hz", "max_bitrate_bps"):
            if (limit := getattr(self, name)) is not None and limit <= 0:
                raise UsageError(f"--{name} must be above 0, not {limit:g}: nothing has so few")


def catalogue() -> list[TokenizerRecord]:
    """The database, and a record of what is known (its name and line) of every tokenizer that is not in it."""
    told = {row.loads for row in records()}
    return [*records(), *(_undocumented(name) for name in TOKENIZERS.names() if name not in told)]


def is_runnable(row: TokenizerRecord) -> bool:
    return row.loads in TOKENIZERS.names()


def modes_of(row: TokenizerRecord) -> dict[str, str]:
    """Mode -> what is known of its codes; none for what is not loaded, or cannot be."""
    if row.loads is None or not is_runnable(row):
        return {}
    try:
        return dict(TOKENIZERS.get(row.loads).known_modes())
    except UsageError:  # a broken plug-in, of which its note tells
        return {}


def list_tokenizers(config: ListConfig) -> None:
    found, unknown = select(catalogue(), config)
    if config.json:
        print(json.dumps([as_dict(row) for row in found], indent=2))
        return
    if config.markdown:
        print("\n".join(markdown(found)))
        return
    runnable = [row for row in found if is_runnable(row)]
    others = [row for row in found if not is_runnable(row)]
    if runnable:
        print(
            "\n".join(["Loaded by slm", *table(runnable, {**_COLUMNS, "loaded as": lambda row: row.loads or ""}), ""])
        )
    if others:
        print("\n".join(["Known, not loaded", *table(others), ""]))
    print(f"Tokenizers: {len(found)}; loaded by slm: {len(runnable)}. ? is unknown, Hz are frames per second.")
    if unknown:
        print(f"Left out because what was asked for is unknown of them: {unknown}.")


def select(rows: Iterable[TokenizerRecord], config: ListConfig) -> tuple[list[TokenizerRecord], int]:
    """Those of which every filter holds; and of how many others none fails, but something asked for is unknown."""
    tests = _tests(config)
    verdicts = [(row, [test(row) for test in tests]) for row in rows]
    found = [row for row, answers in verdicts if all(answers)]
    return found, sum(False not in answers and None in answers for _, answers in verdicts)


Test = Callable[[TokenizerRecord], bool | None]

# Option -> the field that it asks for.
_WORDS = {
    **{name: name for name in ("quantizer", "encoder", "decoder", "bitrate", "auxiliary")},
    "domain": "domains",
    "input": "inputs",
    "objective": "objectives",
}


def _tests(config: ListConfig) -> list[Test]:
    """A test for each option given: True, False, or None where the record says nothing of it."""
    made: list[Test] = []
    for option, field in _WORDS.items():
        if (wanted := getattr(config, option)) is not None:
            made.append(_has_words(field, _words(option, field, wanted)))
    for field in ("joint", "streamable", "scalable"):
        if (wanted := getattr(config, field)) is not None:
            made.append(_is(field, wanted))
    if config.runnable is not None:
        made.append(lambda row: is_runnable(row) == config.runnable)
    if (limit := config.max_frame_rate_hz) is not None:
        made.append(lambda row: None if row.frame_rates_hz is None else min(row.frame_rates_hz) <= limit)
    if (most := config.max_bitrate_bps) is not None:
        made.append(lambda row: None if row.bitrate_bps is None else row.bitrate_bps <= most)
    return made


def _is(field: str, wanted: bool) -> Test:
    return lambda row: None if getattr(row, field) is None else getattr(row, field) == wanted


def _words(option: str, field: str, given: str) -> set[str]:
    """The words of an option in the spelling of the vocabulary; UsageError with suggestions for others."""
    known = {word.casefold(): word for word in (*VOCABULARY[field], *(["none"] if field == "auxiliary" else []))}
    wanted = [part.strip() for part in given.replace("+", ",").split(",")]
    for part in wanted:
        if part.casefold() not in known:
            raise UsageError(f"unknown {option} {part!r}{did_you_mean(part, known.values())}")
    return {known[part.casefold()] for part in wanted}


def _has_words(field: str, wanted: set[str]) -> Test:
    def test(row: TokenizerRecord) -> bool | None:
        value = getattr(row, field)
        if value is None:
            return None
        return wanted <= set(value.split("+") if isinstance(value, str) else value or ("none",))

    return test


Columns = Mapping[str, Callable[[TokenizerRecord], str]]

_COLUMNS: Columns = {
    "name": lambda row: row.name,
    "quantizer": lambda row: row.quantizer or "?",
    "codebooks": lambda row: sizes(row.codebook_sizes),
    "Hz": lambda row: "/".join(f"{round(rate, 2):g}" for rate in row.frame_rates_hz or ()) or "?",
    "kbit/s": lambda row: f"{row.bitrate_bps / 1000:.3g}" if row.bitrate_bps else "?",
    "kHz": lambda row: f"{row.sample_rate_hz / 1000:g}" if row.sample_rate_hz else "?",
    "streams": lambda row: "?" if row.streamable is None else text(row.streamable),
    "domains": lambda row: "?" if row.domains is None else text(row.domains),
}


_WITH_NAME: Columns = {**_COLUMNS, "loaded as": lambda row: row.loads or ""}


def markdown(rows: Iterable[TokenizerRecord]) -> list[str]:
    """Lines of a Markdown table, each record on one."""
    cells = [list(_WITH_NAME), ["---"] * len(_WITH_NAME), *([c(row) for c in _WITH_NAME.values()] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in cells]


def table(rows: Sequence[TokenizerRecord], columns: Columns = _COLUMNS) -> list[str]:
    """Lines of a table with a header, each record on one."""
    cells = [list(columns), *([cell(row) for cell in columns.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def sizes(codebooks: tuple[int, ...] | None) -> str:
    """`1024 x 8`; mixed ones as `13: 4..128` or `12: 1k..16k`, how many and from which size to which."""
    if not codebooks:
        return "?"
    if len(set(codebooks)) > 1:
        least, most = (f"{n // 1024}k" if n % 1024 == 0 else str(n) for n in (min(codebooks), max(codebooks)))
        return f"{len(codebooks)}: {least}..{most}"
    return f"{codebooks[0]} x {len(codebooks)}"


def as_dict(row: TokenizerRecord) -> dict[str, Any]:
    """A record with what follows from it, fit for JSON."""
    derived: dict[str, Any] = {
        "frame_rates_hz": row.frame_rates_hz,
        "bitrate_bps": row.bitrate_bps,
        "runnable": is_runnable(row),
    }
    derived |= {"modes": modes_of(row)}
    return {**asdict(row), "settings": dict(row.settings), **derived}


def _undocumented(name: str) -> TokenizerRecord:
    """The record of a tokenizer that the database does not know: a plug-in's, mostly."""
    try:
        cls = TOKENIZERS.get(name)
    except UsageError as error:  # a broken plug-in: the others are there
        return TokenizerRecord(name=name, family=name, loads=name, note=str(error))
    first_line = (inspect.getdoc(cls) or "").partition("\n")[0]
    told = {"name": name, "family": name, "loads": name, "note": cls.about.get(name, first_line)}
    try:
        return read_record({**told, **cls.facts.get(name, {}), "name": name, "loads": name})
    except (ValueError, TypeError) as error:
        return read_record({**told, "note": f"{told['note']} (its `facts` cannot be read: {error})"})
