"""`python -m slm.model push` sends a checkpoint to the Hugging Face hub."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from slm.config import name_words, run_command, spell_out_flags
from slm.errors import did_you_mean
from slm.model.push import PushConfig, push

PROG = "python -m slm.model"


def main(argv: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(f"{__doc__}\n\n{PROG} push --help tells more.")
        sys.exit(0)
    if args[0] != "push":
        print(f"error: no command {args[0]!r}{did_you_mean(args[0], ['push'])}", file=sys.stderr)
        sys.exit(2)
    options = name_words(spell_out_flags(args[1:], PushConfig), ("checkpoint", "repo_id"), PushConfig)
    run_command(push, PushConfig, options, prog=f"{PROG} push")


if __name__ == "__main__":
    main()
