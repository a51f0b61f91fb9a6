"""From audio to a dataset of codes: list, plan, tokenize shard by shard, finish. Any step may be the last of a run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial

from slm.corpus.config import CorpusConfig
from slm.corpus.engines.local import choose_devices, run_processes
from slm.corpus.engines.ray import check_ray, run_ray
from slm.corpus.folder import (
    abandon,
    begin,
    check_out,
    clear_left_overs,
    finish,
    is_finished,
    load_plan,
    usable,
    write_rejects,
)
from slm.corpus.job import Job, Step, make_shards
from slm.corpus.locks import held, planning
from slm.corpus.log import Log
from slm.corpus.output import Output
from slm.corpus.plan import PLAN_FILES, NothingUsableError, Plan, PlannedShard, count_kinds
from slm.corpus.planning import PlanSettings, make_plan
from slm.corpus.progress import Progress
from slm.corpus.shards import shard_name
from slm.corpus.sources import Source, open_source
from slm.corpus.summary import CorpusSummary, describe_skipped, sum_up, summarize
from slm.corpus.tally import Tally, TooManyRejectsError, check_number
from slm.errors import UsageError
from slm.tokenizers import Tokenizer, load_tokenizer
from slm.types import TokenizerSpec

_PLANNED_EVERY_S = 10.0
_READERS_OF_AN_ACTOR = 2  # how many cores its machine has is not known here

Engine = Callable[[Job, Sequence[int], Callable[[Step], None]], None]


def tokenize_corpus(config: CorpusConfig, tokenizer: Tokenizer | None = None) -> CorpusSummary:
    """Make the corpus of `config`, or what is left to make of it; on a finished one only read its summary.

    `tokenizer` stands in for the one that `config` names. Raises UsageError for wrong use, before any work, and when no
    clip at all is left; StoppedError; TooManyRejectsError; RuntimeError when the tokenizer itself is at fault.
    """
    output = Output(config.out)
    source = open_source(config.audio, config.source, **config.source_settings)
    spec, num_workers, engine = _engine(config, tokenizer)
    check_out(output, spec)
    with ExitStack() as stack:
        with usable(output):
            is_alone = stack.enter_context(held(output, config.part))
        check_out(output, spec)  # again: another run may have ended in between
        plan = _find_or_make_plan(config, output, source, spec)
        if source.skipped:
            _say(f"skipped: {describe_skipped(source.skipped)}")
        job = Job(output.location, plan.base, os.getcwd(), spec, config.batch_seconds, num_workers)
        try:
            summary = replace(_make(config, output, plan, job, engine), skipped=source.skipped)
        except TooManyRejectsError as error:
            write_rejects(output.folder, error.rejects)
            output.send("rejects.jsonl")
            raise
        if output.is_remote and is_alone():  # else other parts are at work there
            output.close()
    return summary


def _make(config: CorpusConfig, output: Output, plan: Plan, job: Job, engine: Engine) -> CorpusSummary:
    """Make what is not there yet; with the last shard, finish."""
    speed = None
    if is_finished(output, plan):
        _say(f"{config.out} is finished: nothing to do")
    else:
        speed = _tokenize(config, output, plan, job, engine)
    summary = replace(_summarize(config, output, plan, job.spec), real_time_factor=speed)
    if summary.num_missing_shards:
        return summary
    if summary.num_clips == 0:
        abandon(output)
        raise NothingUsableError(count_kinds(summary.rejects), summary.rejects[0])
    check_number(summary.rejects, config.allowed_rejects(plan.head.num_rows))
    with planning(output, config.part):  # of parts that end at once, one finishes
        if not is_finished(output, plan):
            finish(output, summary, plan, config.audio)
        clear_left_overs(output)  # also of a run that finds all finished, and its own lock
    return summary


def _engine(config: CorpusConfig, given: Tokenizer | None) -> tuple[TokenizerSpec, int, Engine]:
    """The spec of the tokenizer, how many processes read for each one that holds it, and what makes shards."""

    def load(device: str) -> Tokenizer:
        return given or load_tokenizer(config.tokenizer, device, **config.tokenizer_settings)

    if config.engine == "ray":
        check_ray()
        run = partial(run_ray, device=config.device, processes=config.processes, address=config.ray_address)
        return load("cpu").spec, _READERS_OF_AN_ACTOR if config.num_workers is None else config.num_workers, run
    devices = [""] if given else choose_devices(config.device, config.processes)
    if len(devices) > 1:  # it is loaded here for what it says of itself
        return load("cpu").spec, config.readers(len(devices)), partial(run_processes, devices=devices)
    tokenizer = load(devices[0])
    return tokenizer.spec, config.readers(), partial(make_shards, tokenizer=tokenizer)


def _find_or_make_plan(config: CorpusConfig, output: Output, source: Source, spec: TokenizerSpec) -> Plan:
    settings = PlanSettings(config.shard_hours, config.segmentation)
    # Of the parts of a folder only those wait for each other that find no plan.
    if not output.is_remote and (plan := load_plan(output, settings, source)):
        return plan
    with planning(output, config.part):
        output.bring()
        if plan := load_plan(output, settings, source):
            return plan
        is_new = "tokenizer.json" not in output.names()  # else the parts of a plan that lie there are kept
        begin(output, spec)
        try:
            made = make_plan(output.folder, source, spec, settings, config.readers(), _planning_progress())
        except UsageError as error:
            if is_new or isinstance(error, NothingUsableError):
                abandon(output)
            raise
        output.send(*PLAN_FILES)
        return made


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _planning_progress() -> Callable[[int], None]:
    """Says now and then how many clips have been looked at."""
    last = time.monotonic()

    def say(clips: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _PLANNED_EVERY_S:
            last = time.monotonic()
            _say(f"planning: {clips:,} clips looked at")

    return say


def _shards(config: CorpusConfig, plan: Plan) -> list[PlannedShard]:
    """Those that this run is to make."""
    return [shard for shard in plan.shards if config.part is None or config.part.has(shard.index)]


def _tokenize(config: CorpusConfig, output: Output, plan: Plan, job: Job, engine: Engine) -> float:
    """Make the shards that are not there yet; how many times real time that went."""
    there, shards = output.names(), _shards(config, plan)
    done = [shard for shard in shards if shard_name(plan, shard) in there]
    left = [shard.index for shard in shards if shard_name(plan, shard) not in there]
    rejects, proven = list(plan.rejects()), False
    for shard in done:
        record = output.record(shard_name(plan, shard))
        rejects += record.rejects
        proven |= record.num_clips > 0
    if done:
        _say(f"going on: {len(done)} of {len(shards)} shards are there")
    output.bring(config.log_name)
    log = Log(output.folder / config.log_name)
    log.write("start", options=asdict(config), clips=plan.head.num_rows, shards=len(shards), shards_there=len(done))
    total_s, done_s = (sum(shard.duration_s for shard in some) for some in (shards, done))
    tally = Tally(Progress(total_s, done_s, len(rejects)), log, rejects, config.allowed_rejects(plan.head.num_rows))
    try:
        with tally.progress:
            tally.check()
            engine(replace(job, proven=proven), left, tally.add)
        log.write("end", rejects=len(tally.rejects))
    except BaseException as error:
        log.write("stopped", reason=f"{type(error).__name__}: {error}")
        raise
    finally:
        output.send(log.path.name)
    return tally.progress.real_time_factor


def _summarize(config: CorpusConfig, output: Output, plan: Plan, spec: TokenizerSpec) -> CorpusSummary:
    """Of all shards, or where some are still to be made by other runs, of those of this one."""
    there = output.names()
    missing = [shard for shard in plan.shards if shard_name(plan, shard) not in there]
    shards = _shards(config, plan) if missing else plan.shards
    records = (output.record(shard_name(plan, shard)) for shard in shards)
    made = sum_up(output.folder, spec, records, ()) if missing else summarize(output.folder, spec, plan, records)
    return replace(made, location=output.location, num_missing_shards=len(missing))
