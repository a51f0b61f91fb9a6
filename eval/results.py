"""OUT/results.json: every result of one model, with everything needed to compare or repeat it."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.benchmarks.base import Result
from eval.record import Kind, check_record, fault
from slm import __version__
from slm.errors import UsageError
from slm.files import plain_json, read_json, write_json

if TYPE_CHECKING:
    import numpy as np

    from slm.corpus.plan import Plan
    from slm.data.store import CodeStore
    from slm.spoken_lm import SpokenLM

FORMAT = 2
_CLIPS_AT_ONCE = 1 << 14
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
        "model": {"path": model, "fingerprint": lm.fingerprint, "convention": lm.convention},
        "tokenizer": {**asdict(lm.spec), "frame_rate_hz": lm.spec.frame_rate_hz, "bitrate_bps": lm.spec.bitrate_bps},
        "corpus": old.get("corpus"),
        "results": old["results"],
        "failed": old.get("failed", []),
    }


def add_result(record: dict[str, Any], result: Result, config: Any, fingerprints: dict[str, str],
               generated: dict[str, Any] | None) -> None:  # fmt: skip
    """Put a result in, in the place of an earlier one of the same benchmark and split.

    `fingerprints` are those of the scorers; `generated` says how a synthetic benchmark was made. ValueError for a
    result that no page could show, as a benchmark of another package may make it.
    """
    same = (result.benchmark, result.split)
    kept = [r for r in record["results"] if (r["benchmark"], r["split"]) != same]
    made = {
        **result.to_dict(),
        "fingerprints": fingerprints,
        "generated": generated,
        "config": asdict(config),
        "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if found := fault(plain_json(made), "result"):
        raise ValueError(f"{result.benchmark}: its result is not as eval/results.schema.yaml says, {found}")
    record["results"] = [*kept, made]
    record["failed"] = [f for f in record.get("failed", ()) if f["benchmark"] != result.benchmark]


def other_data(record: dict[str, Any], result: Result) -> str | None:
    """A line, where the earlier result whose place this one takes is about another list of items."""
    same = (result.benchmark, result.split)
    for old in record["results"]:
        if (old["benchmark"], old["split"]) == same and old["item_list_sha256"] != result.item_list_sha256:
            return (
                f"{result.benchmark}, {result.split}: takes the place of a result about other items (list "
                f"{old['item_list_sha256'][:12]} of {old['created']}, now {result.item_list_sha256[:12]}); to keep "
                "both, give another --out"
            )
    return None


def describe_corpus(path: Path, lm: SpokenLM) -> dict[str, Any]:
    """Hours, codes and the use of each codebook of a tokenized corpus, from what its shards say of themselves, and
    whether `lm` was trained on it.

    UsageError for a folder that is no finished corpus, and for one of another tokenizer than the model's.
    """
    from slm.corpus.shards import read_record, shard_path
    from slm.corpus.summary import summarize
    from slm.tokenizers import check_same_spec

    (store, plan), spec = check_corpus(path), lm.spec
    check_same_spec(spec, store.spec)
    records = [read_record(shard_path(path, plan, shard)) for shard in plan.shards]
    summary = summarize(path, spec, plan, records)
    return {
        "path": str(path),
        "trained_on": was_trained_on(lm, store, sum(record.counts[0] for record in records)),
        "clips": summary.num_clips,
        "hours": summary.duration_s / 3600,
        "codes": summary.num_codes,
        "bitrate_bps": spec.bitrate_bps,
        "entropy_bitrate_bps": summary.entropy_bitrate_bps,
        "clips_left_out": len(summary.rejects),
        "codebooks": [{**asdict(c), "perplexity": c.perplexity} for c in summary.codebooks],
    }


def check_corpus(path: Path) -> tuple[CodeStore, Plan]:
    """A tokenized corpus, opened. UsageError for a folder that is none, or not finished."""
    from slm.corpus.plan import Plan
    from slm.data.store import CodeStore

    try:
        store = CodeStore(path)
    except UsageError as error:
        raise UsageError(f"--corpus: {error}") from None
    try:
        return store, Plan(path)
    except (OSError, UsageError):
        raise UsageError(f"--corpus {path}: plan.json is not one that this version wrote; tokenize it again") from None


def was_trained_on(lm: SpokenLM, store: CodeStore, counts: np.ndarray | int) -> bool:
    """Whether the code counts of the corpus, less the clips held out, are those that the checkpoint recorded. `counts`
    are those of codebook 0, as its shards say, so that only what is held out is read."""
    import numpy as np

    from slm.data.documents import hold_out

    if np.array_equal(counts, lm.statistics.frames):  # nothing is held out where there are clips to evaluate on
        return True
    _, held = hold_out(store.ids, lm.record.training.get("eval_fraction", 0.0))
    for start in range(0, len(held), _CLIPS_AT_ONCE):
        some = held[start : start + _CLIPS_AT_ONCE]
        codes = store.frames.gather(some, np.zeros_like(some), store.num_frames[some])
        counts = counts - np.bincount(codes[:, 0], minlength=lm.spec.codebook_sizes[0])
    return np.array_equal(counts, lm.statistics.frames)


def write_results(out: Path, record: dict[str, Any]) -> None:
    write_json(out / "results.json", record)


def read_results(out: Path) -> dict[str, Any]:
    """UsageError for a folder that holds none, or ones of another format."""
    path = out / "results.json"
    if not path.is_file():
        raise UsageError(f"no results.json in {out}; make one with eval/run.py --out {out}")
    record = read_object(path)
    if record.get("format") != FORMAT:
        raise UsageError(
            f"{path} has format {record.get('format')!r}, not {FORMAT}; remove it and run eval/run.py again"
        )
    check_record(path, record, "results")
    return record


def read_checked(path: Path, kind: Kind) -> dict[str, Any]:
    """A record of one kind; UsageError for what is none."""
    record = read_object(path)
    check_record(path, record, kind)
    return record


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from disk; UsageError for what is none."""
    try:
        value = read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not JSON ({error}): it was cut or edited; remove it and make it again") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} is not a JSON object; remove it and make it again")
    return value


def versions() -> dict[str, str]:
    made = {"slm": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            made[library] = version(library)
        except PackageNotFoundError:
            continue
    return made
