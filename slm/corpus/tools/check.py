"""`python -m slm.corpus check`: every shard read and held against its seal, the plan, the tokenizer and the others."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from slm.corpus.locks import held
from slm.corpus.plan import PLAN_FILES, Plan, PlannedShard
from slm.corpus.shards import shard_name
from slm.corpus.summary import CorpusSummary, ShardEntry, sum_up
from slm.corpus.tools.files import CorpusFiles, open_corpus, tracked
from slm.corpus.tools.finished import find_doubled
from slm.corpus.tools.shard_check import ShardFinding, examine_shard
from slm.data.store import map_table, read_spec
from slm.errors import UsageError
from slm.files import read_json
from slm.types import TokenizerSpec

_REDO = "check --redo removes it, and the command that made the corpus makes it anew"
_AGAIN = "run the command that made the corpus again"
_ANEW = "check --redo lets the command that made the corpus write it anew"


@dataclass(frozen=True)
class CheckConfig:
    """Verify every shard of a corpus: `python -m slm.corpus check OUT`.

    Each is read whole: its seal (sha256), its rows against plan and records, codes against the codebooks, frames
    against samples, ids against each other. One line a fault; exit status 0 where there is none, else 1.
    """

    corpus: str
    """Folder or URL of the corpus, finished or not."""
    redo: bool = False
    """Remove the shards at fault, so that the command that made the corpus, given again, makes them anew, and only
    those."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file of a corpus, and what to do about it; `redo`: by making it anew."""

    file: str
    what: str
    remedy: str

    @property
    def redo(self) -> bool:
        return self.remedy in (_REDO, _ANEW, _AGAIN)

    def line(self) -> str:
        return f"{self.file}: {self.what}; {self.remedy}"


@dataclass(frozen=True)
class Verdict:
    """The faults of a corpus, and what its readable shards hold; `can_redo`: it knows how it was made."""

    faults: tuple[Fault, ...]
    can_redo: bool
    num_shards: int
    num_clips: int
    duration_s: float


def check(config: CheckConfig) -> int:
    """Print a line for each fault and one about all; the exit status."""
    with open_corpus(config.corpus) as files:
        read_spec(files.folder)
        with held(files.output, None) if config.redo else nullcontext():
            verdict = examine(files)
            if config.redo:
                redo(files, verdict)
    for fault in verdict.faults:
        print(fault.line())
    holds = f"{verdict.num_clips:,} clips, {verdict.duration_s / 3600:.3f} h in {verdict.num_shards:,} shards"
    if not verdict.faults:
        print(f"{config.corpus} is whole: {holds}")
        return 0
    count = len({fault.file for fault in verdict.faults if fault.redo})
    done = f"files to be made anew: {count}; {_AGAIN}" if config.redo and count else "each line says what to do"
    print(f"faults in {config.corpus}: {len(verdict.faults)} ({holds} can be read); {done}")
    return 1


def redo(files: CorpusFiles, verdict: Verdict) -> None:
    """Make the corpus an unfinished one that lacks the shards at fault; `state.json` goes first."""
    names = dict.fromkeys(fault.file for fault in verdict.faults if fault.redo)
    if not names:
        return
    if not verdict.can_redo:
        raise UsageError(
            f"{files.location} has no plan by which its shards could be made anew: make it again elsewhere"
        )
    files.output.remove("state.json", "shards.json", *names)


def examine(files: CorpusFiles) -> Verdict:
    """Find all faults of a corpus; UsageError for a folder that is none."""
    out, there = files.folder, files.output.names()
    spec = read_spec(out)
    faults = list[Fault]()
    plan = _read_plan(out, faults)
    listed = _read_listing(out, faults)
    names = _names(there, plan, listed)
    findings = _examine_shards(files, spec, [name for name in names if name in there], plan)
    for name, finding in findings.items():
        faults += [Fault(name, what, _REDO) for what in finding.faults]
        faults += [Fault(name, what, _REDO) for what in _exchanged(name, finding, listed)]
    faults += _missing(out, names, findings)
    faults += _columns_differ(findings, plan)
    faults += _doubled(files, findings)
    faults += _strays(there, names)
    if not faults:
        faults += _description_faults(files, spec, names, plan)
    records = [finding.record for finding in findings.values() if finding.record]
    seconds = sum(record.num_samples for record in records) / spec.sample_rate_hz
    can_redo = plan is not None or (out / "origin.json").is_file()
    return Verdict(tuple(faults), can_redo, len(records), sum(record.num_clips for record in records), seconds)


def _read_plan(out: Path, faults: list[Fault]) -> Plan | None:
    if not any((out / name).is_file() for name in PLAN_FILES):
        return None
    try:
        plan = Plan(out)
        plan.table.validate(full=True)
        _metadata_types(plan)
        return plan
    except (UsageError, OSError, ValueError, pa.ArrowException):
        remedy = "bring both from a copy, or tokenize again into another folder"
        faults.append(Fault(" and ".join(PLAN_FILES), "missing or damaged", remedy))
        return None


def _metadata_types(plan: Plan) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(pa.type_for_alias(type_name))) for name, type_name in plan.columns.items())


def _read_listing(out: Path, faults: list[Fault]) -> dict[str, ShardEntry]:
    """The shards as a finished corpus lists them; none of an unfinished one, where that may be of an earlier run."""
    if not (out / "state.json").is_file():
        return {}
    try:
        entries = [ShardEntry(**entry) for entry in read_json(out / "shards.json")]
    except (OSError, ValueError, TypeError):
        faults.append(Fault("shards.json", "missing or damaged", _ANEW))
        return {}
    return {entry.file: entry for entry in entries}


def _names(there: Set[str], plan: Plan | None, listed: Mapping[str, ShardEntry]) -> list[str]:
    if plan is not None:
        return [shard_name(plan, shard) for shard in plan.shards]
    return list(listed) or sorted(name for name in there if name.startswith("data-"))


def _examine_shards(
    files: CorpusFiles, spec: TokenizerSpec, names: Sequence[str], plan: Plan | None
) -> dict[str, ShardFinding]:
    planned = {} if plan is None else {shard_name(plan, shard): shard for shard in plan.shards}

    def look(name: str) -> ShardFinding:
        with files.shard(name) as path:
            return examine_shard(path, spec, None if plan is None else _planned_ids(plan, planned[name]))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = tracked(pool.map(look, names), "checking", len(names))
        return dict(zip(names, found, strict=True))


def _planned_ids(plan: Plan, shard: PlannedShard) -> list[str]:
    rows = plan.table.slice(shard.start, shard.stop - shard.start)
    return rows.filter(pc.is_null(rows["reason"]))["id"].to_pylist()


def _exchanged(name: str, finding: ShardFinding, listed: Mapping[str, ShardEntry]) -> Iterator[str]:
    """A whole shard that is not the one of its name."""
    if finding.record is None or name not in listed or listed[name].seal == finding.record.seal:
        return
    others = [entry.file for entry in listed.values() if entry.seal == finding.record.seal]
    yield f"it holds what is listed as {others[0]}" if others else "it is not the shard that shards.json lists"


def _missing(out: Path, names: Sequence[str], findings: Mapping[str, ShardFinding]) -> Iterator[Fault]:
    if not (out / "state.json").is_file():
        yield Fault("state.json", f"unfinished: {len(findings)} of {len(names)} shards are there", _AGAIN)
        return
    for name in names:
        if name not in findings:
            yield Fault(name, "missing", _AGAIN)


def _columns_differ(findings: Mapping[str, ShardFinding], plan: Plan | None) -> Iterator[Fault]:
    """Shards with other metadata than the plan says, or than most where there is no plan."""
    found = {name: tuple(finding.columns.items()) for name, finding in findings.items() if finding.columns is not None}
    if plan is not None:
        expected = _metadata_types(plan)
    else:
        expected = Counter(found.values()).most_common(1)[0][0] if found else ()
    for name, columns in found.items():
        if columns != expected:
            yield Fault(name, f"its metadata are {dict(columns)}, and not {dict(expected)}", _REDO)


def _doubled(files: CorpusFiles, findings: Mapping[str, ShardFinding]) -> Iterator[Fault]:
    """Ids that come twice, in one shard or in two."""
    hashes = {name: finding.hashes for name, finding in findings.items() if finding.hashes is not None}
    names = list(hashes)

    def ids(i: int) -> list[str]:
        with files.shard(names[i]) as path:
            return map_table(path).column("id").to_pylist()

    doubled = find_doubled(list(hashes.values()), ids)
    if doubled:
        id, first, again = doubled[0]
        what = f"{len(doubled)} ids come more than once, such as {id!r}, also in {names[first]}"
        yield Fault(names[again], what, "keep one of the clips of an id: make the corpus again elsewhere")


def _strays(there: Set[str], names: Sequence[str]) -> Iterator[Fault]:
    for stray in sorted({name for name in there if name.endswith(".arrow")} - {*names, *PLAN_FILES}):
        yield Fault(stray, "no shard of this corpus, but would be loaded with it", "move it elsewhere")


def _description_faults(
    files: CorpusFiles, spec: TokenizerSpec, names: Sequence[str], plan: Plan | None
) -> Iterator[Fault]:
    """What stands beside whole shards and does not say what they do."""
    out, records = files.folder, (files.output.record(name) for name in names)
    summary = sum_up(out, spec, records, () if plan is None else plan.rejects())
    with files.shard(names[0]) as path, pa.memory_map(str(path)) as source:
        info = json.loads(pa.ipc.open_stream(source).schema.metadata[b"huggingface"])["info"]
    is_right = {
        "shards.json": lambda: read_json(out / "shards.json") == [asdict(entry) for entry in summary.shards],
        "dataset_info.json": lambda: read_json(out / "dataset_info.json")["features"] == info["features"],
        "rejects.jsonl": lambda: _names_rejects(out, summary, plan is not None or (out / "origin.json").is_file()),
        "README.md": (out / "README.md").is_file,
        "state.json": lambda: [f["filename"] for f in read_json(out / "state.json")["_data_files"]] == list(names),
    }
    for name, test in is_right.items():
        try:
            right = test()
        except (OSError, ValueError, KeyError, TypeError):
            right = False
        if not right:
            yield Fault(name, "missing, or does not say what the shards do", _ANEW)


def _names_rejects(out: Path, summary: CorpusSummary, all_known: bool) -> bool:
    """Whether `rejects.jsonl` names the clips that were left out: no others, where plan or origin tell of all."""
    with open(out / "rejects.jsonl", encoding="utf-8") as lines:
        told = sorted(_reason(json.loads(line)) for line in lines)
    known = sorted(_reason(asdict(reject)) for reject in summary.rejects)
    return told == known if all_known else set(known) <= set(told)


def _reason(reject: Mapping[str, Any]) -> tuple[str, str]:
    return reject["id"], reject["reason"]
