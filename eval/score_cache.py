"""Scores that outlive the run: what a model makes of codes goes to disk in parts as it comes.

A run that is killed loses at most the part that it was in; started again, it scores what is missing. Several processes
share the parts among them. OUT/scored/MODEL-HASH/part-HASH.parquet holds, for each document, the hash of what the
model reads and every log-probability; HASH covers weights, tokenizer, precision and the versions of the libraries that
compute, so that nothing there can be another's. A part that cannot be read is removed, and scored again.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from eval.likelihoods import document_of, is_finite, score_read
from eval.processes import ALONE, Processes
from eval.progress import Progress
from slm.errors import UsageError
from slm.files import atomic_file
from slm.types import CodeLogProbs, Codes, Scorer, stable_hash

FORMAT = 2
PART_CODES = {"cpu": 16_384, "cuda": 131_072}
"""A GPU's few seconds, and enough for it to pack well; of a CPU, which takes minutes for them where a model is large,
fewer: as many are lost where a run is killed."""
LIBRARIES = ("torch", "transformers")  # which another version of may round otherwise


class CachedScorer:
    """A scorer whose answers are kept in `folder`; what is there is not asked again.

    `fingerprint` says who the scorer is. Documents are asked in the order of what the model reads, so that those with a
    common beginning come together: it is then computed once (`slm.scoring`). Clips of which it reads the same are one.
    """

    def __init__(self, scorer: Scorer, fingerprint: str, folder: Path, name: str = "model",
                 processes: Processes = ALONE, part_codes: int | None = None):  # fmt: skip
        self.scorer, self.fingerprint, self.name, self.processes = scorer, fingerprint, name, processes
        device = str(getattr(scorer, "device", "unknown"))
        self.part_codes = part_codes or PART_CODES.get(device.partition(":")[0], PART_CODES["cuda"])
        precision = str(getattr(scorer, "precision", "float32"))
        versions = {library: version(library) for library in LIBRARIES}
        self.metadata = {**versions, "precision": precision, "device": device}
        self.folder = folder / f"{name}-{stable_hash([FORMAT, fingerprint, precision, versions])[:12]}"

    def document(self, codes: Codes) -> np.ndarray:
        """What the model reads of a clip: its units, where it says so."""
        return document_of(self.scorer, codes)

    def score_codes(self, codes: Sequence[Codes]) -> list[CodeLogProbs]:
        """Log-probabilities of codes, those that are kept or those that the scorer gives now. UsageError where another
        process could not give its share."""
        return self.score_documents(codes, [self.document(c) for c in codes])

    def score_documents(self, codes: Sequence[Codes], documents: Sequence[np.ndarray]) -> list[CodeLogProbs]:
        """The same of clips whose `document` is there already."""
        wanted: dict[str, Codes] = {}
        keys = [document_key(d) for d in documents]
        for key, c in zip(keys, codes, strict=True):
            wanted.setdefault(key, c)
        read = dict(zip(keys, documents, strict=True))
        self.processes.wait()  # nobody writes while one still looks what is there
        known = self._read(wanted)
        missing = [key for key in wanted if key not in known]
        self.processes.wait()
        if missing:
            self._score({key: wanted[key] for key in missing}, read, known)
        self.processes.wait()
        if self.processes.count > 1:
            known |= self._read({key: c for key, c in wanted.items() if key not in known})
        if lacking := wanted.keys() - known.keys():
            raise UsageError(
                f"{self.name}: {len(lacking):,} of {len(wanted):,} clips got no finite log-probabilities in another "
                "process; what it says above tells why"
            )
        return [replace(known[key], id=c.id, duration_s=c.duration_s) for key, c in zip(keys, codes, strict=True)]

    def _score(self, missing: Mapping[str, Codes], documents: Mapping[str, np.ndarray],
               known: dict[str, CodeLogProbs]) -> None:  # fmt: skip
        """Score this process' parts of what is missing, and keep each when it is whole."""
        parts = list(self._parts(missing, documents))
        mine = parts[self.processes.rank :: self.processes.count]
        total, done, progress = sum(map(len, mine)), 0, Progress(self.name, "items scored")
        for part in mine:
            named, read = [replace(missing[key], id=key) for key in part], [documents[key] for key in part]
            scored = {s.id: s for s in score_read(self.scorer, named, read)}
            made = [scored[key] for key in part]
            if all(is_finite(s) for s in made):
                self._write(part, made)
            known.update(zip(part, made, strict=True))
            done += len(part)
            if self.processes.is_main:
                progress.tell(done, total)

    def _parts(self, missing: Mapping[str, Codes], documents: Mapping[str, np.ndarray]) -> Iterator[list[str]]:
        """Keys in the order of their codes, cut where a part has codes enough: so many that each process has one."""
        total = sum(documents[key].size for key in missing)
        enough = min(self.part_codes, -(-total // self.processes.count))
        part: list[str] = []
        held = 0
        for key in sorted(missing, key=lambda k: (_order(documents[k]), k)):
            part.append(key)
            held += documents[key].size
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
            table = table.replace_schema_metadata(self.metadata)
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)

    def _read(self, wanted: Mapping[str, Codes]) -> dict[str, CodeLogProbs]:
        """Those of `wanted` that are kept. A damaged part is removed."""
        import pyarrow as pa

        found: dict[str, CodeLogProbs] = {}
        for path in sorted(self.folder.glob("part-*.parquet")) if wanted else ():
            try:
                found |= _read_part(path, wanted)
            except FileNotFoundError:  # another process removed it
                continue
            except PermissionError:
                raise
            except (pa.ArrowException, OSError, KeyError) as error:
                print(f"{path} is damaged ({error}): it is removed and scored again", file=sys.stderr, flush=True)
                path.unlink(missing_ok=True)
        return found


def _read_part(path: Path, wanted: Mapping[str, Codes]) -> dict[str, CodeLogProbs]:
    import pyarrow.parquet as pq

    keys = pq.read_table(path, columns=["key"], page_checksum_verification=True)["key"].to_pylist()
    if wanted.keys().isdisjoint(keys):
        return {}
    table = pq.read_table(path, page_checksum_verification=True)
    books, values, ends = (table[name] for name in ("books", "log_probs", "eos_log_probs"))
    found: dict[str, CodeLogProbs] = {}
    for i, key in enumerate(keys):
        if key in wanted:
            log_probs = values[i].values.to_numpy().reshape(-1, books[i].as_py())
            found[key] = CodeLogProbs(key, log_probs, ends[i].values.to_numpy(), wanted[key].duration_s)
    return found


def _order(document: np.ndarray) -> bytes:
    """Sorts as the units themselves do."""
    return np.ascontiguousarray(document, ">u4").tobytes()


def document_key(document: np.ndarray) -> str:
    """Of what the model reads, whatever the clip's name."""
    array = np.ascontiguousarray(document)
    return hashlib.sha256(f"{array.shape} {array.dtype} ".encode() + array.tobytes()).hexdigest()[:32]
