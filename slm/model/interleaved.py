"""Models of text and units together that slamkit published (SIMS, arXiv 2504.02398), read as they are.

Such a folder is that of a `UnitLM` whose vocabulary is that of a text tokenizer, then the units `<Un0>`, `<Un1>`, ..,
then `<speech>` and `<text>` (slamkit at 388b402, `interleaving_tokeniser.py`). The text tokenizer is the one in the
folder, or else that of `base_model_name`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from slm.errors import UsageError
from slm.files import read_json
from slm.hub import download
from slm.model.slamkit import MAX_UNITS, declared_spec, is_slamkit, read_body, with_rows
from slm.types import stable_hash

SPEECH, TEXT = "<speech>", "<text>"
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json")
_REMEDY = "put the text tokenizer that the model was trained with (tokenizer.json, tokenizer_config.json) beside it"


def is_interleaved(folder: Path) -> bool:
    """Whether it is slamkit's, and has a vocabulary too large for units alone, or a tokenizer of text beside it."""
    if not is_slamkit(folder):
        return False
    size = read_json(folder / "config.json").get("vocab_size")
    if isinstance(size, int) and size > MAX_UNITS:
        return True
    file = folder / TEXT_FILES[0]
    said = file.read_text(encoding="utf-8") if file.is_file() else json.dumps(_unit(0))
    return json.dumps(_unit(0)) not in said or json.dumps(SPEECH) in said


@dataclass(frozen=True)
class TextAndUnits:
    """How text and units become one row of ids: as slamkit does, by the text tokenizer, on one string."""

    tokenizer: Any
    num_units: int

    @classmethod
    def read(cls, folder: Path) -> TextAndUnits:
        """UsageError where there is no text tokenizer, or one of another vocabulary."""
        size, source = int(read_json(folder / "config.json")["vocab_size"]), _text_source(folder)
        try:
            tokenizer = _read_tokenizer(source)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"{folder}: the text tokenizer in {source} cannot be read ({reason}); {_REMEDY}") from None
        known = tokenizer.get_vocab()
        num_units = known[SPEECH] - known[_unit(0)] if {SPEECH, _unit(0)} <= known.keys() else size - len(tokenizer) - 2
        if not 0 < num_units <= MAX_UNITS:
            raise UsageError(
                f"{folder}: a vocabulary of {size} is not that of units beside the {len(tokenizer)} tokens of "
                f"{source}; {_REMEDY}"
            )
        tokenizer.add_tokens([*map(_unit, range(num_units)), SPEECH, TEXT])
        made = cls(tokenizer, num_units)
        last = made.ids([_unit(0), _unit(num_units - 1), SPEECH, TEXT])[-4:]
        if len(tokenizer) != size or last != [size - num_units - 2, size - 3, size - 2, size - 1]:
            raise UsageError(f"{folder}: its text tokenizer does not keep units apart; slm does not read such a one")
        return made

    @property
    def size(self) -> int:
        return len(self.tokenizer)

    @property
    def first_unit(self) -> int:
        return self.size - self.num_units - 2

    @cached_property
    def begin(self) -> list[int]:
        """What stands before a clip of speech alone: what the text tokenizer begins with, or else `<speech>`, so that
        the first unit is predicted too."""
        return self.ids([]) or [self.size - 2]

    @cached_property
    def fingerprint(self) -> str:
        return stable_hash([sorted(self.tokenizer.get_vocab().items()), self.ids(["A b c. Déjà 12!"])])

    def ids(self, parts: Sequence[str]) -> list[int]:
        """Of one string, with what the text tokenizer puts before and behind."""
        return [int(i) for i in self.tokenizer("".join(parts))["input_ids"]]

    def mixed(self, parts: Sequence[tuple[str, str | np.ndarray]]) -> np.ndarray:
        """Parts in their order, `SPEECH` with units `[R, 1]` or `TEXT` with a text -> ids `[S]`. A marker stands where
        the kind changes; texts that follow each other touch, as in slamkit."""
        said: list[str] = []
        before = ""
        for kind, content in parts:
            if kind != before:
                said.append(kind)
            said += [content] if isinstance(content, str) else [_unit(u) for u in content[:, 0].tolist()]
            before = kind
        return np.array(self.ids(said), np.int64)

    def speech(self, units: np.ndarray) -> np.ndarray:
        """Units `[R, 1]` of a clip of speech alone -> ids `[B + R]`, `begin` first."""
        return np.concatenate([self.begin, units[:, 0].astype(np.int64) + self.first_unit])


def _text_source(folder: Path) -> Path:
    """The folder of the text tokenizer. UsageError where it is on the hub, and cannot be had."""
    if any((folder / name).is_file() for name in TEXT_FILES):
        return folder
    name = str(read_json(folder / "config.json").get("base_model_name"))
    if Path(name).is_dir():
        return Path(name)
    try:
        return download(name, ("tokenizer*", "vocab*", "merges*", "special_tokens*", "config.json"))
    except UsageError as error:
        raise UsageError(
            f"{folder}: a model of text and units, whose text tokenizer is that of {name} ({error}); {_REMEDY}"
        ) from None


def _read_tokenizer(folder: Path) -> Any:
    """Without what transformers says of a config.json that is not its own."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    finally:
        logging.set_verbosity(before)


def _unit(number: int) -> str:
    return f"<Un{number}>"


def read_text_settings(folder: Path) -> dict[str, Any]:
    """What `ModelRecord` takes, as `slm.model.slamkit.read_settings`."""
    config = read_json(folder / "config.json")
    return {
        "tokenizer": declared_spec(TextAndUnits.read(folder).num_units),
        "pattern_name": "flat",
        "dedup": True,
        "training": {"published_by": "slamkit", "base_model": config.get("base_model_name")},
    }


def load_interleaved(folder: Path) -> Any:
    """The body in float32, its rows as they are, and behind them the three special ids of this package, which are
    never predicted: the softmax runs over slamkit's vocabulary."""
    size = int(read_json(folder / "config.json")["vocab_size"])
    body = read_body(folder, size, {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1})
    return with_rows(body, np.append(np.arange(size), [0, 0, 0]), range(size, size + 3))
