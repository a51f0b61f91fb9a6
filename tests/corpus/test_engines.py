"""Processes, a cluster, parts: whatever makes the shards makes the same bytes, and outlives what dies in it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from slm.corpus import locks, pipeline, workers
from slm.corpus.config import CorpusConfig
from slm.corpus.engines import local, ray
from slm.corpus.locks import held
from slm.corpus.output import Output
from slm.corpus.part import Part
from slm.corpus.pipeline import tokenize_corpus
from slm.corpus.tally import TooManyRejectsError
from slm.corpus.tools.check import CheckConfig, check
from slm.errors import StoppedError, UsageError
from tests.corpus import plugin
from tests.corpus.audio import bad_folder, contents, good_folder
from tests.corpus.plugin import environment, tokenize_command
from tests.fakes import ArithmeticTokenizer


def config_for(tmp_path, **options):
    given = {"audio": str(tmp_path / "audio"), "tokenizer": "mortal", "out": str(tmp_path / "out"), **options}
    return CorpusConfig(**{"shard_hours": 1.2 / 3600, "batch_seconds": 1.5, "num_workers": 0, "device": "cpu", **given})


@pytest.fixture
def whole(tmp_path):
    """The files of a corpus of several shards and rejects, made in this process."""
    bad_folder(good_folder(tmp_path / "audio"))
    tokenize_corpus(config_for(tmp_path, out=str(tmp_path / "whole")), ArithmeticTokenizer())
    return contents(tmp_path / "whole")


def command_for(tmp_path, **options):
    config = {name: value for name, value in vars(config_for(tmp_path, **options)).items() if value is not None}
    plain = {name: value for name, value in config.items() if isinstance(value, (str, int, float))}
    return [part for name, value in plain.items() for part in (f"--{name}", str(value))]


@pytest.mark.thorough
def test_two_processes_of_which_one_dies_make_the_same_bytes(tmp_path, whole):
    arguments = command_for(tmp_path, processes=2)
    done = tokenize_command(tmp_path, *arguments, kill_at="encode:2", once=str(tmp_path / "killed"))
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "killed").exists()
    assert contents(tmp_path / "out") == whole


def test_processes_that_always_die_end_the_run_with_the_reason(monkeypatch):
    monkeypatch.setattr(local, "_work", plugin.take_a_shard_and_die)
    with pytest.raises(StoppedError, match=r"on cpu died again and again, at shard 7 \(exit status -9\)"):
        local.run_processes(None, [7], print, ["cpu", "cpu"])


def test_a_process_that_dies_when_its_work_is_done_harms_nothing(monkeypatch):
    monkeypatch.setattr(local, "_work", plugin.die_at_the_end)
    steps = []
    local.run_processes(None, [7, 8, 9], steps.append, ["cpu", "cpu"])
    assert sorted(step.shard for step in steps) == [7, 8, 9]


def test_what_is_wrong_in_a_process_is_what_the_run_says(monkeypatch):
    monkeypatch.setattr(local, "_work", plugin.complain)
    with pytest.raises(UsageError, match=r"^bring it back$"):
        local.run_processes(None, [7], print, ["cpu", "cpu"])


@pytest.mark.parametrize(("cores", "processes", "expected"), [(1, None, 1), (16, None, 4), (16, 3, 3)])
def test_on_cpu_there_is_a_process_for_some_cores(monkeypatch, cores, processes, expected):
    monkeypatch.setattr(local, "available_cores", lambda: cores)
    assert local.choose_devices("cpu", processes) == ["cpu"] * expected


def test_every_gpu_gets_a_process(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert local.choose_devices("auto", None) == ["cuda:0", "cuda:1", "cuda:2"]
    assert local.choose_devices("auto", 4) == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]


@contextmanager
def ray_cluster(env):
    """The address of one with two cores, which ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1:{1}".format(*free.getsockname())
    options = [f"--port={address.split(':')[1]}", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options]
    cluster = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield address
    finally:
        cluster.terminate()
        cluster.wait()


@pytest.mark.thorough
def test_a_ray_cluster_in_which_an_actor_dies_makes_the_same_bytes(tmp_path, whole):
    pytest.importorskip("ray")
    env = environment(tmp_path, KILL_AT="encode:2", KILL_ONCE=str(tmp_path / "killed"), RAY_AUTH_MODE="disabled")
    with ray_cluster(env) as address:
        command = [sys.executable, "tokenize_corpus.py", *command_for(tmp_path, engine="ray", ray_address=address)]
        for _ in range(20):  # until the cluster is there
            done = subprocess.run([*command, "--processes", "2"], env=env, capture_output=True, text=True)
            if "no Ray cluster answers" not in done.stderr:
                break
            time.sleep(1)
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "killed").exists()
    assert contents(tmp_path / "out") == whole


@pytest.mark.thorough
def test_a_ray_cluster_that_is_started_here_makes_the_same_bytes(tmp_path, whole):
    pytest.importorskip("ray")
    env = environment(tmp_path, RAY_AUTH_MODE="disabled")
    env.pop("RAY_ADDRESS", None)
    command = [sys.executable, "tokenize_corpus.py", *command_for(tmp_path, engine="ray", num_workers=2, processes=2)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert contents(tmp_path / "out") == whole


def test_an_actor_keeps_its_readers_from_shard_to_shard_and_replaces_dead_ones(tmp_path, whole, monkeypatch):
    pools, start = [], workers._processes

    def counted(num_workers):
        pools.append(start(num_workers))
        return pools[-1]

    def run_actor(job, indices, on_step, **_):
        pools.clear()
        maker = ray._Maker(job, "cpu")
        for i, index in enumerate(indices):
            for step in maker.make(index):
                on_step(step)
            assert len(pools) == 1 or i > 2
            if i == 2:
                os.kill(pools[0].submit(os.getpid).result(), signal.SIGKILL)
        assert len(indices) > 5
        assert len(pools) > 1
        maker.readers.workers.shutdown()

    monkeypatch.setattr(workers, "_processes", counted)
    monkeypatch.setattr(pipeline, "run_ray", run_actor)
    monkeypatch.setattr(ray, "load_tokenizer", lambda spec, device: ArithmeticTokenizer())
    tokenize_corpus(config_for(tmp_path, engine="ray", num_workers=1), ArithmeticTokenizer())
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize(
    ("cpus", "processes", "expected"),
    [([16, 16], None, (4, 8)), ([2, 2, 2], None, (2, 3)), ([8], 3, (2, 3)), ([1], 2, (0, 2)), ([5, 3], None, (4, 1))],
)
def test_an_actor_fits_on_a_machine(cpus, processes, expected):
    assert ray._share(cpus, processes) == expected


def test_ray_says_which_gpu_an_actor_has(tmp_path):
    with pytest.raises(UsageError, match=r"^--device cuda:1: Ray gives each actor a GPU of its choice; give --device"):
        config_for(tmp_path, engine="ray", device="cuda:1")
    assert config_for(tmp_path, engine="ray", device="cuda").device == "cuda"


def test_ray_that_is_not_installed_is_named_with_its_remedy(tmp_path, monkeypatch):
    good_folder(tmp_path / "audio", clips=1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"--engine ray needs Ray: pip install 'slm-toolkit\[ray\]'"):
        tokenize_corpus(config_for(tmp_path, engine="ray"), ArithmeticTokenizer())
    assert not (tmp_path / "out").exists()  # nothing was begun


def test_a_ray_cluster_that_is_gone_is_not_waited_for_long(monkeypatch):
    """As at the address that one leaves behind on its machine."""
    tries = "RAY_NUM_REDIS_GET_RETRIES"
    monkeypatch.setenv(tries, "")
    monkeypatch.delenv(tries)  # to be gone again afterwards

    def init(address, **settings):
        seen.append((address, os.environ.get(tries)))
        raise ConnectionError("Failed to\nconnect")

    seen = []
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    for address in ("local", "auto"):
        with pytest.raises(StoppedError, match=rf"--ray_address {address}: no Ray .* there \(Failed to connect\)"):
            ray.run_ray(None, [0], print, "cpu", 1, address)
    assert seen == [("local", None), ("auto", "3")]


def test_parts_in_any_order_make_the_same_bytes(tmp_path, whole):
    (tmp_path / "out").mkdir()
    left_by_killed_runs = [f".{name}.tmp-host-1" for name in ("data-00000-of-00009.arrow", "plan.json", "shards.json")]
    for name in left_by_killed_runs:
        (tmp_path / "out" / name).touch()
    summaries = [
        tokenize_corpus(config_for(tmp_path, shard_range=f"{part}/3"), ArithmeticTokenizer()) for part in (2, 0, 1)
    ]
    assert [summary.num_missing_shards for summary in summaries] == [6, 3, 0]
    assert "unfinished 6 shards are for other runs" in summaries[0].describe()
    assert [reject.id for summary in summaries[:2] for reject in summary.rejects] == ["nan", "silent"]  # of their own
    assert contents(tmp_path / "out") == whole
    assert {path.name for path in (tmp_path / "out").glob("log*")} == {f"log-{part}-of-3.jsonl" for part in range(3)}
    for part in ("1/3", None):  # finds all finished
        (tmp_path / "out/plan.parts").mkdir()
        (tmp_path / "out" / left_by_killed_runs[0]).touch()
        tokenize_corpus(config_for(tmp_path, shard_range=part), ArithmeticTokenizer())
        assert not [*(tmp_path / "out").glob(".*"), *(tmp_path / "out").glob("plan.parts")]


def test_a_part_is_made_by_one_run_and_no_run_beside_parts(tmp_path, whole):
    part = config_for(tmp_path, shard_range="0/2")
    with held(Output(part.out), Part(0, 2)):
        for config in (part, config_for(tmp_path)):
            with pytest.raises(UsageError, match="another run is writing to"):
                tokenize_corpus(config, ArithmeticTokenizer())
        assert tokenize_corpus(replace(part, shard_range="1/2"), ArithmeticTokenizer()).num_missing_shards == 4
    with held(Output(part.out), None), pytest.raises(UsageError, match="another run is writing to"):
        tokenize_corpus(part, ArithmeticTokenizer())


def test_of_parts_the_last_sees_that_too_many_clips_are_left_out(tmp_path, whole):
    """Eight: five by the plan, and one or two in the shards of each part."""
    parts = [config_for(tmp_path, shard_range=f"{part}/3", max_rejects=7) for part in range(3)]
    for config in parts[:2]:
        tokenize_corpus(config, ArithmeticTokenizer())
    with pytest.raises(TooManyRejectsError, match="8 clips are left out, and --max_rejects allows 7"):
        tokenize_corpus(parts[2], ArithmeticTokenizer())
    assert (tmp_path / "out" / "rejects.jsonl").read_bytes() == whole["rejects.jsonl"]
    tokenize_corpus(replace(parts[0], max_rejects=8), ArithmeticTokenizer())
    assert contents(tmp_path / "out") == whole
    with pytest.raises(TooManyRejectsError):  # of a finished one too
        tokenize_corpus(replace(parts[0], max_rejects=0.1), ArithmeticTokenizer())


def test_parts_of_nothing_leave_nothing(tmp_path):
    good_folder(tmp_path / "audio", clips=1)
    soundfile.write(tmp_path / "audio" / "clip-0.wav", np.zeros(8000), 8000)
    for shard_range in ("0/1", "0/2", None):
        with pytest.raises(UsageError, match="none of the 1 clips can be used"):
            tokenize_corpus(config_for(tmp_path, shard_range=shard_range), ArithmeticTokenizer())


@pytest.mark.parametrize("text", ["3", "3/3", "-1/3", "a/b", "1/0", ""])
def test_a_range_that_is_none(text):
    with pytest.raises(UsageError, match=r"is no i/n with i from 0 to n - 1"):
        CorpusConfig("a", "b", "c", shard_range=text)


def test_a_url_holds_the_same_bytes_also_when_another_machine_goes_on(tmp_path, whole, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    config, sent = config_for(tmp_path, out="memory://bucket/corpus"), []

    put_file = MemoryFileSystem.put_file

    def put(self, here, there, **options):
        sent.append(there)
        if ".arrow.tmp-" in there and sum("data-" in name for name in sent) == 3:
            raise KeyboardInterrupt
        put_file(self, here, there, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", put)
        with pytest.raises(KeyboardInterrupt):
            tokenize_corpus(config, ArithmeticTokenizer())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    with pytest.raises(UsageError, match=r"memory://bucket/corpus holds codes of .*16x16 .* asks for .*32x32"):
        tokenize_corpus(config, ArithmeticTokenizer(codebook_size=32))
    summary = tokenize_corpus(config, ArithmeticTokenizer())
    files = {name.rpartition("/")[2]: file.getvalue() for name, file in MemoryFileSystem.store.items()}
    assert {name: data for name, data in files.items() if not name.startswith("log")} == whole
    assert "dataset    memory://bucket/corpus" in summary.describe()
    assert not list((tmp_path / "second").rglob("*.arrow"))
    assert tokenize_corpus(config, ArithmeticTokenizer()).num_clips == 7  # finished: nothing to do


def test_a_url_that_was_made_anew_elsewhere_is_not_taken_for_what_it_was(tmp_path, monkeypatch):
    """Descriptions of two corpora may have one size: a fingerprint has."""
    good_folder(tmp_path / "audio")
    url = f"file://{tmp_path}/out"

    def run(machine, part, bias):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        return tokenize_corpus(config_for(tmp_path, out=url, shard_range=part), ArithmeticTokenizer(bias=bias))

    with monkeypatch.context() as patch:  # as a run that is killed at its end leaves its folder
        patch.setattr(Output, "close", lambda self: None)
        run("first", "0/2", 1)
    assert list((tmp_path / "first").rglob("tokenizer.json"))
    shutil.rmtree(tmp_path / "out")
    run("second", "1/2", 2)
    with pytest.raises(UsageError, match=r"holds codes of .* asks for"):
        run("first", "0/2", 1)
    assert run("first", "0/2", 2).num_missing_shards == 0
    assert check(CheckConfig(url)) == 0


def test_the_last_part_on_a_machine_removes_what_it_needed_for_a_url(tmp_path, whole, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    staging = tmp_path / "cache" / "slm" / "corpora"
    parts = [config_for(tmp_path, out=f"file://{tmp_path}/afar", shard_range=f"{part}/3") for part in range(3)]
    tokenize_corpus(parts[0], ArithmeticTokenizer())
    assert not list(staging.iterdir())
    with held(Output(parts[0].out), Part(2, 3)) as is_alone:  # as another process of this machine does
        tokenize_corpus(parts[1], ArithmeticTokenizer())
        assert list(staging.rglob("plan.json"))
        assert is_alone()
    assert tokenize_corpus(parts[2], ArithmeticTokenizer()).num_missing_shards == 0
    assert not list(staging.iterdir())
    assert contents(tmp_path / "afar") == whole


def test_a_folder_that_goes_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    real, goes = os.mkdir, iter([True, False])

    def mkdir(path, *mode):
        if next(goes, False):
            raise FileExistsError(path)  # it was there, and is gone where one looks what it is
        real(path, *mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    handle = locks._locked(tmp_path / "new" / "lock", fcntl.LOCK_EX)
    assert handle is not None
    os.close(handle)


def test_a_part_waits_for_one_that_is_leaving(tmp_path, monkeypatch):
    """In the moment in which it removes the folder that both use."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    output = Output(f"file://{tmp_path}/afar")
    with ExitStack() as stack:
        is_alone = stack.enter_context(held(output, Part(0, 2)))
        assert is_alone()
        ends = stack.pop_all()
        leaves = threading.Timer(0.2, lambda: (output.close(), ends.close()))
        leaves.start()
        with held(output, Part(1, 2)):
            leaves.join()
            assert (output.folder / ".part-1-of-2.lock").is_file()


def test_a_url_that_holds_something_else_is_refused(tmp_path, monkeypatch):
    good_folder(tmp_path / "audio", clips=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UsageError, match=r"file:///.*other is not empty and not a corpus of codes"):
        tokenize_corpus(config_for(tmp_path, out=f"file://{tmp_path}/other"), ArithmeticTokenizer())
    with pytest.raises(UsageError, match="--out is empty"):
        tokenize_corpus(config_for(tmp_path, out=""), ArithmeticTokenizer())
    with pytest.raises(UsageError, match="names no folder"):
        tokenize_corpus(config_for(tmp_path, out="file:///"), ArithmeticTokenizer())
    with pytest.raises(UsageError, match="names a password"):
        tokenize_corpus(config_for(tmp_path, out="ftp://me:secret@host/out"), ArithmeticTokenizer())
    with pytest.raises(UsageError, match="nope"):
        tokenize_corpus(config_for(tmp_path, out="nope://bucket/x"), ArithmeticTokenizer())


def test_a_stop_in_the_last_step_of_a_part_is_mended_by_the_next_run(tmp_path, whole, monkeypatch):
    """All shards are there, and the run that was to describe them was killed."""

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "finish", stop)
        for part in range(2):
            with pytest.raises(KeyboardInterrupt) if part else open(tmp_path / "nothing", "w"):
                tokenize_corpus(config_for(tmp_path, shard_range=f"{part}/2"), ArithmeticTokenizer())
    tokenize_corpus(config_for(tmp_path, shard_range="0/2"), ArithmeticTokenizer())
    assert contents(tmp_path / "out") == whole
