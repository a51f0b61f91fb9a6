"""Training checkpoints: whole or absent, found by themselves, exact."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from slm.errors import UsageError
from slm.files import atomic_directory, read_json, sync_tree, write_json
from slm.model.checkpoint import ModelRecord, save_model
from slm.model.statistics import CodeStatistics

_NAME = re.compile(r"step-(\d+)")


def start_run(out: Path, identity: Mapping[str, Any]) -> None:
    """Create the run's folder, or check that it holds this very run. UsageError names everything that differs."""
    file = out / "run.json"
    if out.is_file():
        raise UsageError(f"--out {out} is a file; give a folder")
    if file.is_file():
        found = read_json(file)
        differing = [
            f"{key}: {found.get(key)!r} there, {identity.get(key)!r} now"
            for key in sorted({*found, *identity})
            if found.get(key) != identity.get(key)
        ]
        if differing:
            remedy = "resume it as it was, or use another --out"
            raise UsageError(f"{out} holds another run ({'; '.join(differing)}); {remedy}")
    elif out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty and holds no run; use another --out")
    else:
        try:
            write_json(file, dict(identity))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UsageError(f"--out {out} cannot be made: {error.strerror}") from error


def remove_left_overs(out: Path) -> None:
    """Delete what a killed process left half-written; for the main process, before any other writes.

    Only names that this module and `slm.files` give: the folder may yet turn out to be another's.
    """
    names = (
        ".run.json.tmp-*",
        ".metrics.jsonl.tmp-*",
        ".final.tmp-*",
        "checkpoints/.step-*.tmp",
        "checkpoints/.step-*.old",
    )
    for left_over in (path for name in names for path in out.glob(name)):
        shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()


def save_checkpoint(accelerator: Accelerator, out: Path, step: int, model: Any, record: ModelRecord,
                    statistics: CodeStatistics, keep: int) -> None:  # fmt: skip
    """Write `checkpoints/step-N` on all processes: the evaluable model, and in `state/` all that resuming needs."""
    final = out / "checkpoints" / f"step-{step:07d}"
    temporary = final.with_name(f".{final.name}.tmp")
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary / "state"))
    weights = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        _save_model(accelerator, temporary, model, record, statistics, weights)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        sync_tree(temporary)
        temporary.replace(final)
        for _, old in list_checkpoints(out)[:-keep]:
            hidden = old.with_name(f".{old.name}.old")  # a name that is no checkpoint, should this be interrupted
            old.replace(hidden)
            shutil.rmtree(hidden)
    accelerator.wait_for_everyone()


def save_final(
    accelerator: Accelerator, out: Path, model: Any, record: ModelRecord, statistics: CodeStatistics
) -> None:
    weights = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        with atomic_directory(out / "final") as folder:
            _save_model(accelerator, folder, model, record, statistics, weights)


def _save_model(accelerator: Accelerator, folder: Path, model: Any, record: ModelRecord, statistics: CodeStatistics,
                weights: Mapping[str, Any]) -> None:  # fmt: skip
    inner = accelerator.unwrap_model(model, keep_torch_compile=False)
    body = {name.removeprefix("causal_lm."): w for name, w in weights.items()}
    save_model(folder, inner.causal_lm, record, statistics, body)


def list_checkpoints(out: Path) -> list[tuple[int, Path]]:
    """Whole checkpoints, oldest first (a half-written one has a hidden name)."""
    folder = out / "checkpoints"
    found = [(int(m[1]), p) for p in (folder.iterdir() if folder.is_dir() else ()) if (m := _NAME.fullmatch(p.name))]
    return sorted(found)


def load_latest(accelerator: Accelerator, out: Path) -> int:
    """Restore the newest checkpoint into everything that was prepared; the number of steps it has done, 0 if none."""
    found = list_checkpoints(out)
    if not found:
        return 0
    step, folder = found[-1]
    accelerator.load_state(str(folder / "state"))
    return step
