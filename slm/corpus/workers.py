"""Processes that read audio beside the one that holds the tokenizer."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def worker_processes(num_workers: int) -> ProcessPoolExecutor:
    """A pool of fresh processes: a fork of a process with threads or a GPU context may hang."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["slm.corpus.planning"])
    return ProcessPoolExecutor(num_workers, mp_context=context)
