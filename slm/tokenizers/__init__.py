"""Audio tokenizers behind one contract. `load_tokenizer("mimi")` is all that the rest of `slm` uses."""

from __future__ import annotations

from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from slm.devices import choose_device
from slm.errors import UsageError
from slm.tokenizers.base import EXACT, TOKENIZERS, Tokenizer, check_same_spec
from slm.types import TokenizerSpec
from slm.yaml_files import read_yaml

__all__ = ["TOKENIZERS", "Tokenizer", "check_same_spec", "load_tokenizer"]


def load_tokenizer(source: str | Path | TokenizerSpec, device: str = "cpu", **settings: Any) -> Tokenizer:
    """A tokenizer by registered name, by YAML file (`name:` and its settings), or exactly the one of a spec.

    Settings given here win over the file's. `mode` is `exact` unless asked for: codes clip by clip, as the authors'
    code gives them. Codecs of convolutions also have `batched` (clips of different lengths together: equal in exact
    arithmetic, faster on a GPU) and `bf16`; what is known of their mismatch is in the spec's taxonomy.

    Raises UsageError for an unknown name, setting, mode or device, for weights that are not there, and, loading from a
    spec, when what is found is not what made the codes.
    """
    if isinstance(source, TokenizerSpec):
        tokenizer = load_tokenizer(source.name, device, **{**source.settings, **settings})
        check_same_spec(source, tokenizer.spec)
        if not settings and source.decoder_fingerprint != tokenizer.spec.decoder_fingerprint:
            raise UsageError(
                f"{source.describe()}: its vocoder is another than it was ({source.settings.get('vocoder')}): bring "
                "back the weights it had, or load the tokenizer with the one wanted as `vocoder`"
            )
        return tokenizer
    name, from_file = _read_source(str(source))
    _check_name(name)
    wanted = {**from_file, **settings}
    mode = wanted.pop("mode", EXACT)
    tokenizer = _create(name, choose_device(device), wanted)
    tokenizer.use_mode(mode)
    return tokenizer


def _check_name(name: str) -> None:
    """UsageError that leads on from the names of files and of records, which are not those to load by."""
    if name in TOKENIZERS.names():
        return
    if (file := Path("configs/tokenizers", f"{name}.yaml")).is_file():
        raise UsageError(f"unknown tokenizer {name!r}; did you mean {file}?")
    from slm.tokenizers.database import records

    if name in {row.name for row in records()}:
        raise UsageError(f"tokenizer {name!r} is not loaded by this name: `python -m slm.tokenizers {name}` tells more")


def _create(name: str, device: str, settings: dict[str, Any]) -> Tokenizer:
    """One line for whatever a network answers to a configuration or to weights that are no such thing: there are as
    many errors as ways to be wrong. What it was stays the cause."""
    try:
        tokenizer = TOKENIZERS.create(name, {"device": device}, **settings)
        named = tokenizer.spec.name  # by which a corpus and a checkpoint will load it
    except (UsageError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ in ("OutOfMemoryError", "AcceleratorError"):
            raise
        reason = f"{type(error).__name__}: {(str(error).strip() or 'no reason').splitlines()[0]}"
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items()) or "its defaults"
        raise UsageError(
            f"tokenizer {name!r} cannot be made of {given}: its configuration or weights are not what it needs "
            f"({reason})"
        ) from error
    if named != name and named not in TOKENIZERS.names():
        raise UsageError(f"tokenizer {name!r} calls itself {named!r} in its spec: nothing could load it again by that")
    parameters = signature(type(tokenizer)).parameters
    needed = {key for key in settings if key in parameters and parameters[key].default is Parameter.empty}
    if left_out := sorted(needed - tokenizer.spec.settings.keys()):
        raise UsageError(
            f"tokenizer {name!r} leaves {', '.join(left_out)} out of its spec's settings: nothing could load it again"
        )
    return tokenizer


def _read_source(source: str) -> tuple[str, dict[str, Any]]:
    if not source.endswith((".yaml", ".yml")):
        return source, {}
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"no such tokenizer file: {path}")
    values = read_yaml(path)
    if not isinstance(values, dict) or "name" not in values:
        raise UsageError(f"{path}: a tokenizer file needs `name:` (one of {', '.join(TOKENIZERS.names())})")
    if "device" in values:
        raise UsageError(f"{path}: a tokenizer file says nothing of where it runs; leave out `device:`, give --device")
    return str(values.pop("name")), values
