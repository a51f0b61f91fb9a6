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
    """Whether the file is what it was when it was sealed; `found` is the value that its metadata holds.

    The file is read, not mapped: a fault of the disk is an OSError then.
    """
    with open(path, "rb") as file:
        # The schema is the first message of an Arrow stream: a mark and its length, 4 bytes each, and what it says.
        start = file.read(8)
        head = start + file.read(int.from_bytes(start[4:], "little"))
        if len(found) != len(BLANK) or found.encode() not in head:
            return False
        digest = hashlib.sha256(head.replace(found.encode(), BLANK.encode(), 1))
        while part := file.read(_CHUNK_BYTES):
            digest.update(part)
    return f"sha256:{digest.hexdigest()}" == found
