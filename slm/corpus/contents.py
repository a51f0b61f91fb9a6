"""What is in the audio files of a corpus, cheaply: enough to notice other audio behind the same paths."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from slm.corpus.sources import SourceClip, readable

_END_BYTES = 1 << 16


def relative_paths(source: Path | str, clips: Sequence[SourceClip]) -> list[str]:
    """The path of each clip relative to its folder or manifest, as text: it stays when both move together."""
    base = source if Path(source).is_dir() else Path(source).parent
    return [readable(os.path.relpath(clip.path, base)) for clip in clips]


def file_digest(path: Path) -> str:
    """Size in bytes and sha256 of the first and last 64 KiB (header, length and rate with them); "" if unreadable.

    Times are no part of it: copying a folder changes them.
    """
    try:
        with open(path, "rb") as raw:
            size = os.fstat(raw.fileno()).st_size
            digest = hashlib.sha256(raw.read(_END_BYTES))
            raw.seek(max(raw.tell(), size - _END_BYTES))
            digest.update(raw.read(_END_BYTES))
    except (OSError, ValueError):
        return ""
    return f"{size}-{digest.hexdigest()[:16]}"


def digest_files(source: Path | str, clips: Sequence[SourceClip], num_workers: int) -> dict[str, str]:
    """Relative path -> `file_digest`, for each file once."""
    paths = dict(zip(relative_paths(source, clips), (clip.path for clip in clips), strict=True))
    with ThreadPoolExecutor(num_workers) as pool:
        return dict(zip(paths, pool.map(file_digest, paths.values()), strict=True))


def describe_changes(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """`""` where nothing changed, else how many files did and an example."""
    changed = [path for path in then if now.get(path) != then[path]]
    if not changed:
        return ""
    gone = sum(not now.get(path) for path in changed)
    return f"{len(changed)} of {len(then)} files, {gone} of them gone or unreadable, such as {changed[0]!r}"
