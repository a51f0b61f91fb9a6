"""The seal of a shard: a sha256 of the whole file, kept in the file itself.

It stands in the metadata of the Arrow schema and is computed with its own digits blank, as the checksum in the header
of a tar member is. So a shard proves itself wherever it is moved or linked, and no second file can be lost.
"""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path

KEY = "sha256"
BLANK = f"sha256:{'0' * 64}"
_CHUNK_BYTES = 1 << 20


def seal(path: Path) -> None:
    """Put the digest in the place of `BLANK`, which the schema's metadata holds under `KEY`."""
    with open(path, "r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at = content.find(BLANK.encode())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(at)
        file.write(f"sha256:{digest}".encode())


def is_intact(path: Path, found: str) -> bool:
    """Whether the file is what it was when it was sealed; `found` is the value that its metadata holds."""
    digest = hashlib.sha256()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(found.encode())
        if at < 0 or len(found) != len(BLANK):
            return False
        digest.update(content[:at] + BLANK.encode())
        for start in range(at + len(BLANK), len(content), _CHUNK_BYTES):
            digest.update(content[start : start + _CHUNK_BYTES])
    return f"sha256:{digest.hexdigest()}" == found
