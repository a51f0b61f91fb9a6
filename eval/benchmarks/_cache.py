"""Files that a benchmark makes of its data set once: kept between runs, and made by one process where several start."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from glob import escape
from pathlib import Path
from typing import Any

from slm.files import atomic_directory, locked, read_json, write_json


def made_once(folder: Path, make: Callable[[Path], Any]) -> Any:
    """What `make(folder)` says (JSON-able) of the files that it wrote there. Only what is whole is ever there; whoever
    comes while it is made waits."""
    said = folder / "made.json"
    if not said.is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / f".{folder.name}.lock") as alone:
            if alone:  # what is half-made was left by a process that is gone, and may be many gigabytes
                for stale in folder.parent.glob(f".{escape(folder.name)}.tmp-{platform.node()}-*"):
                    shutil.rmtree(stale, ignore_errors=True)
            if not said.is_file():
                with atomic_directory(folder) as place:
                    write_json(place / "made.json", make(place))
    return read_json(said)
