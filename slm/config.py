"""Frozen dataclasses <- YAML + command line, strict: a wrong key is one clear line and exit status 2.

A command declares a frozen dataclass whose fields carry their help as a docstring below each, and runs

    if __name__ == "__main__":
        run_command(main, MyConfig)
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from slm.errors import StoppedError, UsageError, did_you_mean, disk_fault, file_of
from slm.option_names import meant
from slm.yaml_files import refuse_repeated_keys

C = TypeVar("C")

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true, false",
    "str": "a text",
    "NoneType": "null",
    "list": "a list",
    "tuple": "a list",
    "dict": "names with values",
    "Mapping": "names with values",
}
_BOOLS = {"true", "false", "yes", "no"}  # as values of an option


def parse_config(cls: type[C], argv: Sequence[str] | None = None, prog: str | None = None) -> C:
    """Build `cls` from `--config FILE` and `--field value` (nested: `--model.hidden_size 256`).

    Later arguments win. Raises UsageError for anything that does not fit, SystemExit(0) for `--help`.
    """
    from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=prog, description=(cls.__doc__ or "").strip(), exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below.")
    parser.add_class_arguments(cls, as_group=False)
    args = [_with_underscores(arg) for arg in (sys.argv[1:] if argv is None else argv)]
    _check_config_files(args)
    try:
        given = parser.parse_args(args)
        _check_groups(cls, given)
        parsed = parser.instantiate(given)
    except ArgumentError as error:
        raise UsageError(_one_line(str(error), parser)) from error
    values = {k: v for k, v in vars(parsed).items() if k != "config"}
    return cls(**values)


def _with_underscores(arg: str) -> str:
    """`--max-rejects` is `--max_rejects`."""
    name, equals, value = arg.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else arg


def _check_config_files(args: Sequence[str]) -> None:
    for i, arg in enumerate(args):
        path = arg.split("=", 1)[1] if arg.startswith("--config=") else None
        if arg == "--config" and i + 1 < len(args):
            path = args[i + 1]
        if path is None:
            continue
        if not Path(path).is_file():
            raise UsageError(f"--config: no such file: {path}")
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError) as error:
            raise UsageError(f"--config: {path} cannot be read as UTF-8 text ({error})") from error
        refuse_repeated_keys(path, text)


def _check_groups(cls: type[Any], given: Any, prefix: str = "") -> None:
    """A value where a group of options belongs (`model: tiny`), which the parser lets through and fails on later."""
    for name, kind in get_type_hints(cls).items():
        if isinstance(kind, type) and is_dataclass(kind):
            if not hasattr(given[name], "__dict__"):
                key, example = prefix + name, fields(kind)[0].name
                raise UsageError(f"option '{key}' is a group, not {given[name]!r}: set --{key}.{example} and the like")
            _check_groups(kind, given[name], f"{prefix}{name}.")


def _one_line(message: str, parser: Any) -> str:
    """The parser's complaint on one line, with the closest known option where one was misspelt."""
    keys = [a.dest for a in parser._actions if a.dest != "help" and not a.dest.startswith(("print_", "config"))]
    text = " ".join(message.split())
    patterns = (
        r"unrecognized arguments: --([\w.\-]+)",
        r"Option '([\w.\-]+)' is not accepted",
        r"Group '([\w.\-]+)' does not accept option '([\w.\-]+)'",
    )
    for pattern in patterns:
        if found := re.search(pattern, text, re.I):
            wrong = ".".join(found.groups())
            return f"unknown option '{wrong}'{meant(wrong, keys)}"
    if found := re.search(r"Parser key \"([\w.]+)\": Unable to load config '(.*?)'", text):
        group, value = found.groups()  # a word where a group belongs is taken for a file of its options
        example = next(key for key in keys if key.startswith(f"{group}."))
        return f"option '{group}' is a group, not {value!r}: set --{example} and the like"
    if found := re.search(r"Parser key \"([\w.]+)\": (.*)", text):
        return _wrong_value(*found.groups()) or text
    return text


def _wrong_value(key: str, complaint: str) -> str | None:
    """What the parser says of a value of another type, in the words of those who write options."""
    kinds = re.findall(r"Expected (?:a )?(?:<class '(?:[\w.]+\.)?(\w+)'>|typing\.Literal\[(.*?)\])", complaint)
    given = re.search(r"(?:Got|Given) value: ?(.*?)(?: - Expected .*| Given value.*)?$", complaint)
    if not kinds or not given or any(kind and kind not in _KINDS for kind, _ in kinds):
        return None
    if part := re.match(r"NestedArg\(key='(\w+)'", given[1]):
        return f"option '{key}' is one value, not a group: set --{key}, and no --{key}.{part[1]}"
    if "\\udc" in given[1]:
        return f"option '{key}' has a name in it that is no UTF-8 text, {given[1]}: rename it"
    wanted = [word for kind, choices in kinds for word in (_KINDS[kind] if kind else choices).split(", ")]
    *first, last = dict.fromkeys(word.strip("'") for word in wanted)
    return f"option '{key}' takes {', '.join(first)}{' or ' if first else ''}{last}, not '{given[1]}'"


def spell_out_flags(args: Sequence[str], cls: type[Any]) -> list[str]:
    """`--streamable` alone means `--streamable true`, of every option that is true or false."""
    flags = {f"--{field.name}" for field in fields(cls) if str(field.type).startswith("bool")}
    made: list[str] = []
    for arg, following in zip_longest(args, args[1:], fillvalue=""):
        made += [arg, "true"] if arg in flags and following.lower() not in _BOOLS else [arg]
    return made


def name_words(args: Sequence[str], names: Sequence[str], cls: type[Any]) -> list[str]:
    """`A B --out C` -> `--out C --corpus A --other B`, for `names` corpus and other: words that follow no option stand
    for the options of these names; one that is a list takes all that are left. `args` are without bare flags."""
    made, words = list[str](), list[str]()
    following = iter(args)
    for arg in following:
        if arg.startswith("-"):
            made += [arg] if "=" in arg or arg in ("-h", "--help") else [arg, *islice(following, 1)]
        else:
            words.append(arg)
    lists = {field.name for field in fields(cls) if str(field.type).startswith("list")}
    for name in names:
        if words and name in lists:
            made, words = [*made, f"--{name}", json.dumps(words)], []
        elif words:
            made += [f"--{name}", words.pop(0)]
    return [*made, *words]


def join_list(args: Sequence[str], option: str, fewest: int = 2) -> list[str]:
    """`--option A B` and `--option A --option=B` -> `--option ["A", "B"]`, as the parser takes a list, where
    `fewest` or more words follow in all. A list as the parser takes it stays as it is."""
    words, others = list[str](), list[str]()
    taking, place = False, 0
    for arg in args:
        if arg == option or arg.startswith(f"{option}="):
            place = place if words else len(others)
            words += [arg.partition("=")[2]] if "=" in arg else []
            taking = True
        elif taking and not arg.startswith("--"):
            words.append(arg)
        else:
            taking = False
            others.append(arg)
    if len(words) < fewest or words[0].startswith("["):
        return list(args)
    return [*others[:place], option, json.dumps(words), *others[place:]]


def reader_has_left(error: BaseException) -> bool:
    """Whether the pipe that broke is the one that is printed to, and no other, such as a worker's."""
    if isinstance(error, BrokenPipeError):
        try:
            print(flush=True)
        except BrokenPipeError:
            return True
    return False


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """`COMMAND | head`: who reads has enough before all is printed. Then the command ends without a word, with the
    status that shells give for it (128 + SIGPIPE), since what it was about may not be done."""
    for name in ("stdout", "stderr"):  # None where it was closed (`>&-`)
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.open(os.devnull, os.O_WRONLY), "w", closefd=False))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):  # of a locale that may lack a letter of some name or transcript
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError as error:
        if not reader_has_left(error):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains of it as it ends
        sys.exit(141)


Command = tuple[Callable[[Any], int | None], type[Any], tuple[str, ...]]
"""What runs, its options, and which of these the words after the command's name stand for."""


@reader_may_leave()
def run_one_of(commands: Mapping[str, Command], prog: str, about: str, argv: Sequence[str] | None = None) -> None:
    """`PROG NAME WORDS.. --options`: run the command of this name; without a name, `about` and a line on each."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        width = max(map(len, commands)) + 2
        lines = [f"  {n:<{width}}{str(config.__doc__).partition(chr(10))[0]}" for n, (_, config, _) in commands.items()]
        print("\n".join([about, "", *lines, "", f"{prog} COMMAND --help tells more."]))
        sys.exit(0)
    if args[0] not in commands:
        print(f"error: no command {args[0]!r}{did_you_mean(args[0], commands)}", file=sys.stderr)
        sys.exit(2)
    command, config, words = commands[args[0]]
    run_command(command, config, name_words(spell_out_flags(args[1:], config), words, config), prog=f"{prog} {args[0]}")


def status_told(error: Exception) -> int:
    """The exit status for what the system has against a run, which a line then tells; 0 for any other fault."""
    name = file_of(error)
    if fault := disk_fault(error):
        where = f" ({name})" if name else ""
        what = {errno.ENOSPC: f"no space left on the disk{where}; free some",
                errno.EROFS: f"the disk{where} has become read-only; make it writable",
                errno.EIO: f"the disk{where} fails ({os.strerror(errno.EIO)}); mend it"}[fault]  # fmt: skip
        told, status = f"{what} and run the same command again to go on", 1
    elif isinstance(error, UnicodeEncodeError) and error.encoding != "utf-8":
        told, status = f"the locale says {error.encoding}, which lacks letters of {error.object!r}; set PYTHONUTF8=1", 1
    elif isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        told, status = f"{name}: a name longer than any file can have", 2
    else:
        return 0
    print(f"error: {told}", file=sys.stderr)
    return status


@reader_may_leave()
def run_command(
    main: Callable[[Any], int | None], cls: type[Any], argv: Sequence[str] | None = None, prog: str | None = None
) -> None:
    """Parse, run `main(config)`, and exit: 0 or main's status; 2 for wrong use; 1 with one line for what stops a run,
    such as a full disk."""
    # OpenMP threads that spin while they wait starve each other as soon as one other process is busy. Read when torch
    # is first imported, which no command has done yet.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if (encoding := sys.getfilesystemencoding()) != "utf-8":  # a list's names in UTF-8 are those of other files then
        told = f"the locale says that names of files are {encoding}: some may not be found; set PYTHONUTF8=1"
        print(f"warning: {told}", file=sys.stderr)
    try:
        status = main(parse_config(cls, argv, prog))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except StoppedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not (status := status_told(error)):
            raise
        sys.exit(status)
    sys.exit(status or 0)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Around a command that a launcher may start several times: when all is done, such a process ends here. Where the
    interpreter ends instead, what libraries still hold of a process group (gloo's threads, under DeepSpeed) is now and
    then an abort, by which the launcher calls the run failed."""
    try:
        yield
    except SystemExit as end:
        if end.code or int(os.environ.get("WORLD_SIZE", 1)) == 1:
            raise
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)
