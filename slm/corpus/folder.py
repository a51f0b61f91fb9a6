"""The folder of a corpus: whose it is, what state it is in, and what marks it as finished."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slm.corpus.card import dataset_card
from slm.corpus.changes import describe_changed_files, describe_changed_list
from slm.corpus.plan import Plan
from slm.corpus.planning import PlanSettings
from slm.corpus.shards import plan_features, shard_path
from slm.corpus.sources.base import Source
from slm.corpus.summary import CorpusSummary
from slm.errors import UsageError
from slm.files import read_json, write_json, write_text
from slm.types import TokenizerSpec, stable_hash


def check_out(out: Path, spec: TokenizerSpec) -> None:
    """UsageError where `out` is taken by something else: other files, or a corpus of another tokenizer."""
    with _usable(out):
        if out.exists() and not out.is_dir():
            raise UsageError(f"--out {out} is a file: give a folder")
        if not out.is_dir() or all(name.startswith(".") for name in os.listdir(out)):
            return
        try:
            theirs = TokenizerSpec.from_dict(read_json(out / "tokenizer.json"))
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or a file of that name by another program
            raise UsageError(f"--out {out} is not empty and not a corpus of codes: give a new folder") from None
    if (out / "state.json").is_file() and not (out / "plan.json").is_file():
        raise UsageError(f"--out {out} holds a finished corpus that another command made: give a new folder")
    if theirs.fingerprint != spec.fingerprint:
        raise UsageError(
            f"--out {out} holds codes of {theirs.describe()}, and this command asks for {spec.describe()}: "
            "give another --out, or the same tokenizer and settings"
        )


@contextmanager
def _usable(out: Path) -> Iterator[None]:
    """What the system has against `out` is wrong use, but for a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UsageError(f"--out {out} cannot be used ({error.strerror}): give a folder that can be written") from None


def load_plan(out: Path, settings: PlanSettings, source: Source) -> Plan | None:
    """The plan that `out` was begun with, if any; UsageError where the command would make another, or where the source
    or its files are others now."""
    if not (out / "plan.json").is_file():
        return None
    plan = Plan(out, source.base)
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


def begin(out: Path, spec: TokenizerSpec) -> None:
    """Mark the folder as a corpus of this tokenizer, before anything else is written to it."""
    with _usable(out):
        write_json(out / "tokenizer.json", spec.to_dict())


def abandon(out: Path) -> None:
    """Take away a corpus that has come to nothing, so that `out` is free again; `tokenizer.json`, by which the folder
    is known, last."""
    for path in (*out.glob("data-*.arrow"), out / "plan.json", out / "plan.arrow"):
        path.unlink(missing_ok=True)
    shutil.rmtree(out / "plan.parts", ignore_errors=True)
    (out / "tokenizer.json").unlink(missing_ok=True)


def is_finished(out: Path, plan: Plan) -> bool:
    return (out / "state.json").is_file() and all(shard_path(out, plan, shard).is_file() for shard in plan.shards)


def finish(summary: CorpusSummary, plan: Plan, source: str) -> None:
    """Write what describes the finished shards."""
    digest = stable_hash([plan.head.source_hash, plan.head.settings, summary.spec.fingerprint])
    write_description(summary, source, plan_features(plan, summary.spec), digest)


def write_description(summary: CorpusSummary, source: str, features: Mapping[str, Any], digest: str) -> None:
    """Write what people and `datasets` read beside the shards; `state.json`, the last, makes the folder a dataset."""
    out = summary.out
    rejects = [json.dumps(asdict(reject), ensure_ascii=False) + "\n" for reject in summary.rejects]
    write_text(out / "rejects.jsonl", "".join(rejects))
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


@contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Hold `out` (made if need be, and removed again if it stays empty) against other runs on this machine; clear what
    a killed run left half-written."""
    with _usable(out):
        is_new = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UsageError(f"another run is writing to {out}: wait for it, or give another --out") from None
            # Some network file systems have no locks: go on without.
        for stale in out.glob(".*.tmp-*"):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
        yield
    finally:
        if is_new:
            with suppress(OSError):  # not empty: the usual case
                out.rmdir()
        os.close(handle)
