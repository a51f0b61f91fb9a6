"""`python -m slm.tokenizers` lists the tokenizers; `fit` and `import-kmeans` after it make k-means centroids."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from slm.config import run_command
from slm.errors import UsageError
from slm.tokenizers._fit_command import FitConfig, ImportConfig, fit, import_kmeans
from slm.tokenizers.base import TOKENIZERS


@dataclass(frozen=True)
class ListConfig:
    """List the audio tokenizers: codebook sizes at frame rate, sample rate, decoder, what is needed.

    `python -m slm.tokenizers fit --help` tells how to fit the centroids of a k-means tokenizer, `import-kmeans --help`
    how to import those of others.
    """


def list_tokenizers(config: ListConfig) -> None:
    names = TOKENIZERS.names()
    width = max(len(name) for name in names)
    for name in names:
        try:
            cls = TOKENIZERS.get(name)
        except UsageError as error:  # a broken plug-in: the others are there
            print(f"{name:<{width}}  {error}")
            continue
        first_line = (inspect.getdoc(cls) or "").partition("\n")[0]
        print(f"{name:<{width}}  {cls.about.get(name, first_line)}")


COMMANDS: dict[str, tuple[Callable[[Any], None], type[Any]]] = {
    "fit": (fit, FitConfig),
    "import-kmeans": (import_kmeans, ImportConfig),
}


def main(argv: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] and args[0] in COMMANDS:
        command, config = COMMANDS[args[0]]
        run_command(command, config, args[1:], prog=f"python -m slm.tokenizers {args[0]}")
    if args and not args[0].startswith("-"):
        known = " and ".join(f"`{name}`" for name in COMMANDS)
        print(f"error: unknown command {args[0]!r}; there are {known}, and without one the list", file=sys.stderr)
        sys.exit(2)
    run_command(list_tokenizers, ListConfig, args, prog="python -m slm.tokenizers")


if __name__ == "__main__":
    main()
