"""eSpeak NG in a process of its own: python _espeak_process.py LIBRARY DATA. Standard library only.

A request is one line of JSON on stdin; the answer one line of JSON on stdout, and then as many bytes as that says. The
library keeps state from one call to the next, so that two equal calls may differ: each request is served by a copy of
this process (fork) that has served none before.
"""

import ctypes
import json
import os
import sys
from contextlib import suppress

SYNCHRONOUS, UTF8, PHONEMES, RATE = 2, 1, 0x100, 1
IPA = 2
SEPARATOR = ord("|") << 8


class Event(ctypes.Structure):
    """espeak_EVENT: `sample` is where in the output it happens."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


LAST_EVENT, END_OF_SENTENCE = 0, 5


def load(library: str, data: str) -> ctypes.CDLL:
    lib = ctypes.CDLL(library)
    lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
    if lib.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), 0) <= 0:
        raise RuntimeError(f"espeak-ng cannot read its data in {data}")
    return lib


def transcribe(lib: ctypes.CDLL, text: str, mode: int) -> str:
    """Phonemes of a text, apart by "|", its words by blanks."""
    pointer = ctypes.c_char_p(text.encode())
    clauses = []
    while pointer.value is not None:
        clauses.append((lib.espeak_TextToPhonemes(ctypes.byref(pointer), UTF8, mode | SEPARATOR) or b"").decode())
    return " ".join(c.strip() for c in clauses if c.strip())


def speak(lib: ctypes.CDLL, phonemes: str, rate: int, seed: int) -> bytes:
    """int16 samples of phonemes in eSpeak's own alphabet, at `rate` words a minute.

    Some variants have an echo, which fills the last buffer of 60 ms: what comes after the end of the sentence is cut.
    """
    parts, end = [], [0]

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))
    def heard(samples, count, events):  # type: ignore[no-untyped-def]
        if samples and count:
            parts.append(ctypes.string_at(samples, 2 * count))
        i = 0
        while events[i].type != LAST_EVENT:
            if events[i].type == END_OF_SENTENCE:
                end[0] = events[i].sample
            i += 1
        return 0

    lib.espeak_ng_SetRandSeed(ctypes.c_long(seed))  # breath and roughness; unless told, the clock is the seed
    lib.espeak_SetSynthCallback(heard)
    lib.espeak_SetParameter(RATE, rate, 0)
    text = f"[[{phonemes}]]".encode()
    status = lib.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, UTF8 | PHONEMES, None, None)
    lib.espeak_Synchronize()
    if status != 0:
        raise RuntimeError(f"espeak-ng answers {status}")
    return b"".join(parts)[: 2 * end[0] or None]


def answer(lib: ctypes.CDLL, request: dict) -> tuple[dict, bytes]:
    if lib.espeak_SetVoiceByName(request["voice"].encode()) != 0:
        return {"error": f"espeak-ng has no voice {request['voice']!r}"}, b""
    if "speak" in request:
        return {}, speak(lib, request["speak"], request["rate"], request["seed"])
    both = [[transcribe(lib, text, 0), transcribe(lib, text, IPA)] for text in request["texts"]]
    return {"transcriptions": both}, b""


def serve(lib: ctypes.CDLL, line: str) -> None:
    """Answer in a copy of this process; one that dies is answered for."""
    child = os.fork()
    if child:
        if os.waitpid(child, 0)[1] != 0:
            os.write(1, json.dumps({"error": "espeak-ng failed on this request", "bytes": 0}).encode() + b"\n")
        return
    status = 1
    try:
        head, body = answer(lib, json.loads(line))
        with os.fdopen(os.dup(1), "wb") as out:
            out.write(json.dumps({**head, "bytes": len(body)}).encode() + b"\n" + body)
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    loaded = load(*sys.argv[1:])
    with suppress(BrokenPipeError):  # who asked was killed meanwhile
        for request_line in sys.stdin:
            serve(loaded, request_line)
