"""A corpus made of rows of others, shard by shard: what `merge` and `select` share."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slm.corpus.columns import RESERVED, ColumnTypes, column, features
from slm.corpus.folder import begin, usable, write_description
from slm.corpus.locks import held
from slm.corpus.output import Output
from slm.corpus.plan import Reject
from slm.corpus.shards import write_table
from slm.corpus.summary import CorpusSummary, sum_up
from slm.corpus.tools.files import local, tracked
from slm.corpus.tools.finished import FinishedCorpus
from slm.errors import UsageError
from slm.files import read_json, write_json
from slm.types import stable_hash


@dataclass(frozen=True)
class Part:
    """The rows of one shard that go on (None: all), how many frames they have, and what is put before their ids."""

    corpus: FinishedCorpus
    name: str
    num_frames: int
    rows: np.ndarray | None = None
    prefix: str = ""


def derive(
    out: str,
    command: str,
    settings: Mapping[str, Any],
    parts: Sequence[Part],
    shard_frames: int,
    rejects: Sequence[Reject] = (),
) -> CorpusSummary:
    """Write the rows of the parts, in their order, in shards of at most `shard_frames` (larger parts: one each).

    A run that was stopped goes on when the same is asked for again; UsageError where `out` holds anything else.
    """
    corpora = {str(part.corpus.path): part.corpus for part in parts}
    digest = stable_hash([command, settings, [corpus.digest() for corpus in corpora.values()]])
    origin = {"command": command, "corpora": list(corpora), "settings": settings, "digest": digest}
    output, spec = Output(local(out)), parts[0].corpus.spec
    columns = _column_types(corpora.values())
    groups = _deal(parts, shard_frames)
    names = [f"data-{i:05d}-of-{len(groups):05d}.arrow" for i in range(len(groups))]
    with ExitStack() as stack:
        with usable(output):
            stack.enter_context(held(output, None))
        _check_out(output, digest)
        write_json(output.folder / "origin.json", origin)
        begin(output, spec)
        finished = output.names() >= {"state.json", *names}
        for i, (name, group) in enumerate(tracked(zip(names, groups, strict=True), "writing", len(names))):
            if not (output.folder / name).is_file():
                table = pa.concat_tables([_rows(part, columns) for part in group])
                write_table(output.folder / name, table, columns, spec, () if i else rejects)
        summary = sum_up(output.folder, spec, (output.record(name) for name in names), ())
        if finished:
            print(f"{out} is finished: nothing to do", file=sys.stderr)
        else:
            known = features(columns, spec.num_codebooks, np.dtype(spec.code_dtype).name)
            options = [f"{name} {value}" for name, value in settings.items() if value]
            source = f"{', '.join(corpora)} ({' '.join([command, ', '.join(options)]).strip()})"
            write_description(summary, source, known, digest)
    return summary


def _check_out(output: Output, digest: str) -> None:
    """UsageError where the folder holds what another command has made."""
    if not output.names():
        return
    try:
        theirs = read_json(output.folder / "origin.json")["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"--out {output.location} is not empty: give a new folder") from None
    if theirs != digest:
        raise UsageError(f"--out {output.location} was begun from other corpora or settings: give a new folder")


def _deal(parts: Sequence[Part], shard_frames: int) -> list[list[Part]]:
    """Parts that follow each other, together as far as they fit."""
    groups: list[list[Part]] = []
    room = 0
    for part in parts:
        if not groups or part.num_frames > room:
            groups.append([])
            room = shard_frames
        groups[-1].append(part)
        room -= part.num_frames
    return groups


def _column_types(corpora: Iterable[FinishedCorpus]) -> dict[str, str]:
    """One type for each column of metadata in any of the corpora, by the rule for the rows of a source."""
    types = ColumnTypes()
    for corpus in corpora:
        for table in corpus.tables():
            for name in table.column_names:
                for value in _extremes(table.column(name)) if name not in RESERVED else ():
                    types.add({name: value})
    return types.result()


def _extremes(values: pa.ChunkedArray) -> list[Any]:
    """Values of a column that decide its type as all of them would."""
    if values.null_count == len(values):
        return [None]
    if pa.types.is_integer(values.type):
        return list(pc.min_max(values).as_py().values())
    if pa.types.is_floating(values.type):
        return [0.0]
    return [True] if pa.types.is_boolean(values.type) else [""]


def _rows(part: Part, columns: Mapping[str, str]) -> pa.Table:
    """The rows of a part with the columns of the new corpus."""
    table = part.corpus.table(part.name)
    if part.rows is not None:
        table = table.take(pa.array(part.rows))
    made = {name: table.column(name) for name in RESERVED}
    if part.prefix:
        made["id"] = pa.array([part.prefix + id for id in made["id"].to_pylist()], pa.string())
    for name, type_name in columns.items():
        if name not in table.column_names:
            made[name] = pa.nulls(len(table), pa.type_for_alias(type_name))
        elif table.column(name).type == pa.type_for_alias(type_name):
            made[name] = table.column(name)
        else:
            made[name] = column(table.column(name).to_pylist(), type_name)
    return pa.table(made)
