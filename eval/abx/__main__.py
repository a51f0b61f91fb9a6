"""python -m eval.abx --tokenizer NAME --data ROOT --out DIR: ABX of a tokenizer's units, without any language model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.benchmarks.abx import ABX
from eval.benchmarks.base import Setup
from slm.config import run_command
from slm.errors import UsageError
from slm.files import check_folder, write_json

if TYPE_CHECKING:
    from slm.tokenizers.base import Tokenizer
    from slm.types import TokenizerSpec


@dataclass(frozen=True)
class AbxConfig:
    """ABX of a tokenizer's units: are two recordings of a phone closer to each other than to another phone?"""

    tokenizer: str
    """A registered name, or a YAML file (configs/tokenizers)."""
    data: str
    """Folder with .item files and the recordings that they name, by itself or as `abx`, `phonetic`, `abxLS-dataset`."""
    out: str
    """Folder to write: abx-SPLIT.json, and tokens/ (used again)."""
    split: str = "dev"
    """The .item files whose names hold it: dev, test, dev-clean, ..."""
    bootstrap: int = 1000
    """Resamples behind each 95 % interval, over pairs of phones."""
    seed: int = 0
    """Of resampling, and of what is drawn from large groups."""
    device: str = "auto"
    """auto (cuda where there is one, else cpu), cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        if self.bootstrap < 1:
            raise UsageError("--bootstrap must be 1 or more")
        if self.seed < 0:
            raise UsageError("--seed must be 0 or more")


@dataclass(frozen=True)
class Alone:
    """A tokenizer in the place of a language model that has it."""

    tokenizer: Tokenizer
    device: str

    @property
    def spec(self) -> TokenizerSpec:
        return self.tokenizer.spec


def main(config: AbxConfig) -> None:
    """The material is checked before the tokenizer is loaded."""
    from eval.report.table import result_table
    from eval.results import add_result
    from slm.devices import choose_device
    from slm.tokenizers import load_tokenizer

    benchmark, out = ABX(Setup(Path(config.data), config.split)), Path(config.out)
    check_folder(out)
    device = choose_device(config.device)
    alone = Alone(load_tokenizer(config.tokenizer, device), device)
    result = benchmark.judge(alone, out / "tokens", out, config.bootstrap, config.seed)
    path = out / f"abx-{config.split}.json"
    record: dict[str, Any] = {"tokenizer": alone.spec.to_dict(), "results": []}
    add_result(record, replace(result, about=f"{result.about} Units of {alone.spec.describe()}."), config, {}, None)
    write_json(path, record)
    print(f"{result_table(record['results'][0])}\n\nresults: {path}")


if __name__ == "__main__":
    run_command(main, AbxConfig, prog="python -m eval.abx")
