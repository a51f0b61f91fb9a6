"""A third-party tokenizer, as a separate package would bring it, for tests of commands in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from slm.corpus.job import Step
from slm.errors import UsageError
from tests.fakes import ArithmeticTokenizer

ROOT = Path(__file__).parents[2]


class MortalTokenizer(ArithmeticTokenizer):
    """The arithmetic tokenizer in a process that is killed (by SIGKILL, or KILL_BY) where KILL_AT says: `encode:N`
    before the N-th batch, `rename:N` when the N-th file is whole under its temporary name but not yet renamed.
    KILL_ONCE names a file that is made then, and after which nothing is killed."""

    def __init__(self, num_codebooks: int = 2, codebook_size: int = 16, bias: int = 0, device: str = "cpu"):
        super().__init__(num_codebooks, codebook_size, bias)
        self.kill, _, self.at = os.environ.get("KILL_AT", "").partition(":")
        self.batches, self.renames, self.replace = 0, 0, os.replace
        os.replace = self._replace  # type: ignore[assignment]

    def _die(self, moment: str, count: int) -> None:
        if self.kill == moment and count == int(self.at):
            if once := os.environ.get("KILL_ONCE"):
                try:
                    open(once, "x").close()
                except FileExistsError:
                    return
            os.kill(os.getpid(), signal.Signals[os.environ.get("KILL_BY", "SIGKILL")])

    def _replace(self, *paths: str) -> None:
        self.renames += 1
        self._die("rename", self.renames)
        self.replace(*paths)

    def encode(self, clips):
        self.batches += 1
        self._die("encode", self.batches)
        return super().encode(clips)


def take_a_shard_and_die(connection, *_):
    connection.send("ready")
    connection.recv()
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_the_end(connection, *_):
    connection.send("ready")
    while (index := connection.recv()) is not None:
        connection.send(Step(shard=index))
        connection.send("ready")
    os.kill(os.getpid(), signal.SIGSEGV)


def complain(connection, *_):
    connection.send(UsageError("bring it back"))


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """Of processes in which the tokenizer `mortal` (`arithmetic` by its spec) is an installed plug-in."""
    package = tmp_path / "site" / "mortal-1.0.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mortal\nVersion: 1.0\n")
    names = "".join(f"{name} = tests.corpus.plugin:MortalTokenizer\n" for name in ("mortal", "arithmetic"))
    (package / "entry_points.txt").write_text(f"[slm.tokenizers]\n{names}")
    path = os.pathsep.join([str(ROOT), str(package.parent)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def tokenize_command(tmp_path: Path, *args: str, kill_at: str = "", once: str = "") -> subprocess.CompletedProcess[str]:
    """Run tokenize_corpus.py with `args` and that plug-in."""
    command = [sys.executable, str(ROOT / "tokenize_corpus.py"), *args]
    env = environment(tmp_path, KILL_AT=kill_at, KILL_ONCE=once)
    return subprocess.run(command, env=env, capture_output=True, text=True)
