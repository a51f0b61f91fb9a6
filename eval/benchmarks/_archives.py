"""Where a benchmark's set is: a folder of its name, or a zip or tar, which is unpacked once, into the folder of
tokenized benchmarks.
"""

from __future__ import annotations

import errno
import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from eval.benchmarks._cache import made_once
from eval.benchmarks.base import Setup
from slm.audio import AUDIO_SUFFIXES
from slm.errors import UsageError
from slm.types import stable_hash

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
KEPT = {*AUDIO_SUFFIXES, ".txt"}
_DOS = 0
"""Where a zip was made: on such systems some programs part folders by backslashes."""
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError,
           RuntimeError)  # fmt: skip


def find_folder(data: Path, names: Sequence[str]) -> Path | None:
    """The folder called by one of `names`, in any case: in `data`, or `data` itself."""
    wanted = {name.lower() for name in names}
    if not data.is_dir():
        return None
    within = sorted(p for p in data.iterdir() if p.is_dir() and p.name.lower() in wanted)
    return within[0] if within else data if data.resolve().name.lower() in wanted else None


def find_set(setup: Setup, names: Sequence[str]) -> Path | None:
    """The same, or the folder that a zip or tar called so is unpacked to."""
    if folder := find_folder(setup.data, names):
        return folder
    archive = find_archive(setup.data, names)
    if archive is None:
        return None
    root = unpacked([archive], setup.cache)
    if folder := find_folder(root, names):
        return folder
    while len(within := list(root.iterdir())) == 1 and within[0].is_dir():
        root = within[0]
    return root


def find_archive(data: Path, names: Sequence[str]) -> Path | None:
    """The zip or tar called by one of `names`, in any case, in `data`."""
    wanted = {f"{name}{ending}".lower() for name in names for ending in ENDINGS}
    found = sorted(p for p in data.iterdir() if p.is_file() and p.name.lower() in wanted) if data.is_dir() else []
    return found[0] if found else None


def unpacked(archives: Sequence[Path], cache: Path) -> Path:
    """The folder below `cache` that holds the recordings and texts of `archives`, at their places in them; written
    when it is first needed, and again when an archive changes.

    UsageError for an archive that is broken, one that would write outside of its folder or more than the disk has room
    for, and two files of one name.
    """
    about = [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in sorted(archives)]
    folder = cache / f"{archives[0].name.partition('.')[0]}-{stable_hash(about)[:12]}"
    made_once(folder, lambda place: sum(_unpack(p, place / "files") for p in sorted(archives)))
    return folder / "files"


def _unpack(archive: Path, folder: Path) -> int:
    count = 0
    folder.mkdir(exist_ok=True)
    try:
        for name, stream in _members(archive, folder):
            path = folder / _safe(archive, name)
            if path.exists():
                raise UsageError(f"{archive}: {name} stands in it, or in another of its set, already; fetch it again")
            path.parent.mkdir(parents=True, exist_ok=True)
            with stream, open(path, "wb") as file:
                shutil.copyfileobj(stream, file)
            count += 1
    except _BROKEN as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        raise UsageError(f"{archive} cannot be unpacked ({reason}); fetch it again") from None
    except OSError as error:
        if not isinstance(error, (FileExistsError, NotADirectoryError)) and error.errno != errno.ENAMETOOLONG:
            raise
        raise UsageError(f"{archive} cannot be unpacked ({error.strerror}: {name[:80]}): rename it there") from None
    return count


def _members(archive: Path, folder: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The regular files that are wanted, in their order, while `folder` has room for them."""
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive) as packed:
            entries = [(_slashed(entry), entry) for entry in packed.infolist()]
            wanted = [(name, entry) for name, entry in entries if not name.endswith("/") and _is_wanted(name)]
            _check_room(archive, sum(entry.file_size for _, entry in wanted), folder)
            for name, entry in wanted:
                yield name, packed.open(entry)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() and _is_wanted(member.name) else None
            if stream is not None:
                _check_room(archive, member.size, folder)  # what else there is, a tar does not tell
                yield member.name, stream
        tar.fileobj.seek(tar.offset)  # one that was cut between members ends for tarfile, but without the mark
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError("it ends too early")


def _slashed(entry: zipfile.ZipInfo) -> str:
    return entry.filename.replace("\\", "/") if entry.create_system == _DOS else entry.filename


def _check_room(archive: Path, size: int, folder: Path) -> None:
    """UsageError rather than a full disk, which others write to as well."""
    room = shutil.disk_usage(folder)
    if room.total and size > room.free:  # some disks that programs make tell nothing: 0 of 0
        raise UsageError(
            f"{archive} would unpack to {size / 1e9:,.1f} GB or more, and the disk of {folder.parent.parent} has "
            f"{room.free / 1e9:,.1f} GB free: free some, or give another --cache"
        )


def _is_wanted(name: str) -> bool:
    """Recordings and texts, but none of those that systems hide beside them."""
    path = PurePosixPath(name)
    return path.suffix.lower() in KEPT and not path.name.startswith(".") and "__MACOSX" not in path.parts


def _safe(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UsageError(f"{archive} holds {name}, which would be written outside of its folder: do not use it")
    return path
