"""Training checkpoints: whole or absent, found by themselves, exact."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from slm import run_lock
from slm.errors import UsageError
from slm.files import atomic_directory, disk_named, read_json, sync_tree, write_json
from slm.model.checkpoint import ModelRecord, save_model
from slm.model.statistics import CodeStatistics
from slm.training.budget import Progress
from slm.training.ema import MovingAverage
from slm.training.engine import full_weights, is_sharded, strategy

_NAME = re.compile(r"step-(\d+)")
FIRST_AFTER_S = 120.0
"""Seconds from the start of a run to its first checkpoint, where no number of steps is given; the least between two."""
TIMES_ITS_COST = 60
"""So many times what the last checkpoint took lie between it and the next: 1.6 % of the time."""


def start_run(out: Path, identity: Mapping[str, Any]) -> None:
    """Create the run's folder, or check that it holds this very run. UsageError names everything that differs."""
    file = out / "run.json"
    if file.is_file():
        try:
            differing = list(_differing(dict(read_json(file)), identity))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{file} is damaged ({error}): bring it back, or use another --out") from error
        if differing:
            remedy = "resume it as it was, or use another --out"
            raise UsageError(f"{out} holds another run ({'; '.join(differing)}); {remedy}")
    elif out.exists() and any(inside.name != run_lock.NAME for inside in out.iterdir()):
        raise UsageError(f"{out} is not empty and holds no run; use another --out")
    else:
        write_json(file, dict(identity))


def _differing(found: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted({*found, *now}):
        there, here = found.get(key), now.get(key)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            yield from _differing(there, here, f"{prefix}{key}.")
        elif there != here:
            yield f"{prefix}{key}: {there!r} there, {here!r} now"


def remove_left_overs(out: Path) -> None:
    """Delete what a killed process left half-written, and why one stopped; for the main process, before any other
    writes.

    Only names that this module and `slm.files` give: the folder may yet turn out to be another's.
    """
    names = (
        ".run.json.tmp-*",
        ".metrics.jsonl.tmp-*",
        ".final.tmp-*",
        "checkpoints/.step-*.tmp",
        "checkpoints/.step-*.old",
        "samples/.step-*.tmp-*",
        "stopped.json",
    )
    for left_over in (path for name in names for path in out.glob(name)):
        shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()


@dataclass
class Checkpoints:
    """The checkpoints of one run. `statistics` is called on the main process, once, when the first is written."""

    accelerator: Accelerator
    out: Path
    model: Any
    record: ModelRecord
    statistics: Callable[[], CodeStatistics]
    average: MovingAverage | None
    keep: int
    figures: Mapping[str, float] = field(default_factory=dict)
    """Of the last evaluation: for the model card."""
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._saved_at, self._wait_s = self.clock(), FIRST_AFTER_S

    def is_due(self) -> bool:
        """Whether the last one lies so long ago that the next costs little of the time."""
        return self.clock() - self._saved_at >= self._wait_s

    def save(self, progress: Progress) -> None:
        """Write `checkpoints/step-N` on all processes: the evaluable model, and in `state/` all that resuming needs."""
        if self.accelerator.is_main_process:
            self.statistics()  # which reads the whole corpus, for the first one only: the next need not wait for it
        begun = self.clock()
        self._write(progress)
        self._saved_at = self.clock()
        self._wait_s = max(FIRST_AFTER_S, TIMES_ITS_COST * (self._saved_at - begun))

    def _write(self, progress: Progress) -> None:
        final = self.out / "checkpoints" / f"step-{progress.steps:07d}"
        temporary, main = final.with_name(f".{final.name}.tmp"), self.accelerator.is_main_process
        try:
            with disk_named(final):
                self._fill(temporary, progress)
                if main:
                    temporary.replace(final)
        finally:
            if main:  # what a full disk cut short would keep it full
                shutil.rmtree(temporary, ignore_errors=True)
        if main:
            self._drop_old()
        self.accelerator.wait_for_everyone()

    def _fill(self, temporary: Path, progress: Progress) -> None:
        main = self.accelerator.is_main_process
        if main:
            shutil.rmtree(temporary, ignore_errors=True)
            (temporary / "state").mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(temporary / "state"))
        if self.average is not None and (main or is_sharded(self.accelerator)):
            self.average.save(temporary / "state" / f"average-{self.accelerator.process_index}.safetensors")
        self._save_model(temporary)
        self.accelerator.wait_for_everyone()
        if main:
            sizes = {file.relative_to(temporary).as_posix(): file.stat().st_size
                     for file in temporary.rglob("*") if file.is_file()}  # fmt: skip
            values = {**asdict(progress), **self._division(), "files": sizes}
            write_json(temporary / "state" / "progress.json", values)
            sync_tree(temporary)

    def _drop_old(self) -> None:
        for _, old in list_checkpoints(self.out)[: -self.keep]:
            hidden = old.with_name(f".{old.name}.old")  # a name that is no checkpoint, should this be interrupted
            old.replace(hidden)
            shutil.rmtree(hidden)

    def save_final(self) -> None:
        if self.accelerator.is_main_process:
            with atomic_directory(self.out / "final") as folder:
                self._save_model(folder)
        else:
            self._save_model(self.out)
        self.accelerator.wait_for_everyone()  # where others are seen to end, a launcher stops the one that still writes

    def _save_model(self, folder: Path) -> None:
        """Into `folder`, by the main process; all take part, since weights may have to be gathered."""
        with self.average.applied() if self.average is not None else nullcontext():
            weights = full_weights(self.accelerator, self.model)
            if self.accelerator.is_main_process:
                inner = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
                body = {name.removeprefix("causal_lm."): w for name, w in weights.items()}
                save_model(folder, inner.causal_lm, self.record, self.statistics(), body, self.figures)

    def _division(self) -> dict[str, Any]:
        return {"processes": self.accelerator.num_processes, "strategy": strategy(self.accelerator)}

    def load_latest(self) -> Progress:
        """Restore the newest checkpoint into everything that was prepared, and say from where the run goes on."""
        newest = self._newest_whole()
        if newest is None:
            return Progress()
        state = newest / "state"
        values = read_json(state / "progress.json")
        values.pop("files", None)
        before = {key: values.pop(key) for key in self._division()}
        self._check_division(before)
        self.accelerator.load_state(str(state))
        if self.average is not None:
            process = self.accelerator.process_index if is_sharded(self.accelerator) else 0
            self.average.load(state / f"average-{process}.safetensors")
        return Progress(**values)

    def _newest_whole(self) -> Path | None:
        """The newest checkpoint that nothing has cut since it was written; newer ones are put aside, by name.

        UsageError where there are some, and none is whole: to begin again is not for us to decide.
        """
        found = [folder for _, folder in reversed(list_checkpoints(self.out))]
        damaged = {}
        for folder in found:
            reason = damage(folder)
            if reason is None:
                break
            damaged[folder] = reason
        told = "; ".join(f"{folder} is damaged ({reason})" for folder, reason in damaged.items())
        if damaged and len(damaged) == len(found):
            raise UsageError(
                f"{told}, and there is no other to go on from: delete it to begin anew, or use another --out"
            )
        self.accelerator.wait_for_everyone()  # all have looked
        if damaged and self.accelerator.is_main_process:
            print(f"{told}: going on from {found[len(damaged)].name}")
            for folder in damaged:
                aside = folder.with_name(f"damaged-{folder.name}")
                shutil.rmtree(aside, ignore_errors=True)
                folder.replace(aside)
        if self.accelerator.is_main_process:
            self._drop_old()  # of a run that was killed between its last checkpoint and this
        return found[len(damaged)] if found else None

    def _check_division(self, before: Mapping[str, Any]) -> None:
        """The data go on the same whatever the number of processes; what cannot go on is refused."""
        now = self._division()
        if before["strategy"] != now["strategy"]:
            raise UsageError(f"{self.out} was begun with strategy {before['strategy']!r}, whose state is not one of "
                             f"{now['strategy']!r}: resume it as it was, or use another --out")  # fmt: skip
        if before["processes"] != now["processes"]:
            if now["strategy"].startswith("zero") or (self.average is not None and is_sharded(self.accelerator)):
                raise UsageError(f"{self.out} was begun with {before['processes']} processes; {now['strategy']} "
                                 f"{'with ema_decay ' if self.average else ''}resumes with as many")  # fmt: skip
            go_on = "1 process goes on" if now["processes"] == 1 else f"{now['processes']} processes go on"
            self.accelerator.print(f"{go_on} where {before['processes']} stopped: the same rows in the same order; "
                                   "sums are rounded in another order, and dropout draws anew")  # fmt: skip


def list_checkpoints(out: Path) -> list[tuple[int, Path]]:
    """Whole checkpoints, oldest first (a half-written one has a hidden name)."""
    folder = out / "checkpoints"
    found = [(int(m[1]), p) for p in (folder.iterdir() if folder.is_dir() else ()) if (m := _NAME.fullmatch(p.name))]
    return sorted(found)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is whole: all its files are there, none shorter than it was. (One
    may be longer: the sizes of what other machines have written may be seen late.)"""
    try:
        sizes = read_json(folder / "state" / "progress.json").get("files", {})
    except (OSError, ValueError, AttributeError):
        return "state/progress.json cannot be read"
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size < size:
            return f"{name} has {file.stat().st_size} of {size} bytes"
    return None
