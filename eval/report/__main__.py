"""python -m eval.report RESULTS... --out SITE: a site of pages that open from disk, about models and tokenizers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from slm.config import reader_may_leave, status_told
from slm.errors import StoppedError, UsageError


def main(argv: list[str] | None = None) -> int:
    about = "A static site about one or several models and tokenizers: open SITE/index.html, no server, no network."
    parser = argparse.ArgumentParser(prog="python -m eval.report", description=about)
    parser.add_argument(
        "results", nargs="+", metavar="RESULTS",
        help="a folder written by eval/run.py --out (of one or of several models), by train_lm.py (its training curve) "
        "or by tokenize_corpus.py (its statistics)",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="SITE", help="folder to write: index.html, and all it needs")
    parser.add_argument("--samples", type=int, default=30, metavar="N", help="show N recordings at most (30)")
    args = parser.parse_args(argv)
    from eval.report.plots import INSTALL, plotly_script
    from eval.report.site import build_site

    try:
        if args.samples < 0 or not args.out:
            raise UsageError("--samples must be 0 or more" if args.out else "--out is empty: give a folder")
        made = build_site([Path(r) for r in args.results], Path(args.out), args.samples)
    except (UsageError, StoppedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        return 130
    except (OSError, UnicodeEncodeError) as error:
        if not (status := status_told(error)):
            raise
        return status
    if plotly_script() is None:
        print(f"plots are tables only, because plotly is not installed: {INSTALL}", file=sys.stderr)
    print(made)
    return 0


if __name__ == "__main__":
    with reader_may_leave():
        sys.exit(main())
