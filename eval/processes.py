"""The processes that share an evaluation: one, or as many as `accelerate launch` started, mostly one for each GPU.

They talk through files on a disk that all of them see, and wait for each other here. At every meeting each says whether
it goes on, is through, or has failed: what one cannot do ends for all of them, and nobody waits for who will not come.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from eval.failures import reason_of
from slm.errors import StoppedError
from slm.run_lock import held

PATIENCE = timedelta(days=7)  # they wait for each other to tokenize
HERE, THROUGH, FAILED = "here", "through", "failed"


class OtherFailed(StoppedError):
    """Another process could not do its part of what all do together. The message is its reason, and who it is."""


class ProcessGone(StoppedError):
    """Another process of the run has ended: nothing can be done together any more."""


class _Left(BaseException):
    """Ends what is done together in a process that waits for one that has failed. Nothing on the way may catch it: the
    meeting at which it was found out was the last one."""


@dataclass(frozen=True)
class Processes:
    """This process is number `rank` of `count`; on its machine it is number `local_rank`."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether it is this one that writes results."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here, or through with what is done together."""
        if self.count > 1:
            reason = _reason(self._meet(HERE))
            if reason is not None:
                raise _Left(reason)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is inside is done by all processes: where one cannot do its part, all end it. The one raises its own
        error, the others OtherFailed. ProcessGone, which ends the run, where one has ended."""
        if self.count == 1:
            yield
            return
        try:
            yield
        except _Left as left:
            raise OtherFailed(str(left)) from None
        except ProcessGone:
            raise
        except Exception as error:
            self._meet(FAILED, reason_of(error))
            raise
        waiting = True
        while waiting:  # for who has more to do, such as the main one
            met = self._meet(THROUGH)
            if (reason := _reason(met)) is not None:
                raise OtherFailed(reason)
            waiting = any(state == HERE for state, _ in met)

    def _meet(self, state: str, reason: str = "") -> list[tuple[str, str]]:
        """What each process says of itself, by rank."""
        import torch.distributed

        met: list[tuple[str, str]] = [(state, reason)] * self.count
        try:
            torch.distributed.all_gather_object(met, (state, reason))
        except RuntimeError as error:
            raise ProcessGone(
                f"a process beside this one has ended ({reason_of(error)}); run the same command again to go on"
            ) from None
        return met

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """What is inside is done by the main process, and by the others once it has been."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    @contextmanager
    def alone_in(self, out: Path) -> Iterator[None]:
        """The main process holds the folder for as long. Where another run has it, UsageError, and OtherFailed in those
        beside."""
        with ExitStack() as stack:
            with self.together():
                if self.is_main:
                    stack.enter_context(held(out))
            yield

    def leave(self) -> None:
        """When all is done: a process that ends with its group is now and then aborted by it, and the launcher then
        stops the others."""
        if self.count > 1:
            import torch.distributed

            torch.distributed.destroy_process_group()

    def device(self, chosen: str) -> str:
        """A GPU of its own for each process, where the device chosen is `cuda`."""
        return f"cuda:{self.local_rank}" if self.count > 1 and chosen == "cuda" else chosen


def _reason(met: Sequence[tuple[str, str]]) -> str | None:
    """Of the first process that has failed."""
    for rank, (state, reason) in enumerate(met):
        if state == FAILED:
            return f"process {rank} of {len(met)}: {reason}"
    return None


ALONE = Processes()


def join_processes() -> Processes:
    """What the launcher says in the environment. Nothing but waiting goes over the network, so gloo will do."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        return ALONE
    import torch.distributed

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    return Processes(int(os.environ["RANK"]), count, int(os.environ.get("LOCAL_RANK", 0)))
