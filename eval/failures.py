"""What to say of an error: its reason in a line, and where memory was too small, what helps."""

from __future__ import annotations

from slm.errors import StoppedError, UsageError, is_out_of_memory

MEMORY = (
    "make it smaller: --batch_steps for scoring, --generation.batch_size for continuations, --judges.batch_size for "
    "judges, --reconstruction.cut_s or --reconstruction.workers 1 for reconstruction, or --precision bf16; what was "
    "scored before is kept"
)


def is_told(error: BaseException) -> bool:
    """Whether its message tells a user what to mend; of others the place in the code helps too."""
    return isinstance(error, UsageError | StoppedError) or is_out_of_memory(error)


def reason_of(error: BaseException) -> str:
    """One line (a UsageError as it is): kind and first line of what was not foreseen."""
    if isinstance(error, UsageError | StoppedError):
        return str(error)
    lines = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return f"out of memory ({said}): {MEMORY}" if is_out_of_memory(error) else said
