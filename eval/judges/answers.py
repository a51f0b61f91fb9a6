"""What judges said, kept on disk: a second run asks only about what is new.

An answer is found by the sound that was heard (or the text that was read), and lies in a file of its judge, whose name
is a hash of everything that makes the judge who it is. A device or a batch size is none of that: they move an answer
by no more than rounding.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.judges.base import Judge
from slm.files import append_json_lines, read_json_lines
from slm.types import AudioClip, stable_hash

FORMAT = 1
FOLDER = "judged"


class Answers:
    """By key, in memory, and as lines of a file where there is one. A line that a killed run left unfinished is as if
    it were not there; two processes may add to one file."""

    def __init__(self, file: Path | None = None):
        self.file = file
        self.known = {key: unpacked(answer) for key, answer in read_json_lines(file)} if file else {}

    def add(self, answers: Mapping[str, Any]) -> None:
        """Into memory, and to the end of the file in one piece."""
        self.known |= answers
        if self.file is not None:
            append_json_lines(self.file, ([key, packed(answer)] for key, answer in answers.items()))


def answers_of(judge: Judge, question: str, folder: Path | None) -> Answers:
    """What is kept of a judge's answers to one kind of question; nothing is kept without a folder."""
    if folder is None:
        return Answers()
    who = stable_hash([FORMAT, question, identity_of(judge)])
    return Answers(folder / f"{judge.name.replace('/', '-')}-{question}-{who[:16]}.jsonl")


def identity_of(judge: Judge | Any) -> list[Any]:
    """What makes it the judge that it is: its record, and the state of its weights where they lie in a folder."""
    record = judge.record()
    return [record.to_dict(), _state(Path(record.checkpoint))]


def _state(folder: Path) -> list[list[Any]]:
    """Of weights that lie in a folder: their names, sizes and times, since others may be put there."""
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.glob("*") if path.is_file())
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def key_of(item: Any) -> str:
    """Of a clip: its rate and samples, whatever it is called. Of texts: these."""
    if isinstance(item, AudioClip):
        digest = hashlib.sha256(str(item.sample_rate_hz).encode())
        digest.update(np.ascontiguousarray(item.samples, np.float32).tobytes())
        return digest.hexdigest()[:40]
    return stable_hash(item)[:40]


def packed(answer: Any) -> Any:
    """As JSON has it; arrays to the last bit."""
    if isinstance(answer, np.ndarray):
        data = base64.b64encode(answer.tobytes()).decode()
        return {"array": data, "dtype": str(answer.dtype), "shape": list(answer.shape)}
    return answer


def unpacked(answer: Any) -> Any:
    if isinstance(answer, dict) and "array" in answer:
        found = np.frombuffer(base64.b64decode(answer["array"]), answer["dtype"])
        return found.reshape(answer["shape"]).copy()
    return answer


def distinct(items: Sequence[Any]) -> tuple[list[str], dict[str, Any]]:
    """The key of each, and one item for each key, in their order."""
    keys = [key_of(item) for item in items]
    first: dict[str, Any] = {}
    for key, item in zip(keys, items, strict=True):
        first.setdefault(key, item)
    return keys, first
