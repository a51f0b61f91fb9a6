"""OUT/results.json: every result of one model, with everything needed to compare or repeat it."""

from __future__ import annotations

import platform
from collections import defaultdict
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.benchmarks.base import Result
from slm import __version__
from slm.errors import UsageError
from slm.files import read_json, write_json
from slm.types import TokenizerSpec

if TYPE_CHECKING:
    from slm.spoken_lm import SpokenLM

FORMAT = 1
LIBRARIES = ("torch", "transformers", "datasets", "numpy", "pyarrow", "soundfile", "soxr")


def open_results(out: Path, lm: SpokenLM, model: str) -> dict[str, Any]:
    """What OUT holds already for this model, or a new record. UsageError where OUT is about another model."""
    path = out / "results.json"
    old = read_results(out) if path.is_file() else {"results": []}
    if old["results"] and old["model"]["fingerprint"] != lm.fingerprint:
        raise UsageError(
            f"{out} holds results of another model ({old['model']['path']}, {old['model']['fingerprint'][:12]}); "
            "choose another --out, or remove it"
        )
    return {
        "format": FORMAT,
        "versions": versions(),
        "model": {"path": model, "fingerprint": lm.fingerprint, "convention": lm.convention},
        "tokenizer": {**asdict(lm.spec), "frame_rate_hz": lm.spec.frame_rate_hz, "bitrate_bps": lm.spec.bitrate_bps},
        "corpus": old.get("corpus"),
        "results": old["results"],
    }


def add_result(record: dict[str, Any], result: Result, config: Any, baselines: dict[str, str],
               generated: dict[str, Any] | None) -> None:  # fmt: skip
    """Put a result in, in the place of an earlier one of the same benchmark and split.

    `baselines` are the fingerprints of the other scorers; `generated` says how a synthetic benchmark was made.
    """
    same = (result.benchmark, result.split)
    kept = [r for r in record["results"] if (r["benchmark"], r["split"]) != same]
    made = {
        **result.to_dict(),
        "baselines": baselines,
        "generated": generated,
        "config": asdict(config),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    record["results"] = [*kept, made]


def describe_corpus(path: Path, spec: TokenizerSpec) -> dict[str, Any]:
    """Hours, codes and the use of each codebook of a tokenized corpus, from what its shards say of themselves.

    UsageError for a folder that is no finished corpus, and for one of another tokenizer than `spec`.
    """
    from slm.corpus.plan import Plan
    from slm.corpus.shards import read_record, shard_path
    from slm.corpus.summary import summarize
    from slm.data.store import CodeStore
    from slm.tokenizers import check_same_spec

    check_same_spec(spec, CodeStore(path).spec)
    plan = Plan.from_dict(read_json(path / "plan.json"))
    records = [read_record(shard_path(path, plan, shard)) for shard in plan.shards]
    summary = summarize(path, spec, plan, records, defaultdict(int))
    return {
        "path": str(path),
        "clips": summary.num_clips,
        "hours": summary.duration_s / 3600,
        "codes": summary.num_codes,
        "bitrate_bps": spec.bitrate_bps,
        "entropy_bitrate_bps": summary.entropy_bitrate_bps,
        "clips_left_out": len(summary.rejects),
        "codebooks": [{**asdict(c), "perplexity": c.perplexity} for c in summary.codebooks],
    }


def write_results(out: Path, record: dict[str, Any]) -> None:
    write_json(out / "results.json", record)


def read_results(out: Path) -> dict[str, Any]:
    """UsageError for a folder that holds none, or ones of another format."""
    path = out / "results.json"
    if not path.is_file():
        raise UsageError(f"no results.json in {out}; make one with eval/run.py --out {out}")
    record = read_json(path)
    if record.get("format") != FORMAT:
        raise UsageError(f"{path} has format {record.get('format')!r}, not {FORMAT}; run eval/run.py again")
    return record


def versions() -> dict[str, str]:
    made = {"slm": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            made[library] = version(library)
        except PackageNotFoundError:
            continue
    return made
