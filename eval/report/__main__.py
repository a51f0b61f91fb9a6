"""python -m eval.report RESULTS_DIR... --out SITE: one page about one or several models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from slm.errors import UsageError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.report", description="One page about one or several models.")
    parser.add_argument("results", nargs="+", metavar="RESULTS_DIR", help="a folder written by eval/run.py --out")
    parser.add_argument("--out", required=True, metavar="SITE", help="folder to write: index.html, and audio beside it")
    args = parser.parse_args(argv)
    from eval.report.page import build_page

    try:
        print(build_page([Path(r) for r in args.results], Path(args.out)))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
