"""This machine: one process for each device, which asks for the next shard when it is ready for it."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from slm.corpus.job import Job, Step, make_shards
from slm.devices import available_cores, choose_device
from slm.errors import StoppedError
from slm.process_pool import end_with_parent
from slm.tokenizers import load_tokenizer

_CORES_A_PROCESS = 4  # on CPU: the networks of tokenizers hardly gain from more
_DEATHS = 3  # of processes at a shard, or of those of a device that had none yet
_READY = "ready"


def choose_devices(name: str, processes: int | None) -> list[str]:
    """A device for each process: all GPUs, or as many processes on the CPU as its cores are good for.

    `processes` wins over that number; several may share a GPU. UsageError as `choose_device`.
    """
    import torch

    device = choose_device(name)
    if device == "cuda":
        count = torch.cuda.device_count()
        return [f"cuda:{i % count}" for i in range(count if processes is None else processes)]
    default = max(1, available_cores() // _CORES_A_PROCESS) if device == "cpu" else 1
    return [device] * (default if processes is None else processes)


def run_processes(job: Job, indices: Iterable[int], on_step: Callable[[Step], None], devices: Sequence[str]) -> None:
    """Make the shards of `indices` in a process for each device.

    A process that dies (killed for want of memory, say) is replaced, and its shards are made again; StoppedError where
    that does not help. Raises what a process raises.
    """
    crew = _Crew(job, devices, deque(indices))
    try:
        while crew.hands:
            ready = wait([hand.connection for hand in crew.hands])
            for hand in [hand for hand in crew.hands if hand.connection in ready]:
                for step in crew.listen(hand):
                    on_step(step)
    finally:
        crew.dismiss()


@dataclass
class _Hand:
    device: str
    process: Any
    connection: Connection
    shards: set[int] = field(default_factory=set)  # in work
    is_done: bool = False  # has been told that there are no more


class _Crew:
    def __init__(self, job: Job, devices: Sequence[str], waiting: deque[int]):
        self.job, self.waiting = job, waiting
        self.threads = max(1, available_cores() // len(devices))
        self.deaths: Counter[int | str] = Counter()  # by shard, or by device where there was none yet
        self.hands = [self._hire(device) for device in devices[: len(waiting)]]

    def _hire(self, device: str) -> _Hand:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.job, device, self.threads))
        process.start()
        theirs.close()  # so that its end is ours to see
        return _Hand(device, process, ours)

    def listen(self, hand: _Hand) -> Iterator[Step]:
        """Answer what a process says: a step to hear of, ready for a shard, an error, or nothing more."""
        try:
            said = hand.connection.recv()
        except (EOFError, OSError):  # at its end, or in the middle of what it said
            self._let_go(hand)
            return
        if isinstance(said, Exception):
            raise said
        if isinstance(said, Step):
            hand.shards.discard(-1 if said.shard is None else said.shard)
            yield said
        elif said == _READY:
            index = self.waiting.popleft() if self.waiting else None
            if index is None:
                hand.is_done = True
            else:
                hand.shards.add(index)
            with suppress(BrokenPipeError):  # it has died since: then its end of the pipe says so
                hand.connection.send(index)

    def _let_go(self, hand: _Hand) -> None:
        hand.process.join()
        hand.connection.close()
        self.hands.remove(hand)
        if hand.is_done and not hand.shards:
            return
        struck: set[int] | set[str] = hand.shards or {hand.device}
        self.deaths.update(struck)
        if max(self.deaths[one] for one in struck) >= _DEATHS:
            at = f"at shard {min(hand.shards)}" if hand.shards else "before its first shard"
            raise StoppedError(
                f"the process on {hand.device} died again and again, {at} (exit status {hand.process.exitcode}): if "
                "memory ran out, lower --batch_seconds, --num_workers or --processes"
            )
        self.waiting.extendleft(sorted(hand.shards, reverse=True))
        self.hands.append(self._hire(hand.device))

    def dismiss(self) -> None:
        for hand in self.hands:
            hand.process.terminate()
        for hand in self.hands:
            hand.process.join()


def _work(connection: Connection, job: Job, device: str, threads: int) -> None:
    """The life of a process."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all of a terminal: the command says it once
    try:
        if device == "cpu":
            import torch

            torch.set_num_threads(threads)
        tokenizer = load_tokenizer(job.spec, device)
        make_shards(job, _asked_for(connection), connection.send, tokenizer)
    except Exception as error:
        error.add_note(f"in the process on {device}:\n{traceback.format_exc()}")
        connection.send(_that_travels(error))
    connection.close()


def _asked_for(connection: Connection) -> Iterator[int]:
    while True:
        connection.send(_READY)
        index = connection.recv()
        if index is None:
            return
        yield index


def _that_travels(error: Exception) -> Exception:
    """The error itself where it can be pickled; else one that says the same."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
