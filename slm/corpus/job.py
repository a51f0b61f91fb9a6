"""Making shards: the same code in this process, in processes beside it and on the machines of a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from slm.corpus.encoding import EncodedShard, encode_shards
from slm.corpus.output import Output
from slm.corpus.plan import Plan, Reject
from slm.corpus.readers import Readers
from slm.corpus.shards import shard_name, write_shard
from slm.tokenizers import Tokenizer
from slm.types import TokenizerSpec


@dataclass(frozen=True)
class Job:
    """What it takes to make shards of a corpus, in any process that reaches its audio and its output.

    `base` is where the source lies, `cwd` what relative paths are relative to; `num_workers` processes read for each
    tokenizer; `proven` says that the tokenizer has coded clips of this corpus before.
    """

    out: str
    base: str
    cwd: str
    spec: TokenizerSpec
    batch_seconds: float
    num_workers: int
    proven: bool = False


@dataclass(frozen=True)
class Step:
    """What was done since the last one: seconds of audio dealt with, clips of them left out, a shard finished."""

    duration_s: float = 0.0
    rejects: tuple[Reject, ...] = ()
    shard: int | None = None


def make_shards(
    job: Job,
    indices: Iterable[int],
    on_step: Callable[[Step], None],
    tokenizer: Tokenizer,
    readers: Readers | None = None,
) -> None:
    """Make the shards of these indices in the plan, writing one while the next is encoded; `indices` are asked for as
    reading gets to them, and `readers` read, as in `encode_shards`. Raises as that, and what `on_step` raises."""
    output = Output(job.out)
    output.bring()
    plan = Plan(output.folder, job.base)

    def write(made: EncodedShard) -> Step:
        name = shard_name(plan, made.shard)
        write_shard(output.folder / name, plan, job.spec, made.codes, made.clips, made.rejects)
        output.send(name)
        return Step(shard=made.shard.index)

    members = ((plan.shards[index], plan.clips(plan.shards[index])) for index in indices)
    writing: Future[Step] | None = None
    with ThreadPoolExecutor(1) as writer:
        for made in encode_shards(
            members,
            tokenizer,
            job.batch_seconds,
            job.num_workers,
            job.proven,
            lambda duration_s, rejects: on_step(Step(duration_s, rejects)),
            readers,
        ):
            if writing is not None:
                on_step(writing.result())
            writing = writer.submit(write, made)
        if writing is not None:
            on_step(writing.result())


def go_to(cwd: str) -> None:
    """Make relative paths mean what they do where the command was given; a machine without that folder has none."""
    if os.path.isdir(cwd):
        os.chdir(cwd)
