"""What a night can bring: kills at any moment, a full disk, a clock that jumps, too many bad files."""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from slm.corpus import pipeline
from slm.corpus.config import CorpusConfig
from slm.corpus.job import Step
from slm.corpus.pipeline import tokenize_corpus
from slm.corpus.plan import Plan, Reject
from slm.corpus.progress import Progress
from slm.corpus.tally import Tally, TooManyRejectsError
from slm.data.store import CodeStore
from slm.errors import UsageError
from tests.corpus.audio import bad_folder, contents, good_folder
from tests.corpus.plugin import ROOT, MortalTokenizer, environment, tokenize_command
from tests.fakes import ArithmeticTokenizer


class SlowTokenizer(MortalTokenizer):
    """Gives a kill the time to come."""

    def encode(self, clips):
        time.sleep(0.02)
        return super().encode(clips)


def config_for(tmp_path, **options):
    given = {"audio": str(tmp_path / "audio"), "tokenizer": "arithmetic", "out": str(tmp_path / "out"), **options}
    return CorpusConfig(**{"shard_hours": 1.6 / 3600, "batch_seconds": 1.0, "num_workers": 0, **given})


def run(config: CorpusConfig, kill_at: str) -> None:
    os.environ["KILL_AT"] = kill_at
    tokenize_corpus(config, SlowTokenizer())


def started(config: CorpusConfig, kill_at: str = "") -> multiprocessing.Process:
    """A run in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["slm.corpus.pipeline", "slm.corpus.probing", "slm.corpus.readers"])
    process = context.Process(target=run, args=(config, kill_at))
    process.start()
    return process


@pytest.fixture
def expected(tmp_path):
    """The files of the corpus, made at one go."""
    bad_folder(good_folder(tmp_path / "audio", clips=10))
    tokenize_corpus(config_for(tmp_path, out=str(tmp_path / "whole")), ArithmeticTokenizer())
    return contents(tmp_path / "whole")


def test_killed_at_every_kind_of_moment_it_ends_with_the_same_bytes(tmp_path, expected):
    # Each run gets a little further: at the plan, in the first shard, at a shard's rename, after one, at the ends.
    for moment in ("rename:2", "encode:2", "rename:1", "rename:2", "encode:3", "rename:3"):
        killed = started(config_for(tmp_path), moment)
        killed.join()
        assert killed.exitcode == -signal.SIGKILL
        assert {name for name in contents(tmp_path / "out") if not name.startswith(".")} < set(expected)
        with pytest.raises(UsageError):
            CodeStore(tmp_path / "out")
    last = started(config_for(tmp_path))
    last.join()
    assert last.exitcode == 0
    assert contents(tmp_path / "out") == expected


@pytest.mark.thorough
@pytest.mark.parametrize("number", [4, 20])
def test_kills_at_random_moments_of_the_run_or_of_what_reads_for_it(tmp_path, expected, number):
    config = config_for(tmp_path)
    begun_at = time.monotonic()
    started(config).join()
    rng, length_s = random.Random(0), time.monotonic() - begun_at
    for kind in itertools.islice(itertools.cycle(("run", "reader", "run with readers", "reader")), number):
        has_killed = False
        while not has_killed:
            if (tmp_path / "out" / "state.json").exists():
                assert contents(tmp_path / "out") == expected
                shutil.rmtree(tmp_path / "out")
            if kind == "run":
                process = started(config)
                process.join(rng.uniform(0, length_s))
                has_killed = _kill(process)
            else:
                process = started(replace(config, num_workers=2))
                has_killed = _kill_a_reader(process, rng) if kind == "reader" else _kill_above_readers(process, rng)
            process.join()
            assert process.exitcode == (-signal.SIGKILL if has_killed and kind != "reader" else 0)
    last = started(config)
    last.join()
    assert last.exitcode == 0
    assert contents(tmp_path / "out") == expected


def _kill(process: multiprocessing.Process) -> bool:
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL  # and had not ended before


def _kill_a_reader(process: multiprocessing.Process, rng: random.Random) -> bool:
    """Kill one of the processes that read for a run, or the one that starts them; the run goes on by itself."""
    with suppress(psutil.NoSuchProcess):
        if children := _children_of(process, rng, psutil.Process.children):
            rng.choice(children).kill()
            return True
    return False


def _kill_above_readers(process: multiprocessing.Process, rng: random.Random) -> bool:
    """Kill a run while processes read for it: they are to end then, as is the one that starts them."""
    children = _children_of(process, rng, _readers_of)
    if not children:
        return False
    has_killed = _kill(process)
    assert _have_ended(children)
    return has_killed


def _children_of(
    process: multiprocessing.Process, rng: random.Random, awaited: Callable[[psutil.Process], Collection]
) -> list[psutil.Process]:
    """What a run has started, a little after there are those that are awaited; none if these have ended by then."""
    watched = psutil.Process(process.pid)
    with suppress(psutil.NoSuchProcess):
        while process.is_alive() and not awaited(watched):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.5))
        if awaited(watched):
            return watched.children(recursive=True)
    return []


def _readers_of(run: psutil.Process) -> set[psutil.Process]:
    """The run starts a process that starts those that read."""
    return set(run.children(recursive=True)) - set(run.children())


def _have_ended(processes: list[psutil.Process]) -> bool:
    """All of them, now or in a few seconds."""
    for _ in range(50):
        if not any(_is_alive(process) for process in processes):
            return True
        time.sleep(0.1)
    return False


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.thorough
def test_of_two_commands_on_one_folder_the_second_says_so_and_stops(tmp_path, expected):
    options = vars(config_for(tmp_path, tokenizer="mortal", device="cpu"))
    given = [f"--{name}={value}" for name, value in options.items() if isinstance(value, (str, int, float))]
    env = environment(tmp_path, KILL_AT="encode:2", KILL_BY="SIGSTOP")
    first = subprocess.Popen([sys.executable, str(ROOT / "tokenize_corpus.py"), *given], env=env)
    try:
        _, status = os.waitpid(first.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)  # in the middle of its first shard
        second = tokenize_command(tmp_path, *given)
        first.send_signal(signal.SIGCONT)
        assert first.wait() == 3
    finally:
        first.kill()
        first.wait()
    assert second.returncode == 2
    assert second.stderr == f"error: another run is writing to {options['out']}: wait for it, or give another --out\n"
    assert contents(tmp_path / "out") == expected


def test_a_disk_that_is_really_full(tmp_path):
    """A small file system of its own, which fills up in the middle of a shard."""
    good_folder(tmp_path / "audio", clips=60)
    config = config_for(tmp_path, shard_hours=20 / 3600)
    tokenize_corpus(replace(config, out=str(tmp_path / "whole")), ArithmeticTokenizer())
    expected = contents(tmp_path / "whole")
    disk = tmp_path / "disk"
    disk.mkdir()
    shards_kib = sum(len(data) for name, data in expected.items() if name.startswith("data-")) // 1024
    mount = ["mount", "-t", "tmpfs", "-o", f"size={shards_kib // 2 + 60}k", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a file system takes root")
    try:
        config = replace(config, out=str(disk / "out"))
        with pytest.raises(OSError, match="No space left") as caught:
            tokenize_corpus(config, ArithmeticTokenizer())
        assert caught.value.errno == errno.ENOSPC
        left = {name: data for name, data in contents(disk / "out").items() if name.startswith("data-")}
        assert left
        assert left.items() <= expected.items()
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        tokenize_corpus(config, ArithmeticTokenizer())
        assert contents(disk / "out") == expected
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    good_folder(tmp_path / "audio")
    tokenize_corpus(config_for(tmp_path, out=str(tmp_path / "whole")), ArithmeticTokenizer())
    jumps = itertools.cycle([0.0, 4e9, 1.0, 2e9])
    monkeypatch.setattr(time, "time", lambda: next(jumps))

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            tokenize_corpus(config_for(tmp_path), ArithmeticTokenizer())
    for path, when in zip(sorted((tmp_path / "out").iterdir()), jumps, strict=False):
        os.utime(path, (when, when))
    tokenize_corpus(config_for(tmp_path), ArithmeticTokenizer())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    runs = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert all(0 <= event["run_s"] < 600 for event in runs)


@pytest.mark.parametrize(("allowed", "clips"), [(7, 7), (0.4, 6)])
def test_too_many_bad_files_stop_the_run_and_are_named(tmp_path, allowed, clips):
    """15 clips, of which 5 cannot be opened, and 3 turn out bad when they are read."""
    kinds = bad_folder(good_folder(tmp_path / "audio"))
    config = config_for(tmp_path, max_rejects=allowed)
    with pytest.raises(TooManyRejectsError, match=rf"are left out, and --max_rejects allows {clips}: ") as stopped:
        tokenize_corpus(config, ArithmeticTokenizer())
    assert not (tmp_path / "out" / "state.json").exists()
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert len(rejects) > clips
    assert all(reject["reason"].startswith(kinds[reject["id"]]) for reject in rejects)
    assert str(stopped.value).endswith(rejects[-1]["reason"])
    events = [json.loads(line)["event"] for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert events[-1] == "stopped"
    summary = tokenize_corpus(replace(config, max_rejects=8), ArithmeticTokenizer())
    assert (summary.num_clips, len(summary.rejects)) == (7, 8)
    whole = replace(config, max_rejects=None, out=str(tmp_path / "whole"))
    tokenize_corpus(whole, ArithmeticTokenizer())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_share_of_clips_is_that_of_decimal_numbers():
    for percent, clips in itertools.product(range(1, 100), (1, 7, 100, 12_345)):
        config = CorpusConfig("a", "b", "c", max_rejects=float(f"0.{percent:02d}"))
        assert config.allowed_rejects(clips) == percent * clips // 100


def test_the_log_tells_of_each_shard_and_each_clip_left_out(tmp_path):
    kinds = bad_folder(good_folder(tmp_path / "audio"))
    summary = tokenize_corpus(config_for(tmp_path), ArithmeticTokenizer())
    events = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in (events[0], events[-1])] == ["start", "end"]
    assert events[0]["options"]["batch_seconds"] == 1.0
    assert [e["index"] for e in events if e["event"] == "shard"] == list(range(summary.num_shards))
    hours = [e["hours"] for e in events if e["event"] == "shard"]
    assert hours == sorted(hours)
    planned_s = Plan(tmp_path / "out").duration_s
    assert hours[-1] == pytest.approx(planned_s / 3600)
    told = {e["id"]: e["reason"].partition(":")[0] for e in events if e["event"] == "reject"}
    assert told.items() <= kinds.items()
    assert {"silent", "nan", "truncated"} <= set(told)
    assert events[-1]["rejects"] == 8


def test_clips_of_a_shard_that_is_made_twice_are_left_out_once():
    written = []
    log = SimpleNamespace(write=lambda event, **values: written.append(event))
    tally = Tally(Progress(10.0, 0.0, 1), log, [Reject("a", "a.wav", "silent")], 2)  # type: ignore[arg-type]
    for _ in range(2):
        tally.add(Step(2.0, (Reject("b", "b.wav", "silent"),)))
    assert (len(tally.rejects), tally.progress.rejects, written) == (2, 2, ["reject"])
    with pytest.raises(TooManyRejectsError, match="3 clips are left out, and --max_rejects allows 2: 3 silent"):
        tally.add(Step(2.0, (Reject("c", "c.wav", "silent"),)))
