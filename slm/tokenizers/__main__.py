"""`python -m slm.tokenizers` lists the tokenizers, and tells about the one whose name follows; `check` holds
one to the laws; `fit` and `import-kmeans` make k-means centroids."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from slm.config import run_command, spell_out_flags
from slm.tokenizers._catalogue import ListConfig, list_tokenizers
from slm.tokenizers._check_command import CheckConfig, check
from slm.tokenizers._fit_command import FitConfig, ImportConfig, fit, import_kmeans
from slm.tokenizers._page import ShowConfig, show

PROG = "python -m slm.tokenizers"
COMMANDS: dict[str, tuple[Callable[[Any], int | None], type[Any]]] = {
    "check": (check, CheckConfig),
    "fit": (fit, FitConfig),
    "import-kmeans": (import_kmeans, ImportConfig),
}


def main(argv: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0].startswith("-"):
        run_command(list_tokenizers, ListConfig, spell_out_flags(args, ListConfig), prog=PROG)
    elif args[0] in COMMANDS:
        command, config = COMMANDS[args[0]]
        run_command(command, config, args[1:], prog=f"{PROG} {args[0]}")
    else:
        page = partial(show, args[0], COMMANDS)
        run_command(page, ShowConfig, spell_out_flags(args[1:], ShowConfig), prog=f"{PROG} {args[0]}")


if __name__ == "__main__":
    main()
