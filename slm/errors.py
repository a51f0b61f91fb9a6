"""The errors a user can mend."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class UsageError(Exception):
    """Wrong use: a command prints the message on one line and exits with status 2, before any work is done.

    The message says what is wrong and what to do about it.
    """


class StoppedError(Exception):
    """A run that cannot go on: a command prints the message on one line and exits with status 1.

    The message says what to mend, after which the same command goes on where it was.
    """


class AudioError(Exception):
    """One audio file cannot be used. The message is the reason, fit for `rejects.jsonl`; other files go on."""


class SilentError(AudioError):
    """All samples are 0: nothing to learn from, but an answer where a model or a codec made it."""


class UnreadableError(AudioError):
    """One audio file cannot be opened or read: missing, no permission, a fault of the disk. It may pass."""


_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory",
              "cublas_status_alloc_failed")  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU or of the machine, whichever library tells it: it may do at another time, or with less at once."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | OSError) and any(said in str(error).lower() for said in _NO_MEMORY)


def disk_fault(error: BaseException | None) -> int:
    """ENOSPC, EROFS or EIO where a disk is full, has become read-only, or fails; else 0. The first two also as told by
    libraries whose own errors are no OSError (safetensors, torch.save)."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EIO):
            return error.errno
        if isinstance(error, OSError) and error.errno == errno.EDQUOT:
            return errno.ENOSPC
        for fault in (errno.ENOSPC, errno.EROFS):
            if os.strerror(fault) in str(error) or f"os error {fault}" in str(error):
                return fault
        if all(text in str(error) for text in ("inline_container", "unexpected pos")):
            return errno.ENOSPC  # what torch.save finds where its archive should go on
        error = error.__cause__ or error.__context__
    return 0


def file_of(error: BaseException) -> Any:
    """The file that an error of the system is about, of a copy where it goes; None where it names none."""
    return getattr(error, "filename2", None) or getattr(error, "filename", None)


def disk_is_full(error: BaseException) -> bool:
    return disk_fault(error) == errno.ENOSPC


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'mimi'?"`, or the whole list of what is known when nothing is close."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "; known: " + ", ".join(names) if names else ""
