"""Runs of train_lm.py on two CPU processes each, forked from one that has imported everything: to start them costs
more than what they do.

    python -m tests.training.two_processes JOBS.json

A job is {"arguments": [..], "environment": {..}, "remove": [folders deleted before it], "log": FILE}; its log ends
with a line "status R0 R1".
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any


def import_everything() -> None:
    import accelerate  # noqa: F401
    import torch  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import train_lm  # noqa: F401

    if importlib.util.find_spec("deepspeed"):
        import deepspeed

        # Its own communication would be compiled first, for minutes.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(rank: int, job: dict[str, Any], port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
                          MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))  # fmt: skip
        os.environ.update(job["environment"])
        status = train(job["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def train(arguments: list[str]) -> int:
    import torch

    import train_lm
    from slm.config import run_command
    from slm.training.config import TrainConfig

    sys.argv = ["train_lm.py", *arguments]
    status: Any = 0
    try:
        run_command(train_lm.main, TrainConfig)
    except SystemExit as error:
        status = error.code or 0
    if not status and torch.distributed.is_initialized():
        return 99  # such a process is now and then aborted where it ends
    return status if isinstance(status, int) else 1


def wait(pids: list[int]) -> list[int]:
    """Exit statuses. Once a process has failed, the other, which waits for it, is killed."""
    statuses: dict[int, int] = {}
    failed_at = None
    while len(statuses) < len(pids):
        for pid in [p for p in pids if p not in statuses]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                statuses[pid] = os.waitstatus_to_exitcode(status)
        if any(statuses.values()) and failed_at is None:
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() > failed_at + 5:
            for pid in [p for p in pids if p not in statuses]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
        time.sleep(0.02)
    return [statuses[pid] for pid in pids]


def main(file: str) -> None:
    import_everything()
    for job in json.loads(Path(file).read_text()):
        for folder in job["remove"]:
            shutil.rmtree(folder)
        port = free_port()
        statuses = wait([start(rank, job, port) for rank in range(2)])
        with open(job["log"], "a") as log:
            print("status", *statuses, file=log)


if __name__ == "__main__":
    main(sys.argv[1])
