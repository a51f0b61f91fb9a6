"""The processes that share an evaluation: one, or as many as `accelerate launch` started, mostly one for each GPU.

They talk through files on a disk that all of them see, and wait for each other here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

PATIENCE = timedelta(days=7)  # they wait for each other to tokenize


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
        """Until all processes are here."""
        if self.count > 1:
            import torch.distributed

            torch.distributed.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """What is inside is done by the main process, and by the others once it has been."""
        if not self.is_main:
            self.wait()
        try:
            yield
        finally:  # where the main one cannot do it, the others find out by themselves
            if self.is_main:
                self.wait()

    def device(self, chosen: str) -> str:
        """A GPU of its own for each process, where the device chosen is `cuda`."""
        return f"cuda:{self.local_rank}" if self.count > 1 and chosen == "cuda" else chosen


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
