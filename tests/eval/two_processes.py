"""eval/run.py on two CPU processes, forked from one that has imported everything.

python -m tests.eval.two_processes PORT LOG --model .. (the arguments of eval/run.py)
"""

from __future__ import annotations

import os
import sys
import traceback


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
        from eval.run import EvalConfig, main
        from slm.config import join_list, run_command

        run_command(main, EvalConfig, join_list(arguments, "--model"))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> int:
    import torch.distributed  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import eval.run  # noqa: F401

    port, log, *arguments = sys.argv[1:]
    pids = [start(rank, port, log, arguments) for rank in range(2)]
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)


if __name__ == "__main__":
    sys.exit(main())
