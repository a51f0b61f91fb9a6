"""What an unfinished fit has reached: a folder of whole files beside its result, gone when that is written."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from slm import run_lock
from slm.errors import UsageError
from slm.files import atomic_file, read_json, write_json
from slm.tokenizers._clustering import State

SAVE_EVERY_S = 30.0  # at most so much work is lost


class FitState:
    """States by name in a folder that belongs to one `request`: all that decides the outcome of the fit. Who uses it
    holds it (`slm.run_lock`).

    Raises UsageError where the folder belongs to another request.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any]):
        self.folder, self._saved = folder, time.monotonic()
        self._file, self._request = folder / "request.json", json.loads(json.dumps(request))
        if not self.has_begun:
            with suppress(OSError):  # of a fit that was killed when all but this was removed
                folder.rmdir()
            return
        found = read_json(self._file)
        if found != self._request:
            differ = [key for key in self._request if found.get(key) != self._request[key]] or ["options"]
            raise UsageError(
                f"{folder} holds an unfinished fit with other {', '.join(differ)}: give its command again to go on "
                "with it, or remove the folder to begin anew"
            )

    @property
    def has_begun(self) -> bool:
        """Whether files that are there already may be this fit's own."""
        return self._file.is_file()

    def begin(self) -> None:
        """Claim the folder, before anything is written that another command must not go on with."""
        if not self.has_begun:
            write_json(self._file, self._request)

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._saved >= SAVE_EVERY_S

    def save(self, name: str, state: State) -> None:
        from safetensors.torch import save

        self.begin()
        tensors = {key: value.detach().cpu().contiguous() for key, value in state[0].items()}
        with atomic_file(self.folder / f"{name}.safetensors") as temporary:
            temporary.write_bytes(save(tensors, metadata={"values": json.dumps(state[1])}))
        self._saved = time.monotonic()

    def load(self, name: str) -> State | None:
        from safetensors import safe_open

        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()["values"])
            return {key: file.get_tensor(key) for key in file.keys()}, values  # noqa: SIM118

    def load_parts(self, name: str) -> Iterator[State]:
        """The states `name-0`, `name-1`, ... that there are."""
        number = 0
        while (part := self.load(f"{name}-{number}")) is not None:
            yield part
            number += 1

    def remove(self) -> None:
        """What says whose the folder is goes last: of a fit that is killed here, the same command removes the rest."""
        for path in self.folder.glob("*"):
            if path not in (self._file, self.folder / run_lock.NAME):
                path.unlink()
        self._file.unlink(missing_ok=True)
