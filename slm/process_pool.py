"""Processes that end with whoever began them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from typing import Any

_ENDS_S = 5.0  # the most that is waited for


class ProcessPool(ProcessPoolExecutor):
    """The standard pool, but its processes end with it, and with the process that began it, however that ends.

    Ctrl-C, which reaches all processes of a terminal, is left to the one that began them. What is still being done at
    the shutdown is given up.
    """

    def __init__(
        self,
        number: int,
        context: BaseContext,
        initializer: Callable[..., None] | None = None,
        initargs: tuple[Any, ...] = (),
    ):
        super().__init__(number, context, _begin, (initializer, initargs))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Processes begin here, and inherit that Ctrl-C does not reach them: while they import they could not yet say
        so, and each would show where it was."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Processes are not asked to end: one that waits for work holds a lock, and if it were killed meanwhile, the
        others would wait for that, and the pool, which by then looks for no dead ones, for them."""
        processes = list((getattr(self, "_processes", None) or {}).values())  # `kill_workers` comes with 3.14
        manager: Any = self._executor_manager_thread
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        for process in processes:
            process.kill()
        if manager is not None:  # which at its end closes a pipe that the interpreter, if it ends then too, writes to
            manager.join(_ENDS_S)
        if wait:
            for process in processes:
                process.join()


def _begin(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    if initializer is not None:
        initializer(*initargs)


def end_with_parent() -> None:
    """End this process when its parent does. A pool's process waits for work on a pipe that it also holds open itself:
    of a killed parent it learns nothing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
