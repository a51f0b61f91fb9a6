"""Grammars as YAML: word lists with forms, and templates of 2 x 2 designs (docs/minimal_pairs.md tells more).

A template's two right sentences hold the very words of its two wrong ones, so that no word alone tells them apart: what
does not is refused.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from eval.minimal_pairs.grammar import Design
from slm.errors import UsageError, did_you_mean
from slm.types import stable_hash
from slm.yaml_files import read_yaml

FOLDER = Path(__file__).with_name("grammars")
MOST_DESIGNS = 3_000  # of one template; of more, so many are drawn
_SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?\}")

Forms = dict[str, str]
"""A word's forms by their names; a word with one form has it under ""."""


@dataclass(frozen=True)
class Grammar:
    """Designs by subtype, the words of their lists that are two letters or more, and words that no sentence holds."""

    name: str
    language: str
    designs: dict[str, list[Design]]
    words: list[str]
    other_words: list[str]
    content: Any
    """What the file says, for its fingerprint."""


def shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load_grammar(name: str) -> Grammar:
    """A YAML file, or the name of one that is shipped. UsageError that names the template or list for what is wrong."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped().get(name)
    if path is None or not path.is_file():
        raise UsageError(f"--grammar: no such file: {name}{did_you_mean(name, shipped())}")
    return _grammar(str(path), path.stem, read_yaml(path))


def for_language(language: str) -> str:
    """The name of the shipped grammar of a language; empty where there is none."""
    import yaml

    for name, path in shipped().items():
        if yaml.safe_load(path.read_text(encoding="utf-8"))["language"] == language:
            return name
    return ""


def _grammar(where: str, name: str, content: Any) -> Grammar:
    wanted = {"language": (str, "text (quote the word no)"), "words": (dict, "mapping"), "templates": (list, "list")}
    for key, (kind, called) in wanted.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            raise UsageError(
                f"{where}: {key} is missing or no {called}; a grammar has language, words (lists) and templates"
            )
    others = content.get("other_words") or []
    if not isinstance(others, list):
        raise UsageError(f"{where}: other_words is no list of words")
    others = _texts(f"{where}, other_words", others)
    lists = {key: _forms(f"{where}, list {key}", content["words"][key]) for key in _texts(where, content["words"])}
    designs: dict[str, list[Design]] = {}
    for template in content["templates"]:
        for design in _Template(where, template, lists).designs():
            designs.setdefault(design.subtype, []).append(design)
    words = [w for entries in lists.values() for forms in entries for form in forms.values() for w in form.split()]
    if both := sorted({*words} & {*others}):
        raise UsageError(f"{where}: {', '.join(both)} among other_words, which no sentence may hold, and in a list")
    return Grammar(name, content["language"], designs, list(dict.fromkeys(words)), others, content)


def _forms(where: str, value: Any) -> list[Forms]:
    given = {"forms": [""], "list": value} if isinstance(value, list) else value
    if not isinstance(given, dict) or not all(isinstance(given.get(key), list) for key in ("forms", "list")):
        raise UsageError(f"{where} is no list of words, and no {{forms: [..], list: [..]}}")
    names, entries, made = _texts(where, given["forms"]), _texts(where, given["list"]), []
    for entry in entries:
        forms = [form.strip() for form in entry.split("/")] if names != [""] else [entry]
        if len(forms) != len(names):
            raise UsageError(f"{where}: {entry} has {len(forms)} forms, not those of {'/'.join(names)}")
        made.append(dict(zip(names, forms, strict=True)))
    if not made:
        raise UsageError(f"{where} is empty")
    return made


def _texts(where: str, values: Iterable[Any]) -> list[str]:
    """UsageError for what YAML takes for no text: of the words no, on and null it makes values of its own."""
    for value in (made := list(values)):
        if not isinstance(value, str):
            raise UsageError(f"{where}: {value!r} is no text to YAML; put quotes around it")
    return made


class _Template:
    """One template: its slots, each with a list, and its two pairs of patterns."""

    def __init__(self, where: str, template: Any, lists: Mapping[str, list[Forms]]):
        if not isinstance(template, dict) or not {"type", "subtype", "pairs"} <= template.keys():
            raise UsageError(f"{where}: a template has type, subtype, slots and pairs; this one is {template!r}")
        self.type, self.subtype = str(template["type"]), str(template["subtype"])
        self.where = f"{where}, template {self.subtype}"
        self.slots: dict[str, str] = template.get("slots") or {}
        if not isinstance(self.slots, dict) or not all(isinstance(name, str) for name in self.slots.values()):
            raise UsageError(f"{self.where}: slots name a list each, as {{n: noun}}; these are {self.slots!r}")
        _texts(self.where, self.slots)
        for name in self.slots.values():
            if name not in lists:
                raise UsageError(f"{self.where}: no list {name!r}{did_you_mean(name, lists)}")
        self.lists = {slot: lists[name] for slot, name in self.slots.items()}
        self.right, self.wrong = self._patterns(template["pairs"])
        first, second = ({slot for slot, _ in _SLOT.findall(pattern)} for pattern in self.right)
        self.apart = first != second
        for pattern in (*self.right, *self.wrong):
            self._check_slots(pattern)
        self._check_balance()

    def _patterns(self, pairs: Any) -> tuple[tuple[str, str], tuple[str, str]]:
        if not isinstance(pairs, list) or len(pairs) != 2 or not all(isinstance(p, dict) for p in pairs):
            raise UsageError(f"{self.where}: pairs must be two, each with right and wrong")
        for pair in pairs:
            if set(pair) != {"right", "wrong"}:
                raise UsageError(f"{self.where}: each pair has right and wrong, not {', '.join(map(str, pair))}")
            _texts(self.where, pair.values())  # {n.sg} alone is a mapping to YAML
        first, second = pairs
        return (first["right"], second["right"]), (first["wrong"], second["wrong"])

    def _check_slots(self, pattern: str) -> None:
        for slot, form in _SLOT.findall(pattern):
            if slot not in self.slots:
                raise UsageError(f"{self.where}: no slot {slot!r}{did_you_mean(slot, self.slots)}")
            if form not in self.lists[slot][0]:
                known = [f for f in self.lists[slot][0] if f]
                raise UsageError(f"{self.where}: {{{slot}{'.' * bool(form)}{form}}} is no form; known: {known}")

    def _check_balance(self) -> None:
        """Each word, and each form of each slot, as often in the right sentences as in the wrong ones."""
        right, wrong = (Counter(" ".join(side).split()) for side in (self.right, self.wrong))
        if right != wrong:
            more = sorted({*(right - wrong), *(wrong - right)})
            raise UsageError(
                f"{self.where}: {', '.join(more)} is not as often in right sentences as in wrong ones, and so tells "
                "them apart: let the second pair turn the first around"
            )

    def designs(self) -> Iterator[Design]:
        for content in self._contents():
            words = dict(zip(self.slots, content, strict=True))
            right, wrong = (tuple(_fill(p, words) for p in side) for side in (self.right, self.wrong))
            heads = tuple("/".join(forms.values()) for forms in content)
            yield Design(self.type, self.subtype, heads, (right[0], right[1]), (wrong[0], wrong[1]), self.apart)

    def _contents(self) -> Iterator[tuple[Forms, ...]]:
        """Every choice of words, or `MOST_DESIGNS` of them; no word twice in one sentence."""
        lists = [*self.lists.values()]
        total = prod(map(len, lists))
        chosen: Sequence[int] = range(total)
        if total > MOST_DESIGNS:
            rng = random.Random(stable_hash([self.subtype, self.right]))
            chosen = sorted(rng.sample(range(total), MOST_DESIGNS))
        for number in chosen:
            made = []
            for entries in lists:
                number, i = divmod(number, len(entries))
                made.append(entries[i])
            if len({tuple(forms.values()) for forms in made}) == len(made):
                yield tuple(made)


def _fill(pattern: str, words: Mapping[str, Forms]) -> str:
    return _SLOT.sub(lambda found: words[found[1]][found[2] or ""], pattern)
