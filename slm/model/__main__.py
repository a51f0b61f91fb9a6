"""`python -m slm.model COMMAND`: what is done with a checkpoint that train_lm.py has made."""

from __future__ import annotations

from collections.abc import Sequence

from slm.config import Command, run_one_of
from slm.model.push import PushConfig, push

COMMANDS: dict[str, Command] = {"push": (push, PushConfig, ("checkpoint", "repo_id"))}


def main(argv: Sequence[str] | None = None) -> None:
    run_one_of(COMMANDS, "python -m slm.model", "What is done with a trained model:", argv)


if __name__ == "__main__":
    main()
