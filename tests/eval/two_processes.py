"""eval/run.py on two CPU processes, forked from one that has imported everything.

python -m tests.eval.two_processes PORT LOG --model .. (the arguments of eval/run.py)

FAULT in the environment, such as `scoring-1`, is what goes wrong in which of them (`FAULTS`), the first time.
"""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
import traceback

FAULTS = {
    "loading": "slm.spoken_lm.load_lm",
    "tokenizing": "eval.tokens._tokenize",
    "scoring": "slm.spoken_lm.SpokenLM.score_documents",
    "killed": "slm.spoken_lm.SpokenLM.score_documents",
    "writing": "eval.run.keep_result",
}


def break_once(fault: str, rank: int) -> None:
    """In the process of this rank: MemoryError, or a sudden end."""
    what, of = fault.split("-")
    if int(of) != rank:
        return
    place, name = FAULTS[what].rsplit(".", 1)
    owner = pkgutil.resolve_name(place)
    real = getattr(owner, name)

    def broken(*args, **kwargs):
        setattr(owner, name, real)
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError

    setattr(owner, name, broken)


def start(rank: int, port: str, log: str, arguments: list[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        file = os.open(f"{log}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                          MASTER_PORT=port)  # fmt: skip
        from eval.config import EvalConfig
        from eval.run import main
        from slm.config import join_list, run_command

        if fault := os.environ.get("FAULT"):
            break_once(fault, rank)
        run_command(main, EvalConfig, join_list(arguments, "--model"))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        if not status and sys.modules["torch"].distributed.is_initialized():
            status = 99  # such a process is now and then aborted where it ends
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> int:
    import torch.distributed  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import eval.run  # noqa: F401

    port, log, *arguments = sys.argv[1:]
    pids = [start(rank, port, log, arguments) for rank in range(2)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    print(*statuses)
    return max(map(abs, statuses))


if __name__ == "__main__":
    sys.exit(main())
