"""Processes that read audio beside the one that holds the tokenizer."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait

CRASHED = "crashed: the process that decoded it died"
"""Why a clip is left out that brings down the process that opens it."""


def worker_processes(num_workers: int) -> ProcessPoolExecutor:
    """A pool of fresh processes: a fork of a process with threads or a GPU context may hang. They end with this one,
    however that ends."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["slm.corpus.planning"])
    return ProcessPoolExecutor(num_workers, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """A pool's process waits for work on a pipe that it also holds open itself: of a killed parent it learns
    nothing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
