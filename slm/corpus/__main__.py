"""`python -m slm.corpus COMMAND`: what is done with a corpus that tokenize_corpus.py has made."""

from __future__ import annotations

from collections.abc import Sequence

from slm.config import Command, run_one_of
from slm.corpus.tools.check import CheckConfig, check
from slm.corpus.tools.merge import MergeConfig, merge
from slm.corpus.tools.push import PushConfig, push
from slm.corpus.tools.select import SelectConfig, select
from slm.corpus.tools.stats import StatsConfig, stats

COMMANDS: dict[str, Command] = {
    "check": (check, CheckConfig, ("corpus",)),
    "stats": (stats, StatsConfig, ("corpus",)),
    "merge": (merge, MergeConfig, ("corpora",)),
    "select": (select, SelectConfig, ("corpus",)),
    "push": (push, PushConfig, ("corpus", "repo_id")),
}


def main(argv: Sequence[str] | None = None) -> None:
    run_one_of(COMMANDS, "python -m slm.corpus", "What is done with a tokenized corpus:", argv)


if __name__ == "__main__":
    main()
