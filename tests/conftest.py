"""The order of the tests: those that take long, most of them because they start processes, come first for each worker,
so that none is left alone at the end. And what tests of several rooms are given."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.rights import nothing_is_closed

LONG = (
    "test_twist_from_a_text_model", "test_kill_9_and_start_again", "agree_with_one_process", "agrees_with_one_process",
    "test_from_recordings_to", "test_a_ray_cluster", "test_kills_at_random", "test_fitting_k_means", "dac-bf16",
)  # fmt: skip


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers begin with one stretch of the list each (xdist's worksteal): long tests go to the heads of these."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if any(name in item.nodeid for name in LONG)]
    rest = [item for item in items if item not in set(long)]
    items[:] = []
    for worker in range(workers):
        stretch = slice(len(rest) * worker // workers, len(rest) * (worker + 1) // workers)
        items += long[worker::workers] + rest[stretch]


@pytest.fixture
def unprivileged():
    """A folder that all can enter, and nobody's rights: root may read everything."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    root = nothing_is_closed()
    try:
        yield folder, lambda: os.seteuid(65534) if root else None
    finally:
        if root:
            os.seteuid(0)
        (folder / "closed").chmod(0o700)
        shutil.rmtree(folder)
