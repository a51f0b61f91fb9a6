"""From audio to a dataset of codes: list, plan, tokenize shard by shard, finish. Any step may be the last of a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from slm.corpus.config import CorpusConfig
from slm.corpus.contents import digest_files
from slm.corpus.folder import abandon, begin, check_out, exclusive, finish, is_finished, load_plan
from slm.corpus.local import encode_shards
from slm.corpus.plan import NothingUsableError, Plan, PlannedShard, hash_source, make_plan
from slm.corpus.progress import Progress
from slm.corpus.shards import read_record, shard_path, write_shard
from slm.corpus.sources import SourceClip, list_source
from slm.corpus.summary import CorpusSummary, describe_skipped, summarize
from slm.devices import choose_device
from slm.tokenizers import Tokenizer, load_tokenizer


def tokenize_corpus(config: CorpusConfig, tokenizer: Tokenizer | None = None) -> CorpusSummary:
    """Make the corpus of `config`, or what is left to make of it; on a finished one only read its summary.

    `tokenizer` stands in for the one that `config` names. Raises UsageError for wrong use, before any work, and
    when no clip at all is left; RuntimeError when the tokenizer itself is at fault.
    """
    out = Path(config.out)
    source = list_source(config.audio)
    if source.skipped:
        _say(f"skipped: {describe_skipped(source.skipped)}")
    if tokenizer is None:
        tokenizer = load_tokenizer(config.tokenizer, choose_device(config.device), **config.tokenizer_settings)
    check_out(out, tokenizer.spec)
    with exclusive(out):
        check_out(out, tokenizer.spec)  # again: another run may have ended in between
        plan = _find_or_make_plan(config, out, source.clips, tokenizer)
        finished = is_finished(out, plan)
        if finished:
            _say(f"{out} is finished: nothing to do")
        real_time_factor = None if finished else _tokenize(config, out, plan, source.clips, tokenizer)
        summary = _summarize(out, tokenizer, plan, source.clips)
        summary = replace(summary, real_time_factor=real_time_factor, skipped=source.skipped)
        if summary.num_clips == 0:
            abandon(out, plan)
            raise NothingUsableError(summary.rejects)
        if not finished:
            finish(summary, plan, config.audio)
    return summary


def _find_or_make_plan(config: CorpusConfig, out: Path, clips: Sequence[SourceClip], tokenizer: Tokenizer) -> Plan:
    source_hash = hash_source(config.audio, clips)
    files = digest_files(config.audio, clips, _num_workers(config))
    plan = load_plan(out, config.shard_hours, source_hash, files, clips)
    if plan is None:
        plan = _make_plan(config, clips, source_hash, files, tokenizer)
        begin(out, tokenizer.spec, plan)
    return plan


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _num_workers(config: CorpusConfig) -> int:
    return config.num_workers or min(8, os.cpu_count() or 1)


def _make_plan(
    config: CorpusConfig, clips: Sequence[SourceClip], source_hash: str, files: Mapping[str, str], tokenizer: Tokenizer
) -> Plan:
    def on_probed(probed: int) -> None:
        if probed < len(clips):
            _say(f"planning: {probed:,} of {len(clips):,} clips looked at")

    return make_plan(clips, source_hash, files, tokenizer.spec, config.shard_hours, _num_workers(config), on_probed)


def _tokenize(config: CorpusConfig, out: Path, plan: Plan, clips: Sequence[SourceClip], tokenizer: Tokenizer) -> float:
    """Make the shards that are not there yet; how many times real time that went."""
    done: list[PlannedShard] = []
    left: list[PlannedShard] = []
    for shard in plan.shards:
        (done if shard_path(out, plan, shard).is_file() else left).append(shard)
    records = [read_record(shard_path(out, plan, shard)) for shard in done]
    if done:
        _say(f"going on: {len(done)} of {len(plan.shards)} shards are there")
    by_id = {clip.id: clip for clip in clips}
    rejects = len(plan.rejects) + sum(len(record.rejects) for record in records)
    proven = any(record.num_clips for record in records)
    with Progress(plan.duration_s, sum(shard.duration_s for shard in done), rejects) as progress:
        workers = _num_workers(config)
        for made in encode_shards(left, by_id, tokenizer, config.batch_seconds, workers, proven, progress.advance):
            path = shard_path(out, plan, made.shard)
            write_shard(path, plan, tokenizer.spec, made.codes, by_id, made.rejects)
        return progress.real_time_factor


def _summarize(out: Path, tokenizer: Tokenizer, plan: Plan, clips: Sequence[SourceClip]) -> CorpusSummary:
    order = {clip.id: i for i, clip in enumerate(clips)}
    records = (read_record(shard_path(out, plan, shard)) for shard in plan.shards)
    return summarize(out, tokenizer.spec, plan, records, order)
