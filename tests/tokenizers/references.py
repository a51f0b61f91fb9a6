"""The authors' own packages, as PyPI has them, for tests: imported without what only their training needs.

They pin old versions of torch, numpy and protobuf, so they go beside the other packages, without what they ask for:

    pip install --no-deps --target .venv/references encodec descript-audio-codec speechtokenizer moshi s3tokenizer
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SIDE = Path(sys.prefix, "references")


class StandIn(ModuleType):
    """A module that is imported and not used. Whatever is taken from it is a class that nothing can be done with."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def reference(distribution: str, module: str, unused: Mapping[str, Mapping[str, Any]]) -> Any:
    """`module` of a package; the test is skipped where that is not installed.

    `unused` are the modules that it imports, and that what is tested does not call, with what must be in them all the
    same: they are stood in for while the package is imported.
    """
    with _beside(), _stand_ins(unused):
        if find_spec(module.partition(".")[0]) is None:
            pytest.skip(f"pip install --no-deps --target {SIDE} {distribution}")
        return importlib.import_module(module)


@contextmanager
def _beside() -> Iterator[None]:
    sys.path.append(str(SIDE))
    try:
        yield
    finally:
        sys.path.remove(str(SIDE))


@contextmanager
def _stand_ins(names: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    made = {name: StandIn(name) for name in names if name not in sys.modules}
    for name, module in made.items():
        vars(module).update(names[name], __path__=[])
        parent, _, last = name.rpartition(".")
        if parent in made:
            setattr(made[parent], last, module)
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]
