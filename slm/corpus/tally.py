"""What a run hears of its shards: shown, logged, and reason to stop where too many clips are left out."""

from __future__ import annotations

from collections.abc import Sequence

from slm.corpus.job import Step
from slm.corpus.log import Log
from slm.corpus.plan import Reject, count_kinds, describe_kinds
from slm.corpus.progress import Progress


class TooManyRejectsError(Exception):
    """More clips are left out than the command allows: `rejects`."""

    def __init__(self, rejects: Sequence[Reject], allowed: int):
        self.rejects, last = rejects, rejects[-1]
        super().__init__(
            f"{len(rejects):,} clips are left out, and --max_rejects allows {allowed:,}: "
            f"{describe_kinds(count_kinds(rejects))}; the last is {last.path}: {last.reason}"
        )


class Tally:
    """`rejects` are those of the plan and of earlier runs; `allowed` of them may be (None: any number)."""

    def __init__(self, progress: Progress, log: Log, rejects: Sequence[Reject], allowed: int | None):
        self.progress, self.log, self.allowed = progress, log, allowed
        self.rejects = list(rejects)
        self._told: set[str] = set()

    def add(self, step: Step) -> None:
        """Hear of a step. Of a shard that is made twice (its process died) the clips left out count once."""
        new = [reject for reject in step.rejects if reject.id not in self._told]
        self._told.update(reject.id for reject in new)
        self.rejects += new
        self.progress.advance(step.duration_s, len(new))
        for reject in new:
            self.log.write("reject", id=reject.id, path=reject.path, reason=reject.reason)
        if step.shard is not None:
            speed = round(self.progress.real_time_factor, 1)
            self.log.write("shard", index=step.shard, hours=self.progress.done_s / 3600, real_time_factor=speed)
        self.check()

    def check(self) -> None:
        """TooManyRejectsError where there are."""
        check_number(self.rejects, self.allowed)


def check_number(rejects: Sequence[Reject], allowed: int | None) -> None:
    """TooManyRejectsError where more are left out than that (None: any number)."""
    if allowed is not None and len(rejects) > allowed:
        raise TooManyRejectsError(rejects, allowed)
