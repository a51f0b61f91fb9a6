"""Names and entries of folders that are rarely thought of."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.corpus.hostile.base import CASES, Case, Heard, case, encoded, sound
from tests.rights import nothing_is_closed

THREE_HOURS, WINDOWS = "three hours.wav", 18


def names() -> None:
    named = {
        "newline": "a\nb", "tab": "a\tb", "quotes": "it's \"quoted\"", "emoji": "🎙️ 録音", "dash": "-rf", "space": " a ",
        "backslash": "a\\b", "percent": "%s%d%n", "segment": "a#0", "glob": "[a]*?", "dots": "a.b..c", "url": "http:x",
        "long": "é" * 123, "composed": "é", "decomposed": "e\u0301", "bytes": os.fsdecode(b"\xff\xfe\x80"),
        "right to left": "\u202egnp", "zero width": "a\u200bb", "html": "<b>&amp;", "comma": "a,b;c",
    }  # fmt: skip
    for name in named.values():
        case(f"{name}.wav", encoded(sound(f"{name}.wav")))
    case(f"{named['bytes']}.webm.flac", encoded(sound(f"{named['bytes']}.webm.flac"), format="FLAC"))
    for name in ("same.wav", "same.flac"):
        case(name, encoded(sound(name), format=name[5:].upper()))
    deep = "/".join(f"level {i}" for i in range(40)) + "/deep.wav"
    for name in (deep, "folder\n🎙️/a.wav", os.fsdecode(b"\xff folder/a.wav"), "folder.wav/a.wav"):
        case(name, encoded(sound(name)))


def entries() -> None:
    case("fifo.wav", os.mkfifo, "a device or pipe, not a file")
    case("socket.flac", _put_socket, "a device or pipe, not a file")
    case("zeros without end.wav", lambda path: path.symlink_to("/dev/zero"), "a device or pipe, not a file")
    case("memory.wav", lambda path: path.symlink_to("/proc/self/mem"), "unreadable")
    case("no end.wav", lambda path: path.symlink_to("gone.wav"), "missing file")
    case("itself.wav", lambda path: path.symlink_to("itself.wav"), "unreadable")
    case("below a file.wav", lambda path: path.symlink_to("same.wav/a.wav"), "missing file")
    case("a link.wav", lambda path: path.symlink_to("same.wav"), Heard("same.wav"))
    for name in ("loop", "loop of two", "empty folder", ".hidden.wav", "notes.txt"):
        CASES[name] = Case(_ENTRIES[name], None)
    secret = Heard("secret.wav") if nothing_is_closed() else "no permission to read"
    case("secret.wav", _put_secret, secret)
    if not nothing_is_closed():  # else its files are found
        case("closed folder.wav", _put_closed_folder, "no permission to read")


_ENTRIES: dict[str, Callable[[Path], object]] = {
    "loop": lambda path: path.symlink_to(path.parent),
    "loop of two": lambda path: (path.mkdir(), (path / "up").symlink_to(path.parent)),
    "empty folder": Path.mkdir,
    ".hidden.wav": lambda path: path.write_bytes(encoded(sound("hidden"))),
    "notes.txt": lambda path: path.write_text("hello"),
}


def _put_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _put_secret(path: Path) -> None:
    path.write_bytes(encoded(sound(path.name)))
    path.chmod(0)


def _put_closed_folder(path: Path) -> None:
    path.mkdir()
    (path / "b.wav").write_bytes(encoded(sound("b.wav")))
    path.chmod(0)


def three_hours() -> None:
    CASES[THREE_HOURS] = Case(_put_three_hours, None)


def _put_three_hours(path: Path) -> None:
    """8-bit samples, of which only the first 20 ms of each ten minutes are written: the holes in the file are -1."""
    num_samples = 3 * 3600 * 8000
    header = encoded(np.zeros(1), subtype="PCM_U8")[:44]
    path.write_bytes(header[:40] + num_samples.to_bytes(4, "little"))
    with open(path, "r+b") as file:
        for i in range(WINDOWS):
            file.seek(44 + i * num_samples // WINDOWS)
            file.write(bytes([10 * i]) * 160)
        file.truncate(44 + num_samples)
