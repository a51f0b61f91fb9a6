"""Judges at work: in processes beside whoever asks, in batches on a GPU, or in passing.

On a CPU a judge is asked in several processes, a few clips at a time, each process with one thread and its own copy of
the weights. On a GPU, and where copies would not fit into memory, the one copy of this process is asked from a thread,
with all clips at once, which it takes in batches. Either way each clip is judged as it is alone (but for rounding).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval.judges.answers import Answers, answers_of, distinct
from eval.judges.base import Judge, JudgeRecord
from slm.devices import available_cores
from slm.errors import UsageError
from slm.process_pool import ProcessPool
from slm.types import AudioClip

WORTH = 16
"""Clips that take about as long as a process takes to start."""
Columns = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Recipe:
    """How any process gets the judge: a class or function of a module, and what it is called with."""

    make: Callable[..., Judge]
    arguments: tuple[Any, ...] = ()


@cache
def _own(recipe: Recipe) -> Judge:
    """Of this process."""
    return recipe.make(*recipe.arguments)


def _answer(judge: Judge, question: str, items: Sequence[Any],
            clock: Callable[[], float] = time.perf_counter) -> tuple[list[Any], float]:  # fmt: skip
    """Of clips, or of rows of texts, and the seconds that it took."""
    started = clock()
    columns = [list(c) for c in zip(*items, strict=True)] if isinstance(items[0], tuple) else [list(items)]
    made = list(getattr(judge, question)(*columns))
    return made, clock() - started


def _answer_there(recipe: Recipe, question: str, items: Sequence[Any]) -> tuple[list[Any], float]:
    return _answer(_own(recipe), question, items, time.process_time)


class JudgePool:
    """`workers` processes (0: one for each CPU; 1: none beside this one), begun when there is enough to do for them:
    at once where they are begun already. `busy_s` is what all judges took together: of a processor in processes of
    their own, where others may have it in between, and by the clock in this one."""

    def __init__(self, workers: int = 1, processes: Executor | None = None):
        self.workers = workers or available_cores()
        self.processes, self.shared = processes, processes is not None
        self.thread: Executor | None = None
        self.busy_s = 0.0

    def ask(self, judge: Judge, recipe: Recipe | None, question: str, items: Sequence[Any]) -> Callable[[], list[Any]]:
        """Begin to answer; what is returned waits for the answers, in the order of the items."""
        number = self.workers if self.shared else min(self.workers, len(items) // WORTH)
        if not items or (number <= 1 and not self.shared):
            return lambda: self._count([_answer(judge, question, items)]) if items else []
        if recipe is None or getattr(judge, "device", "cpu") != "cpu" or weighs_too_much(judge, self.workers):
            self.thread = self.thread or ThreadPoolExecutor(1)
            return self._later([self.thread.submit(_answer, judge, question, items)])
        if self.processes is None:
            self.processes = processes(self.workers)
        size = max(1, min(8, -(-len(items) // self.workers)))
        parts = [items[i : i + size] for i in range(0, len(items), size)]
        with deaths_are_told():
            return self._later([self.processes.submit(_answer_there, recipe, question, part) for part in parts])

    def _later(self, futures: Sequence[Future]) -> Callable[[], list[Any]]:
        def finish() -> list[Any]:
            with deaths_are_told():
                return self._count([future.result() for future in futures])

        return finish

    def _count(self, parts: Sequence[tuple[list[Any], float]]) -> list[Any]:
        self.busy_s += sum(took_s for _, took_s in parts)
        return list(chain.from_iterable(answers for answers, _ in parts))

    def close(self) -> None:
        for executor in (self.thread, None if self.shared else self.processes):
            if executor is not None:
                executor.shutdown(cancel_futures=True)
        self.thread = None


@contextmanager
def deaths_are_told() -> Iterator[None]:
    """UsageError where a process that judges was killed from outside."""
    try:
        yield
    except BrokenProcessPool as error:
        raise UsageError(
            "a process that judges was killed, most likely for want of memory: give fewer (--judges.workers 1, "
            "--reconstruction.workers 1); the same command goes on with what is left"
        ) from error


def is_broken(executor: Executor | None) -> bool:
    """Whether a process of it was killed: it takes no more work."""
    try:
        if executor is not None:
            executor.submit(os.getpid)
    except BrokenProcessPool:
        return True
    return False


def processes(number: int) -> ProcessPool:
    """That judge: of one thread each, and behind whoever asks where there are too few CPUs for all."""
    with _their_environment():
        made = ProcessPool(number, get_context("spawn"), _step_back)
        for _ in range(number):  # each begins a process, as long as none is idle yet
            made.submit(os.getpid)
    return made


def _step_back() -> None:
    os.nice(5)
    # Else its lock is one of the system, and these processes are killed: Python would warn that it was lost.
    tqdm.set_lock(threading.RLock())


ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
"""glibc gives large arrays back to the system at once, which then has to clear the same pages for the next array: a
third of what judges take."""


@contextmanager
def _their_environment() -> Iterator[None]:
    """For processes that are begun inside, which inherit it."""
    given = {name: value for name, value in KEEP_MEMORY.items() if name not in os.environ} | ONE_THREAD
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def weighs_too_much(judge: Judge, copies: int) -> bool:
    """Whether so many copies of the weights would take more than half of the memory that is free (on macOS, which does
    not tell, of all)."""
    tensors = [p for part in vars(judge).values() if hasattr(part, "parameters") for p in part.parameters()]
    size = sum(p.numel() * p.element_size() for p in tensors)
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return size * copies > os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") / 2


class Asked:
    """A judge as benchmarks see it: what it has said before is looked up, the rest is the pool's work."""

    def __init__(self, judge: Judge, judge_pool: JudgePool, recipe: Recipe | None = None, folder: Path | None = None):
        self.judge, self.judge_pool, self.recipe, self.folder = judge, judge_pool, recipe, folder
        self.name = judge.name
        self._answers: dict[str, Answers] = {}
        self._asked: dict[tuple[str, str], Callable[[], None]] = {}
        """By question and item: what waits for answers that are still being made."""

    def record(self) -> JudgeRecord:
        return self.judge.record()

    def begin(self, question: str, items: Sequence[Any]) -> Callable[[], list[Any]]:
        """Ask about clips, or rows of texts. Equal ones are asked about once, also while the answer is being made."""
        if question not in self._answers:
            self._answers[question] = answers_of(self.judge, question, self.folder)
        answers = self._answers[question]
        keys, wanted = distinct(items)
        asked = {key: self._asked[question, key] for key in wanted if (question, key) in self._asked}
        new = [key for key in wanted if key not in answers.known and key not in asked]
        later = self.judge_pool.ask(self.judge, self.recipe, question, [wanted[key] for key in new])

        @cache
        def learn() -> None:
            try:
                answers.add(dict(zip(new, later(), strict=True)))
            finally:
                for key in new:
                    self._asked.pop((question, key), None)

        self._asked |= {(question, key): learn for key in new}

        def finish() -> list[Any]:
            for other in asked.values():
                other()
            learn()
            return [answers.known[key] for key in keys]

        return finish

    def transcribe(self, clips: Sequence[AudioClip]) -> list[str]:
        return self.begin("transcribe", clips)()

    def embed(self, clips: Sequence[AudioClip]) -> list[Any]:
        return self.begin("embed", clips)()

    def classify(self, clips: Sequence[AudioClip]) -> list[Any]:
        return self.begin("classify", clips)()

    def embed_texts(self, texts: Sequence[str]) -> list[Any]:
        return self.begin("embed_texts", texts)()

    def likelihoods(self, texts: Sequence[str], before: Sequence[str] | None = None) -> list[Any]:
        return self.begin("likelihoods", list(zip(texts, before or [""] * len(texts), strict=True)))()

    def rate(self, *columns: Sequence[Any]) -> list[Any]:
        """Clips, or prompts and what follows each."""
        return self.begin("rate", columns[0] if len(columns) == 1 else list(zip(*columns, strict=True)))()
