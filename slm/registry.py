"""A name -> class lookup over a folder: the folder is the list, and plug-ins join by entry point.

Modules of a registered folder import torch and other heavy libraries inside functions only, so that looking a name
up, or listing all of them, costs milliseconds (`tests/test_layers.py` holds them to it).
"""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from numbers import Integral, Real
from os import PathLike
from typing import Any, Generic, TypeVar

from slm.errors import UsageError, did_you_mean

T = TypeVar("T")

# The annotations that can be checked in passing, as they are written; others are the class's own business.
_PLAIN_TYPES: dict[str, Callable[[Any], bool]] = {
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, Integral) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, Real) and not isinstance(value, bool),
    "str": lambda value: isinstance(value, (str, PathLike)),
    "None": lambda value: value is None,
}


class Registry(Generic[T]):
    """Classes of one kind by name.

    A module in `package` registers a class with `@REGISTRY.register("name", "other-name")`. A third-party package
    adds `[project.entry-points."<group>"] name = "module:Class"`, of a class derived from `base`.
    """

    def __init__(self, kind: str, package: str, group: str, base: type = object):
        self.kind, self.package, self.group, self.base = kind, package, group, base
        self._classes: dict[str, type[T]] = {}
        self._scanned = False

    def register(self, *names: str) -> Callable[[type[T]], type[T]]:
        def add(cls: type[T]) -> type[T]:
            for name in names:
                if self._classes.get(name, cls) is not cls:
                    raise ValueError(f"{self.kind} {name!r} is registered twice")
                self._classes[name] = cls
            return cls

        return add

    def _plugins(self) -> dict[str, EntryPoint]:
        return _installed(self.group, tuple(sys.path))

    def _scan(self) -> None:
        if not self._scanned:
            package = import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.ispkg and not module.name.startswith("_"):
                    import_module(f"{self.package}.{module.name}")
            self._scanned = True

    def names(self) -> list[str]:
        self._scan()
        return sorted({*self._classes, *self._plugins()})

    def get(self, name: str) -> type[T]:
        """The class registered under `name`; UsageError with suggestions when there is none."""
        self._scan()
        if name in self._classes:
            return self._classes[name]
        plugins = self._plugins()
        if name in plugins:
            return self._load(plugins[name])
        raise UsageError(f"unknown {self.kind} {name!r}{did_you_mean(name, self.names())}")

    def _load(self, plugin: EntryPoint) -> type[T]:
        try:
            cls: type[T] = plugin.load()
            if not (isinstance(cls, type) and issubclass(cls, self.base)):
                raise TypeError(f"{plugin.attr} is no class derived from {self.base.__module__}.{self.base.__name__}")
            return cls
        except Exception as error:  # whatever a foreign module does when it is imported
            package = f" of {plugin.dist.name}" if plugin.dist else ""
            raise UsageError(
                f"{self.kind} {plugin.name!r} cannot be loaded: the entry point {plugin.value}{package} fails with "
                f"{type(error).__name__}: {' '.join(str(error).split())}; mend or uninstall that package"
            ) from error

    def create(self, name: str, given: Mapping[str, Any] | None = None, /, **settings: Any) -> T:
        """Build it; a setting that the class does not have, or of another type, is a UsageError with suggestions.

        What is `given` is no setting: a user can neither change it nor is told of it. A class that serves several names
        takes the one asked for as its first parameter, `name`.
        """
        cls = self.get(name)
        parameters = inspect.signature(cls).parameters
        given = {**({"name": name} if "name" in parameters else {}), **(given or {})}
        free = {key: parameter for key, parameter in parameters.items() if key not in given}
        _check_settings(f"{self.kind} {name!r}", free, settings)
        return cls(**given, **settings)


@cache
def _installed(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Entry points of what is installed along a path: a file of every package there is read, so once is enough."""
    return {e.name: e for e in entry_points(group=group)}


def _check_settings(what: str, parameters: Mapping[str, inspect.Parameter], settings: Mapping[str, Any]) -> None:
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for key in settings:
        if key not in parameters:
            raise UsageError(f"{what} has no setting {key!r}{did_you_mean(key, parameters)}")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in settings:
            raise UsageError(f"{what} needs the setting {key!r}")
    for key, value in settings.items():
        annotation = parameters[key].annotation
        wanted = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        kinds = [_PLAIN_TYPES.get(part.strip()) for part in wanted.split("|")]
        if None not in kinds and not any(is_kind(value) for is_kind in kinds if is_kind):
            raise UsageError(f"{what}: the setting {key!r} must be {wanted}, not {value!r}")
