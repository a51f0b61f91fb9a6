"""From audio to a dataset of codes: list, plan, tokenize shard by shard, finish. Any step may be the last of a run."""

from __future__ import annotations

import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from slm.corpus.config import CorpusConfig
from slm.corpus.encoding import EncodedShard, encode_shards
from slm.corpus.folder import abandon, begin, check_out, exclusive, finish, is_finished, load_plan
from slm.corpus.plan import NothingUsableError, Plan, count_kinds
from slm.corpus.planning import PlanSettings, make_plan
from slm.corpus.progress import Progress
from slm.corpus.shards import read_record, shard_path, write_shard
from slm.corpus.sources import Source, open_source
from slm.corpus.summary import CorpusSummary, describe_skipped, summarize
from slm.devices import choose_device
from slm.tokenizers import Tokenizer, load_tokenizer


def tokenize_corpus(config: CorpusConfig, tokenizer: Tokenizer | None = None) -> CorpusSummary:
    """Make the corpus of `config`, or what is left to make of it; on a finished one only read its summary.

    `tokenizer` stands in for the one that `config` names. Raises UsageError for wrong use, before any work, and
    when no clip at all is left; RuntimeError when the tokenizer itself is at fault.
    """
    out = Path(config.out)
    source = open_source(config.audio, config.source, **config.source_settings)
    if tokenizer is None:
        tokenizer = load_tokenizer(config.tokenizer, choose_device(config.device), **config.tokenizer_settings)
    check_out(out, tokenizer.spec)
    with exclusive(out):
        check_out(out, tokenizer.spec)  # again: another run may have ended in between
        plan = _find_or_make_plan(config, out, source, tokenizer)
        if source.skipped:
            _say(f"skipped: {describe_skipped(source.skipped)}")
        finished = is_finished(out, plan)
        if finished:
            _say(f"{out} is finished: nothing to do")
        real_time_factor = None if finished else _tokenize(config, out, plan, tokenizer)
        records = (read_record(shard_path(out, plan, shard)) for shard in plan.shards)
        summary = summarize(out, tokenizer.spec, plan, records)
        summary = replace(summary, real_time_factor=real_time_factor, skipped=source.skipped)
        if summary.num_clips == 0:
            abandon(out)
            raise NothingUsableError(count_kinds(summary.rejects), summary.rejects[0])
        if not finished:
            finish(summary, plan, config.audio)
    return summary


def _find_or_make_plan(config: CorpusConfig, out: Path, source: Source, tokenizer: Tokenizer) -> Plan:
    settings = PlanSettings(config.shard_hours, config.segmentation)
    if plan := load_plan(out, settings, source):
        return plan
    begin(out, tokenizer.spec)
    try:
        return make_plan(out, source, tokenizer.spec, settings, _num_workers(config), _say_planned)
    except NothingUsableError:
        abandon(out)
        raise


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _say_planned(clips: int) -> None:
    if clips >= 10_000:
        _say(f"planning: {clips:,} clips looked at")


def _num_workers(config: CorpusConfig) -> int:
    return min(8, os.cpu_count() or 1) if config.num_workers is None else config.num_workers


def _tokenize(config: CorpusConfig, out: Path, plan: Plan, tokenizer: Tokenizer) -> float:
    """Make the shards that are not there yet, writing one while the next is encoded; how many times real time that
    went."""
    done = [shard for shard in plan.shards if shard_path(out, plan, shard).is_file()]
    left = [shard for shard in plan.shards if shard not in done]
    records = [read_record(shard_path(out, plan, shard)) for shard in done]
    if done:
        _say(f"going on: {len(done)} of {len(plan.shards)} shards are there")
    rejects = plan.num_rejects + sum(len(record.rejects) for record in records)
    proven = any(record.num_clips for record in records)

    def write(made: EncodedShard) -> None:
        path = shard_path(out, plan, made.shard)
        write_shard(path, plan, tokenizer.spec, made.codes, made.clips, made.rejects)

    with (
        Progress(plan.duration_s, sum(shard.duration_s for shard in done), rejects) as progress,
        ThreadPoolExecutor(1) as writer,
    ):
        writing: Future[None] | None = None
        members = ((shard, plan.clips(shard)) for shard in left)
        workers = _num_workers(config)
        for made in encode_shards(members, tokenizer, config.batch_seconds, workers, proven, progress.advance):
            if writing is not None:
                writing.result()
            writing = writer.submit(write, made)
        if writing is not None:
            writing.result()
        return progress.real_time_factor
