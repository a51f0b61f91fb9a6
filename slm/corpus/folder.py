"""The folder of a corpus: whose it is, what state it is in, and what marks it as finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slm.corpus.card import dataset_card
from slm.corpus.changes import describe_changed_files, describe_changed_list
from slm.corpus.output import Output
from slm.corpus.plan import PLAN_FILES, Plan, Reject
from slm.corpus.planning import PARTS, PlanSettings
from slm.corpus.shards import plan_features, shard_name
from slm.corpus.sources.base import Source
from slm.corpus.summary import CorpusSummary
from slm.errors import UsageError, disk_is_full
from slm.files import read_json, write_json, write_text
from slm.types import TokenizerSpec, stable_hash


def check_out(output: Output, spec: TokenizerSpec) -> None:
    """UsageError where `output` is taken by something else: other files, or a corpus of another tokenizer."""
    out = output.folder
    with usable(output):
        if not output.is_remote and out.exists() and not out.is_dir():
            raise UsageError(f"--out {out} is a file: give a folder")
        names = output.names()
        if not names:
            return
        output.bring("tokenizer.json")
        try:
            theirs = TokenizerSpec.from_dict(read_json(out / "tokenizer.json"))
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or a file of that name by another program
            raise UsageError(
                f"--out {output.location} is not empty and not a corpus of codes: give a new folder"
            ) from None
    if names & {"state.json", "origin.json"} and "plan.json" not in names:
        raise UsageError(f"--out {output.location} holds a corpus that another command made: give a new folder")
    if theirs.fingerprint != spec.fingerprint:
        raise UsageError(
            f"--out {output.location} holds codes of {theirs.describe()}, and this command asks for "
            f"{spec.describe()}: give another --out, or the same tokenizer and settings"
        )


@contextmanager
def usable(output: Output) -> Iterator[None]:
    """What the system has against `output` is wrong use, but for a full disk."""
    try:
        yield
    except OSError as error:
        if disk_is_full(error):
            raise
        raise UsageError(
            f"--out {output.location} cannot be used ({error.strerror or error}): give a folder that can be written"
        ) from None


def load_plan(output: Output, settings: PlanSettings, source: Source) -> Plan | None:
    """The plan that `output` was begun with, if any; UsageError where the command would make another, or where the
    source or its files are others now."""
    if not (output.folder / "plan.json").is_file():
        return None
    plan, out = Plan(output.folder, source.base), output.location
    for name, then, now in _differing(plan.head.settings, settings.to_dict()):
        raise UsageError(
            f"--out {out} was begun with --{name} {_shown(then)}, and this command says {_shown(now)}: "
            f"give --{name} {_shown(then)}, or another --out"
        )
    if difference := describe_changed_list(plan, source):
        raise UsageError(
            f"the clips have changed since {out} was begun ({difference}): bring the same clips back "
            "to go on, or give another --out"
        )
    if changes := describe_changed_files(plan):
        raise UsageError(
            f"the audio has changed since {out} was begun ({changes}): bring the same files back to go on, or give "
            "another --out"
        )
    return plan


def _differing(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(option, then, now) of settings that are not the same."""
    for name in now:
        if isinstance(now[name], Mapping):
            yield from _differing(then.get(name, {}), now[name], f"{prefix}{name}.")
        elif then.get(name) != now[name]:
            yield prefix + name, then.get(name), now[name]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def begin(output: Output, spec: TokenizerSpec) -> None:
    """Mark the folder as a corpus of this tokenizer, before anything else is written to it."""
    with usable(output):
        write_json(output.folder / "tokenizer.json", spec.to_dict())
        output.send("tokenizer.json")


def abandon(output: Output) -> None:
    """Take away a corpus that has come to nothing, so that `output` is free again; `tokenizer.json`, by which the
    folder is known, last."""
    made = sorted(name for name in output.names() if name.startswith(("data-", "log")))
    shutil.rmtree(output.folder / PARTS, ignore_errors=True)
    output.remove(*made, *reversed(PLAN_FILES), "rejects.jsonl", "tokenizer.json")
    clear_left_overs(output)
    output.close()


def is_finished(output: Output, plan: Plan) -> bool:
    return output.names() >= {"state.json", *(shard_name(plan, shard) for shard in plan.shards)}


def finish(output: Output, summary: CorpusSummary, plan: Plan, source: str) -> None:
    """Write what describes the finished shards."""
    digest = stable_hash([plan.head.source_hash, plan.head.settings, summary.spec.fingerprint])
    write_description(summary, source, plan_features(plan, summary.spec), digest)
    output.send(*DESCRIPTION)


def clear_left_overs(output: Output) -> None:
    """Of a corpus that is finished, or has come to nothing: remove locks and what killed runs left, for which parts
    clear nothing before, since others may be at work. For a URL they lie where files are made, which goes as a whole
    once no run is at work there."""
    if output.is_remote:
        return
    shutil.rmtree(output.folder / PARTS, ignore_errors=True)
    for left in (path for name in (".*.lock", ".*.tmp-*") for path in output.folder.glob(name)):
        left.unlink(missing_ok=True)


DESCRIPTION = ("rejects.jsonl", "README.md", "shards.json", "dataset_info.json", "state.json")


def write_description(summary: CorpusSummary, source: str, features: Mapping[str, Any], digest: str) -> None:
    """Write what people and `datasets` read beside the shards; `state.json`, the last, makes the folder a dataset."""
    out = summary.out
    write_rejects(out, summary.rejects)
    write_text(out / "README.md", dataset_card(summary, source))
    write_json(out / "shards.json", [asdict(shard) for shard in summary.shards])
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    write_json(out / "dataset_info.json", info)
    state: dict[str, Any] = {
        "_data_files": [{"filename": shard.file} for shard in summary.shards],
        "_fingerprint": digest[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(out / "state.json", state)


def write_rejects(out: Path, rejects: Iterable[Reject]) -> None:
    lines = [json.dumps(asdict(reject), ensure_ascii=False) + "\n" for reject in rejects]
    write_text(out / "rejects.jsonl", "".join(lines))
