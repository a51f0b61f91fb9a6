"""Processes beside the one that was started."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from slm.errors import UsageError
from slm.process_pool import ProcessPool

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE_S = 600
"""How long a decoder may be at one clip, or at one block of a long one."""
CRASHED = f"crashed: the process that decoded it died, or came no further for {PATIENCE_S} s"
"""Why a clip is left out that brings down the process that opens it."""

_patience_s = 0  # in a process of `Workers`: PATIENCE_S


class Workers(Generic[Item, Result]):
    """`num_workers` processes (0: `num_threads` threads of this one) that do `work(items)`.

    A decoder that crashes on an item takes its process with it, and one that hangs is ended (`sign_of_life`). The pool
    is then made anew, what it was at is done again, halved until the item is found, and that one's result is
    `crashed(item)`.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], list[Result]],
        crashed: Callable[[Item], Result],
        num_workers: int,
        num_threads: int,
    ):
        self.work, self.crashed, self.num_workers, self.num_threads = work, crashed, num_workers, num_threads
        self._pool = self._new_pool()
        self._can_start = num_workers == 0

    def _new_pool(self) -> Executor:
        return _processes(self.num_workers) if self.num_workers else ThreadPoolExecutor(self.num_threads)

    def start(self, items: Sequence[Item]) -> Callable[[], list[Result]]:
        """Begin; what is returned waits for the end."""
        future, self._pool = self._submit(self._pool, self._new_pool, items)
        return partial(self._result, items, future, self._pool)

    def _submit(
        self, pool: Executor, new_pool: Callable[[], Executor], items: Sequence[Item]
    ) -> tuple[Future[list[Result]], Executor]:
        for wait_s in (0.1, 1.0):
            with suppress(BrokenProcessPool, EOFError, ConnectionError):
                return pool.submit(_watched, self.work, items), pool
            time.sleep(wait_s)  # what starts processes may be the one that died, and takes a moment to be missed
            pool = new_pool()
        return pool.submit(_watched, self.work, items), pool

    def _result(self, items: Sequence[Item], future: Future[list[Result]], pool: Executor) -> list[Result]:
        try:
            return future.result()
        except BrokenProcessPool:
            self._check_start()
            if pool is self._pool:
                self._pool = self._new_pool()
            return self._alone(items)

    def _check_start(self) -> None:
        """UsageError where a process dies before there is any work, for which no item is to blame."""
        if self._can_start:
            return
        try:
            with _processes(1) as pool:
                pool.submit(os.getpid).result()
        except (BrokenProcessPool, EOFError, ConnectionError) as error:
            raise UsageError(
                "no process can be started beside this one: what it says above tells why. A script of your own must "
                "call this below `if __name__ == '__main__':`, since each process reads the script anew"
            ) from error
        self._can_start = True

    def _alone(self, items: Sequence[Item]) -> list[Result]:
        one = partial(_processes, 1)
        future, pool = self._submit(one(), one, items)
        with pool:
            try:
                return future.result()
            except BrokenProcessPool:
                if len(items) == 1:
                    return [self.crashed(items[0])]
        half = len(items) // 2
        return self._alone(items[:half]) + self._alone(items[half:])

    def shutdown(self) -> None:
        """End, whatever is still being done."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _processes(num_workers: int) -> ProcessPool:
    """A pool of fresh processes: a fork of a process with threads or a GPU context may hang."""
    context = multiprocessing.get_context("forkserver")
    # pyarrow imports pandas at its first array: once for all, if it is there.
    context.set_forkserver_preload(["slm.corpus.probing", "slm.corpus.readers", "pandas"])
    return ProcessPool(num_workers, context, _begin, (PATIENCE_S,))


def _begin(patience_s: int) -> None:
    global _patience_s
    _patience_s = patience_s


def _watched(work: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result]:
    sign_of_life()
    try:
        return work(items)
    finally:
        if _patience_s:
            signal.alarm(0)


def sign_of_life() -> None:
    """Work goes on: a process of `Workers` that has not said so for `PATIENCE_S` is ended, by the system, since a
    decoder may never come back to Python."""
    if _patience_s:
        signal.alarm(_patience_s)
