"""YAML files that people write: a key that stands twice, of which a parser takes the last in silence, is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slm.errors import UsageError


def read_yaml(path: Path) -> Any:
    """What the file holds; UsageError where it is no YAML."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    refuse_repeated_keys(path, text)
    return values


def refuse_repeated_keys(path: str | Path, text: str) -> None:
    """UsageError for a mapping of `text`, which `path` holds, with the same key twice. What is no YAML passes."""
    import yaml

    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return
    for mapping in _mappings(root):
        lines: dict[str, int] = {}
        for key, _ in mapping.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines and name != "<<":
                raise UsageError(f"{path}: {name!r} stands in line {lines[name]} and in line {line}: leave one out")
            lines[name] = line


def _mappings(node: Any) -> Iterator[Any]:
    """This node and those below it, as far as they are mappings."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value)
