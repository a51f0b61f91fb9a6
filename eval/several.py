"""Several models and benchmarks in one run: what the models are called, and what could not be evaluated."""

from __future__ import annotations

import errno
import gc
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from eval.failures import is_told, reason_of
from eval.processes import Processes, ProcessGone
from eval.report.wording import run_name
from slm.config import reader_has_left
from slm.errors import StoppedError, UsageError, disk_fault, is_out_of_memory


def name_models(paths: Sequence[str]) -> dict[str, str]:
    """A short name for each model, none twice: `runs/x/final` is `x`. UsageError for a model given twice, however it
    is spelled, and for two whose folders would have one name."""
    if len({Path(path).resolve() for path in paths}) < len(paths) or not paths:
        raise UsageError(f"--model names {', '.join(paths) or 'none'}: give one or more, each once")
    names = [run_name(path) for path in paths]
    parts = [PurePath(path).parts for path in paths]
    longer = ["-".join(p for p in some if p not in ("/", ".", "..")) for some in parts]
    names = [name if names.count(name) == 1 else long for name, long in zip(names, longer, strict=True)]
    for path, name in zip(paths, names, strict=True):
        if names.count(name) > 1:
            raise UsageError(f"--model {path}: another model would share its folder {name}; rename or link one of them")
    return dict(zip(names, paths, strict=True))


@dataclass(frozen=True)
class Failure:
    """What could not be evaluated: one benchmark of a model, or, without a name of one, the model."""

    reason: str
    model: str = ""
    benchmark: str = ""
    wrong_use: bool = True
    """Whether it is the user's to mend, rather than memory, a library or a bug."""

    @property
    def where(self) -> str:
        return ", ".join(filter(None, [self.model, self.benchmark]))


@dataclass
class Attempts:
    """What is done one after the other, each apart from the others: of several `jobs` (models times benchmarks) the
    `failures` are told as they come."""

    processes: Processes
    jobs: int
    failures: list[Failure] = field(default_factory=list)
    last_failed: bool = False
    """Whether the last one did, in this process or in another."""

    @contextmanager
    def apart(self, model: str = "", benchmark: str = "") -> Iterator[None]:
        """What is inside, done by all processes together, may fail: that is told, and what follows goes on. Of an error
        that nobody foresaw the place in the code is shown. A disk that is full or read-only, a process that is gone and
        a reader who has left (`| head`) end the run."""
        self.last_failed = False
        try:
            with self.processes.together():
                yield
        except ProcessGone:
            raise
        except Exception as error:
            self.last_failed = True
            fault = disk_fault(error)
            if fault in (errno.ENOSPC, errno.EROFS) or reader_has_left(error):
                raise
            if not is_told(error) and fault != errno.EIO:  # which may be that of the model alone
                traceback.print_exception(error)
            failure = Failure(reason_of(error), model, benchmark, isinstance(error, UsageError))
            self.failures.append(failure)
            if failure.where and self.jobs > 1 and self.processes.is_main:
                print(f"{failure.where} cannot be evaluated: {failure.reason}", file=sys.stderr, flush=True)
            if is_out_of_memory(error):
                _let_go(error)

    def report(self) -> None:
        """UsageError where there were failures, StoppedError where not all of them are wrong use: what there was to do
        besides is done by now."""
        if not self.failures:
            return
        kind = UsageError if all(f.wrong_use for f in self.failures) else StoppedError
        if self.jobs == 1 or not self.failures[0].where:
            raise kind(self.failures[0].reason)
        lines = [f"\n  {f.where}: {f.reason}" for f in self.failures]
        raise kind("could not be evaluated (what else was asked for is done):" + "".join(lines))


def _let_go(error: BaseException) -> None:
    """Of what its frames hold: the next may need that memory."""
    traced: BaseException | None = error
    while traced is not None:
        traceback.clear_frames(traced.__traceback__)
        traced = traced.__cause__ or traced.__context__
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
