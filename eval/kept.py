"""Scores that outlive the run: what a model makes of codes goes to disk in parts as it comes.

A run that is killed loses at most the part that it was in; started again, it scores what is missing. Several processes
share the parts among them. OUT/scored/MODEL-HASH/part-HASH.parquet holds, for each document, the hash of its codes
and every log-probability; HASH covers weights, tokenizer and precision, so that nothing there can be another model's.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eval.processes import ALONE, Processes
from slm.files import atomic_file
from slm.types import CodeLogProbs, Codes, Scorer, stable_hash

FORMAT = 1
PART_CODES = 131_072  # a GPU's few seconds, and enough for it to pack well
QUIET_S = 5.0  # between two lines of progress


class KeptScorer:
    """A scorer whose answers are kept in `folder`; what is there is not asked again.

    `fingerprint` says who the scorer is. Documents are asked in the order of their codes, so that those with a common
    beginning come together: it is then computed once (`slm.scoring`).
    """

    def __init__(self, scorer: Scorer, fingerprint: str, folder: Path, name: str = "model",
                 processes: Processes = ALONE, part_codes: int = PART_CODES):  # fmt: skip
        self.scorer, self.fingerprint, self.name = scorer, fingerprint, name
        self.processes, self.part_codes = processes, part_codes
        precision = str(getattr(scorer, "precision", "float32"))
        self.folder = folder / f"{name}-{stable_hash([FORMAT, fingerprint, precision])[:12]}"

    def score_codes(self, codes: Sequence[Codes]) -> list[CodeLogProbs]:
        """Log-probabilities of codes, those that are kept or those that the scorer gives now."""
        wanted: dict[str, Codes] = {}
        keys = [document_key(c) for c in codes]
        for key, c in zip(keys, codes, strict=True):
            wanted.setdefault(key, c)
        self.processes.wait()  # nobody writes while one still looks what is there
        known = self._read(wanted)
        missing = [key for key in wanted if key not in known]
        self.processes.wait()
        if missing:
            self._score({key: wanted[key] for key in missing}, known)
        self.processes.wait()
        if self.processes.count > 1:
            known |= self._read({key: c for key, c in wanted.items() if key not in known})
        return [replace(known[key], id=c.id, duration_s=c.duration_s) for key, c in zip(keys, codes, strict=True)]

    def _score(self, missing: Mapping[str, Codes], known: dict[str, CodeLogProbs]) -> None:
        """Score this process' parts of what is missing, and keep each when it is whole."""
        parts = list(self._parts(missing))
        mine = parts[self.processes.rank :: self.processes.count]
        total, done, progress = sum(map(len, mine)), 0, Progress(self.name)
        for part in mine:
            scored = {s.id: s for s in self.scorer.score_codes([replace(missing[key], id=key) for key in part])}
            made = [scored[key] for key in part]
            if not any(np.isnan(s.log_probs).any() or np.isnan(s.eos_log_probs).any() for s in made):
                self._write(part, made)
            known.update(zip(part, made, strict=True))
            done += len(part)
            if self.processes.is_main:
                progress.tell(done, total)

    def _parts(self, missing: Mapping[str, Codes]) -> Iterator[list[str]]:
        """Keys in the order of their codes, cut where a part has codes enough: so many that each process has one."""
        total = sum(c.codes.size for c in missing.values())
        enough = min(self.part_codes, -(-total // self.processes.count))
        part: list[str] = []
        held = 0
        for key in sorted(missing, key=lambda k: (_order(missing[k]), k)):
            part.append(key)
            held += missing[key].codes.size
            if held >= enough:
                yield part
                part, held = [], 0
        if part:
            yield part

    def _write(self, keys: Sequence[str], scored: Sequence[CodeLogProbs]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(
            {
                "key": list(keys),
                "books": [s.log_probs.shape[1] for s in scored],
                "log_probs": pa.array([s.log_probs.reshape(-1) for s in scored], pa.list_(pa.float64())),
                "eos_log_probs": pa.array([s.eos_log_probs for s in scored], pa.list_(pa.float64())),
            }
        )
        with atomic_file(self.folder / f"part-{stable_hash(list(keys))[:16]}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")

    def _read(self, wanted: Mapping[str, Codes]) -> dict[str, CodeLogProbs]:
        """Those of `wanted` that are kept."""
        import pyarrow.parquet as pq

        found: dict[str, CodeLogProbs] = {}
        for path in sorted(self.folder.glob("part-*.parquet")) if wanted else ():
            keys = pq.read_table(path, columns=["key"])["key"].to_pylist()
            if wanted.keys().isdisjoint(keys):
                continue
            table = pq.read_table(path)
            books, values, ends = (table[name] for name in ("books", "log_probs", "eos_log_probs"))
            for i, key in enumerate(keys):
                if key in wanted:
                    log_probs = values[i].values.to_numpy().reshape(-1, books[i].as_py())
                    found[key] = CodeLogProbs(key, log_probs, ends[i].values.to_numpy(), wanted[key].duration_s)
        return found


class Progress:
    """Lines on standard error: how many of how many, how fast, how long yet."""

    def __init__(self, name: str):
        self.name, self.started, self.told = name, time.monotonic(), 0.0

    def tell(self, done: int, total: int) -> None:
        """At most every few seconds, and nothing about work that was over before the first line."""
        now = time.monotonic()
        if now - max(self.told, self.started) < QUIET_S and (done < total or not self.told):
            return
        self.told = now
        speed = done / (now - self.started)
        left = "" if done == total else f", {(total - done) / speed:.0f} s left"
        print(f"{self.name}: {done:,} of {total:,} items scored, {speed:,.1f}/s{left}", file=sys.stderr, flush=True)


def _order(codes: Codes) -> bytes:
    """Sorts as the codes themselves do."""
    return np.ascontiguousarray(codes.codes, ">u4").tobytes()


def document_key(codes: Codes) -> str:
    """Of the codes themselves, whatever their name."""
    array = np.ascontiguousarray(codes.codes)
    return hashlib.sha256(f"{array.shape} {array.dtype} ".encode() + array.tobytes()).hexdigest()[:32]
