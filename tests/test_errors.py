"""Memory that is used up, in the words of whichever library tells it."""

from __future__ import annotations

import pytest
import torch

from slm.errors import UsageError, is_out_of_memory

FOREIGN = type("OutOfMemoryError", (Exception,), {})  # as some libraries have one of their own


@pytest.mark.parametrize("error", [
    MemoryError(), torch.OutOfMemoryError("x"), FOREIGN("x"), OSError(12, "Cannot allocate memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
])  # fmt: skip
def test_memory_that_is_used_up_is_told_from_what_is_wrong(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("out of memory"), UsageError("x")])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)
