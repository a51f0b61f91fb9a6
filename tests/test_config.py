"""Options from YAML and the command line: the same ones, strict, and wrong ones in a single clear line."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Literal

import pytest

from slm.config import join_list, name_words, parse_config, run_command, spell_out_flags
from slm.errors import UsageError

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Heads:
    """Part of a model."""

    count: int = 4
    """Number of heads."""
    dropout: float = 0.0
    """Probability of dropping a head."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"--heads.count must be at least 1, not {self.count}")


@dataclass(frozen=True)
class Settings:
    """Train something."""

    out: str
    """Folder for the results."""
    steps: int = 10
    """Optimizer steps."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    tags: list[str] = field(default_factory=list)
    """Words for the report."""
    resume: bool = True
    """Go on where the last run stopped."""
    limit_s: float | None = None
    """Seconds of audio, or all of it."""
    mean: Literal["arithmetic", "geometric"] | None = None
    """Which."""
    heads: Heads = field(default_factory=Heads)
    """The heads."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"--steps must be at least 1, not {self.steps}")


def complaint(*argv: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_config(Settings, list(argv))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def yaml_file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text("out: runs/a\nsteps: 20\nlearning_rate: 3e-4\ntags: [x, y]\nheads:\n  count: 8\n")
    return path


def test_defaults_and_the_command_line() -> None:
    config = parse_config(Settings, ["--out", "a", "--steps=3", "--heads.dropout", "0.5", "--resume", "false"])
    assert config == Settings(out="a", steps=3, heads=Heads(dropout=0.5), resume=False)
    assert isinstance(config.heads, Heads)


def test_yaml_and_the_command_line_are_one(yaml_file: Path) -> None:
    expected = Settings(out="runs/a", steps=20, learning_rate=3e-4, tags=["x", "y"], heads=Heads(count=8))
    assert parse_config(Settings, ["--config", str(yaml_file)]) == expected
    assert parse_config(Settings, [f"--config={yaml_file}"]) == expected
    spelt = ["--out", "runs/a", "--steps", "20", "--learning_rate", "3e-4", "--tags", '["x","y"]', "--heads.count", "8"]
    assert parse_config(Settings, spelt) == expected


def test_later_arguments_win(yaml_file: Path) -> None:
    later = parse_config(Settings, ["--config", str(yaml_file), "--steps", "30", "--heads.dropout", "0.1"])
    assert (later.steps, later.heads) == (30, Heads(count=8, dropout=0.1))
    earlier = parse_config(Settings, ["--steps", "30", "--config", str(yaml_file)])
    assert earlier.steps == 20


def test_a_wrong_option_on_the_command_line_suggests_the_closest() -> None:
    assert complaint("--out", "a", "--stepps", "3") == "unknown option 'stepps'; did you mean 'steps'?"
    assert "did you mean 'heads.count'" in complaint("--out", "a", "--heads.cout", "3")
    assert "did you mean 'learning_rate'" in complaint("--out", "a", "--learnin-rate=1")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("lerning_rate", "did you mean 'optimizer.lr'?"),
        ("trainer.lerning_rate", "did you mean 'optimizer.lr'?"),
        ("lr", "did you mean 'optimizer.lr'?"),
        ("optimiser.lr", "did you mean 'optimizer.lr'?"),
        ("optimizer.wd", "did you mean 'optimizer.weight_decay'?"),
        ("warmup", "did you mean 'optimizer.warmup_ratio' or 'optimizer.warmup_steps'?"),
        ("backbone", "did you mean 'model.backbone'?"),
        ("row_lenght", "did you mean 'row_length'?"),
        ("zzzz", "--help lists all"),
        ("shtab", "--help lists all"),
    ],
)
def test_a_misspelt_option_names_the_one_that_is_meant_or_none(wrong: str, hint: str) -> None:
    from slm.training.config import TrainConfig

    with pytest.raises(UsageError) as caught:
        parse_config(TrainConfig, ["--data", "x", "--out", "y", f"--{wrong}", "1"])
    assert str(caught.value) == f"unknown option {wrong!r}; {hint}"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--steps", "1.5"], "option 'steps' takes a whole number, not '1.5'"),
        (["--heads.dropout", "x"], "option 'heads.dropout' takes a number, not 'x'"),
        (["--limit_s", "long"], "option 'limit_s' takes a number or null, not 'long'"),
        (["--resume", "perhaps"], "option 'resume' takes true or false, not 'perhaps'"),
        (["--tags", r'["\udcff"]'], r"""option 'tags' has a name in it that is no UTF-8 text, ["\udcff"]: rename it"""),
        (["--tags", "{a: 1}"], "option 'tags' takes a list, not '{'a': 1}'"),
        (["--mean", "mode"], "option 'mean' takes arithmetic, geometric or null, not 'mode'"),
        (["--limit_s.of", "3"], "option 'limit_s' is one value, not a group: set --limit_s, and no --limit_s.of"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_told_in_plain_words(argv: list[str], told: str) -> None:
    assert complaint("--out", "a", *argv) == told


def test_dashes_may_stand_for_underscores() -> None:
    assert parse_config(Settings, ["--out", "a-b", "--learning-rate=1"]).learning_rate == 1
    assert parse_config(Settings, ["--out", "a-b", "--learning-rate", "2"]).out == "a-b"


@pytest.mark.parametrize(
    ("text", "wrong", "meant"),
    [
        ("out: a\nstepps: 3\n", "stepps", "steps"),
        ("out: a\nheads:\n  cout: 3\n", "heads.cout", "heads.count"),
        ("out: a\nlearning-rate: 3\n", "learning-rate", "learning_rate"),
    ],
)
def test_a_wrong_key_in_yaml_suggests_the_closest(text: str, wrong: str, meant: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    message = complaint("--config", str(tmp_path / "c.yaml"))
    assert wrong in message
    assert f"did you mean '{meant}'" in message


@pytest.mark.parametrize(
    ("option", "value"),
    [("steps", "many"), ("steps", "1.5"), ("learning_rate", "fast"), ("resume", "7"), ("tags", "3")],
)
def test_a_wrong_type_names_the_option(option: str, value: str, tmp_path: Path) -> None:
    assert option in complaint("--out", "a", f"--{option}", value)
    (tmp_path / "c.yaml").write_text(f"out: a\n{option}: {value}\n")
    assert option in complaint("--config", str(tmp_path / "c.yaml"))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert "out" in complaint("--steps", "3")
    missing = tmp_path / "none.yaml"
    assert complaint("--config", str(missing)) == f"--config: no such file: {missing}"
    assert complaint(f"--config={missing}") == f"--config: no such file: {missing}"
    complaint("--out", "a", "--config")


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("out: a\nsteps: 5\ntags: []\nsteps: 6\n", "steps", (2, 4)),
        ("out: a\nheads:\n  count: 1\n  dropout: 0.1\n  count: 2\n", "count", (3, 5)),
        ("out: a\nheads: {count: 1, count: 2}\n", "count", (2, 2)),
    ],
)
def test_a_key_that_stands_twice_in_a_file_is_refused(text, key, lines, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    told = complaint("--config", str(path))
    assert told == f"{path}: {key!r} stands in line {lines[0]} and in line {lines[1]}: leave one out"


def test_the_same_key_in_two_groups_and_anchors_are_not_twice(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("out: a\ntags: &words [steps, steps]\nsteps: 7\nheads: {count: 2}\n")
    assert parse_config(Settings, ["--config", str(path)]).steps == 7


@pytest.mark.parametrize("text", ["out: [unclosed\n", "just words\n", "- a\n- b\n", "\x00"])
def test_a_file_that_is_no_yaml_mapping(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert "\n" not in complaint("--out", "a", "--config", str(tmp_path / "c.yaml"))


@pytest.mark.parametrize("value", ["3", "null", "[1, 2]"])
def test_a_value_where_a_group_belongs(value: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"out: a\nheads: {value}\n")
    assert "--heads.count" in complaint("--config", str(tmp_path / "c.yaml"))


@pytest.mark.parametrize("argv", [["--pattern", "delay"], ["--config", "run.yaml"]])
def test_a_word_where_a_group_belongs_is_no_file_that_is_not_there(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slm.training.config import TrainConfig

    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("pattern: delay\n")
    with pytest.raises(UsageError, match=r"option 'pattern' is a group, not 'delay': set --pattern\.name and the like"):
        parse_config(TrainConfig, ["--data", "x", "--out", "y", *argv])


def test_complaints_of_the_dataclass_itself_pass_through(tmp_path: Path) -> None:
    assert complaint("--out", "a", "--steps", "0") == "--steps must be at least 1, not 0"
    assert "--heads.count must be at least 1, not 0" in complaint("--out", "a", "--heads.count", "0")
    (tmp_path / "c.yaml").write_text("out: a\nheads: {count: 0}\n")
    assert "--heads.count must be at least 1, not 0" in complaint("--config", str(tmp_path / "c.yaml"))


def exit_status(main, *argv: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run_command(main, Settings, list(argv))
    return caught.value.code


def test_exit_statuses(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: BaseException):
        def main(config: Settings) -> None:
            raise error

        return main

    assert exit_status(lambda config: None, "--out", "a") == 0
    assert exit_status(lambda config: 3, "--out", "a") == 3
    assert capsys.readouterr().err == ""
    assert exit_status(lambda config: None) == 2
    assert exit_status(lambda config: None, "--out", "a", "--nope", "1") == 2
    assert all(line.startswith("error: ") for line in capsys.readouterr().err.splitlines())
    assert exit_status(failing(UsageError("no such corpus")), "--out", "a") == 2
    assert capsys.readouterr().err == "error: no such corpus\n"
    assert exit_status(failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")), "--out", "a") == 1
    assert "no space left on the disk (/data/x)" in capsys.readouterr().err
    assert exit_status(failing(KeyboardInterrupt()), "--out", "a") == 130
    assert exit_status(failing(UnicodeEncodeError("ascii", "\u00fc.wav", 0, 1, "not in range")), "--out", "a") == 1
    assert "set PYTHONUTF8=1" in capsys.readouterr().err
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    assert exit_status(lambda config: None, "--out", "a") == 0
    assert "names of files are iso8859-1: some may not be found; set PYTHONUTF8=1" in capsys.readouterr().err


def test_faults_of_the_program_are_not_dressed_up() -> None:
    def main(config: Settings) -> None:
        raise PermissionError(errno.EACCES, "denied")

    with pytest.raises(PermissionError):
        run_command(main, Settings, ["--out", "a"])


READER_HAS_LEFT = """
import os, sys
from slm.config import run_command, run_one_of
from tests.test_config import Settings

def main(config):
    print("line\\n" * 50_000)
    print("went on", file=sys.stderr)

def other_pipe(config):
    ends, starts = os.pipe()
    os.close(ends)
    os.write(starts, b"x")

def last(config):
    print("line \u2013")

if sys.argv[1] == "help":
    run_one_of({"go": (main, Settings, ())}, "prog", "About.", ["--help"])
run_command(globals()[sys.argv[1]], Settings, ["--out", "a"])
"""


@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_reader_that_has_enough_ends_a_command_without_a_word(buffered: str) -> None:
    ends, starts = os.pipe()
    os.close(ends)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": buffered}
    started = {
        case: subprocess.Popen(
            [sys.executable, "-c", READER_HAS_LEFT, case],
            stdout=None if case == "other_pipe" else starts,
            stderr=subprocess.PIPE,
            env=environment,
        )
        for case in ("main", "last", "help", "other_pipe")
    }
    os.close(starts)
    told = {case: process.communicate()[1] for case, process in started.items()}
    assert b"BrokenPipeError" in told.pop("other_pipe")  # a fault like any other
    assert told == {"main": b"", "last": b"", "help": b""}
    assert [process.returncode for process in started.values()] == [141, 141, 141, 1]


def test_a_command_whose_output_is_closed_or_lacks_letters_does_its_work() -> None:
    command = f"{shlex.quote(sys.executable)} -W error::DeprecationWarning -c {shlex.quote(READER_HAS_LEFT)} last"
    for closed, printed in ((">&-", b""), (">&- 2>&-", b""), ("", rb"line \u2013" + b"\n")):
        ended = subprocess.run(f"{command} {closed}", shell=True, capture_output=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"})  # fmt: skip
        assert (ended.returncode, ended.stderr, ended.stdout) == (0, b"", printed)


def test_help_is_complete_and_imports_no_torch(tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    script.write_text(
        dedent("""
        import sys
        from slm.config import run_command
        from slm.tokenizers import load_tokenizer
        from tests.test_config import Settings

        try:
            run_command(lambda config: None, Settings)
        finally:
            print("torch" in sys.modules, file=sys.stderr)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stderr.strip() == "False"
    for words in ("Train something.", "--config", "--steps", "Optimizer steps.", "--heads.dropout", "0.001"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("world", "status", "said"), [("1", 0, "done, late"), ("2", 0, "done"), ("2", 3, "done, late")]
)
def test_one_of_several_processes_ends_at_once_when_all_is_done(tmp_path, world, status, said):
    """What would come at the interpreter's end, such as an abort, does not; but where it has failed it ends as ever."""
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit, sys\nfrom slm.config import ending_at_once\natexit.register(print, ', late')\n"
        f"with ending_at_once():\n    print('done', end='')\n    sys.exit({status})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": world}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout.strip()) == (status, said)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/data/x"),
        OSError(errno.ENOSPC, "No space left on device", "/there/x", None, "/data/x"),  # of a copy: from, to
        RuntimeError("I/O error: No space left on device (os error 28)"),
        OSError(errno.EIO, "Input/output error", "/data/x"),
        RuntimeError("I/O error: Read-only file system (os error 30)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 306688 vs 306580"),
    ],
)
def test_what_a_disk_has_against_a_run_is_one_line_whoever_tells_of_it(error, capsys):
    def main(config):
        raise error

    with pytest.raises(SystemExit) as stop:
        run_command(main, Settings, ["--out", "x"])
    assert stop.value.code == 1
    printed = capsys.readouterr().err
    said = {"Read-only": "has become read-only", "Input/output": "the disk (/data/x) fails"}
    assert next((told for name, told in said.items() if name in str(error)), "no space left on the disk") in printed
    assert "/there/x" not in printed
    assert printed.strip().count("\n") == 0


def test_an_option_is_never_guessed_from_its_beginning():
    with pytest.raises(UsageError, match=r"unknown option 'step'; did you mean 'steps'"):
        parse_config(Settings, ["--out", "x", "--step", "4"])


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], []),
        (["a"], ["--out", "a"]),
        (["a", "b", "--steps", "3"], ["--steps", "3", "--out", "a", "--tags", '["b"]']),
        (["--steps=3", "a", "--resume", "b"], ["--steps=3", "--resume", "true", "--out", "a", "--tags", '["b"]']),
        (["--resume", "false", "--limit_s", "-1", "-h"], ["--resume", "false", "--limit_s", "-1", "-h"]),
    ],
)  # fmt: skip
def test_words_and_flags_spelt_out(args: list[str], expected: list[str]) -> None:
    assert name_words(spell_out_flags(args, Settings), ["out", "tags"], Settings) == expected


def test_a_word_too_many_is_said() -> None:
    assert "unrecognized arguments: b" in complaint(*name_words(["a", "b"], ["out"], Settings))


def test_the_words_after_an_option_are_a_list():
    assert join_list(["--a", "b:c", "d", "--out", "x"], "--a") == ["--a", '["b:c", "d"]', "--out", "x"]
    assert join_list(["--a", "b"], "--a") == ["--a", "b"]
    assert join_list(["--a", "b"], "--a", fewest=1) == ["--a", '["b"]']
    assert join_list(["--a"], "--a", fewest=1) == ["--a"]
    again = ["--out", "x", "--a", "b", "--c", "1", "--a", "d", "e", "--a=f"]
    assert join_list(again, "--a") == ["--out", "x", "--a", '["b", "d", "e", "f"]', "--c", "1"], "none of them is lost"
    assert join_list(["--a", '["b"]'], "--a", fewest=1) == ["--a", '["b"]']
