"""`python -m slm.corpus COMMAND`: what is done with a corpus that tokenize_corpus.py has made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from slm.config import name_words, run_command, spell_out_flags
from slm.corpus.tools.check import CheckConfig, check
from slm.corpus.tools.merge import MergeConfig, merge
from slm.corpus.tools.push import PushConfig, push
from slm.corpus.tools.select import SelectConfig, select
from slm.corpus.tools.stats import StatsConfig, stats
from slm.errors import did_you_mean

PROG = "python -m slm.corpus"
# Name -> what runs, its options, and which of these the words after the name stand for.
COMMANDS: dict[str, tuple[Callable[[Any], int | None], type[Any], tuple[str, ...]]] = {
    "check": (check, CheckConfig, ("corpus",)),
    "stats": (stats, StatsConfig, ("corpus",)),
    "merge": (merge, MergeConfig, ("corpora",)),
    "select": (select, SelectConfig, ("corpus",)),
    "push": (push, PushConfig, ("corpus", "repo_id")),
}


def main(argv: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(overview())
        sys.exit(0)
    if args[0] not in COMMANDS:
        print(f"error: no command {args[0]!r}{did_you_mean(args[0], COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    command, config, words = COMMANDS[args[0]]
    options = name_words(spell_out_flags(args[1:], config), words, config)
    run_command(command, config, options, prog=f"{PROG} {args[0]}")


def overview() -> str:
    """The first line about each command."""
    about = {name: str(config.__doc__).partition("\n")[0] for name, (_, config, _) in COMMANDS.items()}
    lines = [f"  {name:<8}{line}" for name, line in about.items()]
    return "\n".join(["What is done with a tokenized corpus:", "", *lines, "", f"{PROG} COMMAND --help tells more."])


if __name__ == "__main__":
    main()
