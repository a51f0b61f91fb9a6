"""The tokenizer of a language model: the one that its checkpoint names, or one that is given and must be that one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slm.errors import UsageError
from slm.files import read_json
from slm.tokenizers import check_same_spec, load_tokenizer
from slm.tokenizers.base import Tokenizer
from slm.types import TokenizerSpec


def given_tokenizer(
    known: TokenizerSpec, given: str | Path | TokenizerSpec | None, device: str
) -> tuple[TokenizerSpec, Tokenizer | None]:
    """The spec to go by where `given` (as of `slm.load_lm`) is said, and the tokenizer where it had to be loaded to
    know. UsageError where it is another than the model's."""
    made = None
    if given is None:
        return known, None
    if isinstance(given, TokenizerSpec):
        spec = given
    elif (file := Path(given, "tokenizer.json")).is_file():
        try:
            spec = TokenizerSpec.from_dict(read_json(file))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{file} is damaged ({error}); tokenize the corpus again") from error
    else:
        made = load_tokenizer(given, device)
        spec = made.spec
    check_fits(known, spec)
    return spec, made


def load_again(spec: TokenizerSpec, device: str, **changes: Any) -> Tokenizer:
    """The tokenizer of a spec, checked against it as far as it is known."""
    if not spec.is_declared:
        return load_tokenizer(spec, device, **changes)
    try:
        made = load_tokenizer(spec.name, device, **{**spec.settings, **changes})
    except UsageError as error:
        raise UsageError(
            f"{error}; the model's units are those of {spec.name} {dict(spec.settings)}: fetch these files, or say "
            "which tokenizer to take (--tokenizer: a YAML file or a tokenized corpus)"
        ) from None
    check_fits(spec, made.spec)
    return made


def check_fits(known: TokenizerSpec, given: TokenizerSpec) -> None:
    """UsageError for another tokenizer than the model's; of one that is only declared, for another number of units."""
    if not known.is_declared:
        check_same_spec(known, given)
    elif known.codebook_sizes != given.codebook_sizes:
        raise UsageError(
            f"the model reads codebooks of sizes {list(known.codebook_sizes)}, not those of {given.describe()}"
        )
