"""`python eval/run.py --tokenizer A,B --benchmarks reconstruction --data DIR --out OUT`, which needs no model.

Without `--tokenizer`, DIR holds pairs: ground truth and reconstructions side by side (`eval.reconstruction.pairs`).
"""

from __future__ import annotations

import inspect
import json
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.benchmarks.base import LeftOut
from eval.config import EvalConfig
from eval.judges.answers import FOLDER
from eval.judges.pool import JudgePool, deaths_are_told, is_broken
from eval.metrics.signals import DOMAINS, SignalMetric
from eval.processes import ALONE
from eval.reconstruction.judging import Bench, Found, begin_domain, take_next
from eval.reconstruction.material import Piece, domain_of, find_recordings
from eval.reconstruction.opinions import Opinions
from eval.reconstruction.pairs import find_pairs
from eval.reconstruction.results import NAME, result_of
from eval.reconstruction.scoring import chosen_metrics, pool
from eval.reconstruction.settings import Reconstruction
from eval.reconstruction.sources import Recorded, RoundTrip, Source
from eval.reconstruction.table import points_of, tables
from eval.several import Attempts, Failure
from slm.errors import UsageError
from slm.files import write_json, write_text
from slm.tokenizers.base import TOKENIZERS

if TYPE_CHECKING:
    from slm.tokenizers.base import Tokenizer

Sources = Iterator[tuple[int | None, bool, Source]]
"""A number of codebooks, whether these are all, and what makes something of recordings with them."""
NO_MODEL = {"pattern": {"name": "none: no model"}, "dedup": False}


def main(config: EvalConfig) -> None:
    """Material and names are checked first; results are kept after each tokenizer. One that fails costs itself only:
    that is told at once and at the end, by UsageError or StoppedError."""
    from slm.files import check_folder

    out, settings = Path(config.out), config.reconstruction
    check_folder(out)
    chosen = chosen_metrics(settings.metrics)
    names = _names(config.tokenizer)
    if names:
        pieces, unread = find_recordings(Path(config.data), settings)
        systems: dict[str, list[Piece]] = dict.fromkeys(names, pieces)
        left_out = dict.fromkeys(names, unread)
    else:
        systems, left_out = find_pairs(Path(config.data), settings)
    attempts, folders, rest = Attempts(ALONE, len(systems)), list[Path](), deque(systems)
    while rest:  # again, where a process that judges was killed
        with _bench(config, chosen) as bench:
            while rest and not (attempts.last_failed and is_broken(bench.workers)):
                name = rest.popleft()
                if len(systems) > 1:
                    print(f"{len(systems) - len(rest)} of {len(systems)}: {name}", file=sys.stderr, flush=True)
                folder = out / name if len(systems) > 1 else out
                with attempts.apart(name), deaths_are_told(), _kept_what_was_made(bench):
                    check_folder(folder)
                    if names:
                        made = _judge_tokenizer(name, names[name], systems[name], config, bench, folder, left_out[name])
                    else:
                        made = _judge_recordings(name, systems[name], config, bench, folder, left_out[name])
                    _keep(made, folder)
                    folders.append(folder)
                if attempts.last_failed:
                    _keep_failure(attempts.failures[-1], folder)
    if folders:
        _tell(folders, attempts.failures, out)
    attempts.report()


@contextmanager
def _bench(config: EvalConfig, chosen: Sequence[SignalMetric]) -> Iterator[Bench]:
    settings = config.reconstruction
    with (
        pool(settings.workers) as workers,
        closing(JudgePool(settings.workers if workers else 1, workers)) as judges,
    ):
        opinions = Opinions(settings, _device(config), Path(config.out) / FOLDER, judges)
        yield Bench(settings, [m for m in chosen if not m.missing()], workers, opinions)


@contextmanager
def _kept_what_was_made(bench: Bench) -> Iterator[None]:
    """Of a tokenizer that fails: what is being judged is waited for and kept, for a run that goes on."""
    try:
        yield
    except Exception:
        for _ in range(len(bench.waiting)):
            with suppress(Exception):  # the first error is told
                take_next(bench)
        raise


def _names(given: str | None) -> dict[str, str]:
    """A short name for each tokenizer given. UsageError for two of one name, and for one that nobody knows."""
    sources = [word.strip() for word in (given or "").split(",") if word.strip()]
    made = {Path(source).stem if source.endswith((".yaml", ".yml")) else source: source for source in sources}
    if len(made) < len(sources):
        raise UsageError(f"--tokenizer {given}: give each once, and files of different names")
    for source in sources:  # before hours with those before it
        if not source.endswith((".yaml", ".yml")):
            TOKENIZERS.get(source)
        elif not Path(source).is_file():
            raise UsageError(f"no such tokenizer file: {source}")
    return made


def _device(config: EvalConfig) -> str:
    from slm.devices import choose_device

    return choose_device(config.device)


def _judge_tokenizer(name: str, source: str, pieces: Sequence[Piece], config: EvalConfig, bench: Bench, folder: Path,
                     left_out: Sequence[LeftOut]) -> dict[str, Any]:  # fmt: skip
    from slm.tokenizers import load_tokenizer

    device = _device(config)
    given = {"vocoder": config.vocoder} if config.vocoder else {}
    whole = load_tokenizer(source, device, **given)
    if not whole.spec.has_decoder:
        raise UsageError(
            f"tokenizer {name!r} has no decoder: nothing comes back of its codes; give --vocoder, or another tokenizer"
        )

    def load(codebooks: int) -> Tokenizer:
        if codebooks == whole.spec.num_codebooks:
            return whole
        return load_tokenizer(source, device, num_codebooks=codebooks, **given)

    counts = codebook_counts(whole, config.reconstruction)
    spec = whole.spec
    record = {
        "model": {"path": name, "fingerprint": spec.fingerprint, "convention": NO_MODEL, "kind": "tokenizer"},
        "tokenizer": {**asdict(spec), "frame_rate_hz": spec.frame_rate_hz, "bitrate_bps": spec.bitrate_bps},
    }
    sources: Callable[[], Sources] = lambda: ((k, k == spec.num_codebooks, RoundTrip(load(k))) for k in counts)  # noqa: E731
    return record | {"results": _results(sources, pieces, config, bench, folder, left_out, spec.fingerprint)}


def codebook_counts(tokenizer: Tokenizer, settings: Reconstruction) -> list[int]:
    """How many codebooks to use, ascending. UsageError for a number that the tokenizer does not have."""
    every = tokenizer.spec.num_codebooks
    takes = "num_codebooks" in inspect.signature(type(tokenizer)).parameters
    possible = sorted({*(tokenizer.codebook_counts if takes else ()), every})
    if not settings.counts:
        return [k for k in possible if k == every or not k & (k - 1)]
    if wrong := [k for k in settings.counts if k not in possible]:
        raise UsageError(
            f"--reconstruction.codebooks: {tokenizer.spec.name} cannot do with {wrong[0]} codebooks, only with "
            f"{', '.join(map(str, possible))}"
        )
    return list(settings.counts)


def _judge_recordings(name: str, pieces: Sequence[Piece], config: EvalConfig, bench: Bench, folder: Path,
                      left_out: Sequence[LeftOut]) -> dict[str, Any]:  # fmt: skip
    record = {
        "model": {"path": name, "fingerprint": "", "convention": NO_MODEL, "kind": "recordings"},
        "tokenizer": {"name": name, "fingerprint": "", "codebook_sizes": [], "frame_rate_hz": 0.0,
                      "bitrate_bps": None, "sample_rate_hz": None, "taxonomy": {}},
    }  # fmt: skip
    sources: Callable[[], Sources] = lambda: iter([(None, True, Recorded())])  # noqa: E731
    return record | {"results": _results(sources, pieces, config, bench, folder, left_out, "")}


def _results(sources: Callable[[], Sources], pieces: Sequence[Piece], config: EvalConfig, bench: Bench, folder: Path,
             left_out: Sequence[LeftOut], fingerprint: str) -> list[dict[str, Any]]:  # fmt: skip
    """One result for each domain there is."""
    from eval.results import add_result

    by_domain = {d: [p for p in pieces if p.domain == d] for d in DOMAINS}
    founds: dict[str, list[Found]] = {d: [] for d, own in by_domain.items() if own}
    before: Callable[[], None] | None = None
    for codebooks, whole, source in sources():
        for domain, all_found in founds.items():
            found = Found(domain, codebooks, whole)
            all_found.append(found)
            print(f"{NAME}: {found.name}: {len(by_domain[domain]):,} recordings", file=sys.stderr, flush=True)
            finish = begin_domain(source, by_domain[domain], found, bench, folder / NAME)
            if before:
                before()
            before = partial(_finish, finish, found, bench)
    if before:
        before()
    record: dict[str, Any] = {"results": []}
    for domain, all_found in founds.items():
        own = _left_out_of(domain, left_out, founds, config.reconstruction.domain)
        result = result_of(domain, all_found, bench, config.bootstrap, config.seed, own)
        add_result(record, result, config, {"model": fingerprint}, None)
    lines = [_line(one, found) for all_found in founds.values() for found in all_found for one in found.judged]
    write_text(folder / NAME / "items.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return record["results"]


def _left_out_of(domain: str, left_out: Sequence[LeftOut], shown: Collection[str], otherwise: str) -> list[LeftOut]:
    """Of one domain, and of those of which nothing is shown: else nobody would name them."""
    domains = [domain_of(Path(one.item), otherwise) for one in left_out]
    return [one for one, own in zip(left_out, domains, strict=True) if own == domain or own not in shown]


def _finish(finish: Callable[[], None], found: Found, bench: Bench) -> None:
    finish()
    print(f"{NAME}: {found.name}: {told_time(found, bench)}", file=sys.stderr, flush=True)


def told_time(found: Found, bench: Bench) -> str:
    """What took how long, and how much of it an earlier run had done."""
    if not found.time["pieces"]:
        return "all had been judged before"
    before, time_s = int(found.time["before"]), found.time
    return (
        f"{time_s['clock']:.1f} s (tokenizer {time_s['tokenizer']:.1f} s, metrics {time_s['metrics']:.1f} s in "
        f"{bench.opinions.judges.workers} processes)" + (f"; {before:,} had been judged before" if before > 0 else "")
    )


def _line(judged: Any, found: Found) -> dict[str, Any]:
    """A piece as a row of items.jsonl: each measure as a number, where it says one."""
    return {
        "item": judged.pair_id,
        "file": judged.group,
        "domain": judged.domain,
        "codebooks": found.codebooks,
        "values": {name: n / d for name, (n, d) in sorted(judged.values.items()) if d},
        "undefined": dict(judged.undefined),
        "delay_s": judged.delay.delay_s,
        "delay_by": judged.delay.by,
        "correlation": judged.delay.correlation,
        "corrected_s": judged.lag / found.sample_rate_hz,
        "length_s": judged.length_s,
    }


def _keep(made: dict[str, Any], folder: Path) -> None:
    """Into results.json, in the place of what was there of the same tokenizer. UsageError for another's folder."""
    from eval.results import FORMAT, read_results, write_results

    record = {"format": FORMAT, **made, "corpus": None}
    if (folder / "results.json").is_file():
        old = read_results(folder)
        if (old["model"]["path"], old["model"]["fingerprint"]) != (record["model"]["path"],
                                                                   record["model"]["fingerprint"]):  # fmt: skip
            raise UsageError(f"{folder} holds results of {old['model']['path']}; choose another --out, or remove it")
        new = {(r["benchmark"], r["split"]) for r in record["results"]}
        record["results"] = [
            *(r for r in old["results"] if (r["benchmark"], r["split"]) not in new), *record["results"]
        ]  # fmt: skip
    write_results(folder, record)


def _keep_failure(failure: Failure, folder: Path) -> None:
    """Into results.json, where an earlier run left one, until it is judged again."""
    from eval.results import read_results, write_results

    if (folder / "results.json").is_file():
        created = datetime.now(UTC).isoformat(timespec="seconds")
        failed = [{"benchmark": NAME, "reason": failure.reason, "created": created}]
        write_results(folder, {**read_results(folder), "failed": failed})


def _tell(folders: Sequence[Path], failures: Sequence[Failure], out: Path) -> None:
    """The tables of all, on disk and on the screen, and the page, with what failed."""
    from eval.report.page import build_page
    from eval.results import read_results

    records = [read_results(folder) for folder in folders]
    points = [point for record in records for point in points_of(record)]
    failed = [{"system": failure.model, "reason": failure.reason} for failure in failures]
    write_json(out / "reconstruction.json", {"points": points, "failures": failed})
    text = tables(points, failed)
    write_text(out / "reconstruction.md", text)
    build_page(folders, out, failures=[asdict(failure) for failure in failures])
    print(f"{text}\ntables: {out / 'reconstruction.md'}\npage:   {out / 'index.html'}", flush=True)
