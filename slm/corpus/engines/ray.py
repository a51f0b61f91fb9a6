"""A Ray cluster, by its address or started here: a task is a shard, actors hold the tokenizer.

https://docs.ray.io/en/latest/ray-core/fault_tolerance/actors.html: Ray restarts an actor that died and runs its task
again; a shard that was whole by then is not made anew.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from math import ceil
from typing import Any

from slm.corpus.job import Job, Step, go_to, make_shards
from slm.corpus.output import Output
from slm.corpus.plan import Plan
from slm.corpus.readers import Readers
from slm.corpus.shards import shard_name
from slm.devices import choose_device
from slm.errors import StoppedError, UsageError
from slm.tokenizers import Tokenizer, load_tokenizer

_CORES_AN_ACTOR = 4  # where there is no GPU
_RESTARTS = 3
_WAIT_S = 30.0


def check_ray() -> None:
    """UsageError where it is not installed. It is imported when there is something to do for it."""
    if find_spec("ray") is None:
        raise UsageError("--engine ray needs Ray: pip install 'slm-toolkit[ray]'")


def run_ray(
    job: Job,
    indices: Sequence[int],
    on_step: Callable[[Step], None],
    device: str,
    processes: int | None,
    address: str | None,
) -> None:
    """Make the shards of `indices` by `processes` actors (default: one a GPU of the cluster; without GPUs one a 4
    cores). Raises what an actor raises, and StoppedError where actors die again and again."""
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address != "local":
        # Read as Ray is imported. It would knock for a quarter of an hour where a cluster was: now, for two minutes.
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")
    import ray

    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:
        said = " ".join(str(error).split())
        raise StoppedError(f"--ray_address {address}: no Ray cluster answers there ({said})") from None
    try:
        _deal(ray, _actors(ray, job, device, processes, len(indices)), indices, on_step)
    finally:
        ray.shutdown()


def _actors(ray: Any, job: Job, device: str, processes: int | None, num_shards: int) -> list[Any]:
    has = ray.cluster_resources()
    on_gpu = device.startswith("cuda") or (device == "auto" and has.get("GPU", 0) >= 1)
    if on_gpu and not has.get("GPU"):
        raise UsageError(f"--device {device}: the Ray cluster has no GPU; give --device cpu")
    cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cores, places = _share(cpus, processes)
    count = (processes or int(has["GPU"])) if on_gpu else places
    needs = {"num_gpus": 1 / ceil(count / has["GPU"])} if on_gpu else {"num_cpus": cores}
    actor = ray.remote(max_restarts=_RESTARTS, max_task_retries=_RESTARTS, **needs)(_Maker)
    return [actor.remote(job, "cuda" if on_gpu else device) for _ in range(min(count, num_shards))]


def _share(cpus: Sequence[int], processes: int | None) -> tuple[int, int]:
    """Cores for each actor and number of actors, where machines have so many: an actor is on one of them."""
    for cores in range(_CORES_AN_ACTOR, 0, -1):
        places = sum(cpu // cores for cpu in cpus)
        if places >= (processes or 1):
            return cores, processes or places
    return 0, processes or 1  # more than there are cores: they share them


def _deal(ray: Any, actors: Sequence[Any], indices: Sequence[int], on_step: Callable[[Step], None]) -> None:
    """A shard to each actor that is there and free, until all are made: a busy cluster may start some late or never."""
    left, waiting = len(indices), list(reversed(indices))
    working = {actor.ready.remote(): actor for actor in actors}
    while left:
        done, _ = ray.wait(list(working), timeout=_WAIT_S)
        if not done and left == len(indices) and len(working) == len(actors):
            print("waiting for the cluster to start an actor, or for its first shard", file=sys.stderr, flush=True)
        for task in done:
            actor = working.pop(task)
            try:
                steps = ray.get(task)
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None
            except ray.exceptions.RayActorError as error:
                raise StoppedError(
                    f"Ray has given up an actor ({' '.join(str(error).split())}): if memory ran out, lower "
                    "--batch_seconds, --num_workers or --processes"
                ) from None
            if waiting:
                working[actor.make.remote(waiting.pop())] = actor
            left -= sum(step.shard is not None for step in steps)
            for step in steps:
                on_step(step)


class _Maker:
    """An actor: a tokenizer that makes the shards it is given, and what reads for it from the first to the last. It is
    loaded by the first task that asks for it, so that what is wrong with it is that task's error; also in an actor that
    takes a dead one's place."""

    def __init__(self, job: Job, device: str):
        self.job, self.device = job, device
        self.tokenizer: Tokenizer | None = None
        self.readers: Readers | None = None

    def ready(self) -> list[Step]:
        if self.tokenizer is None:
            go_to(self.job.cwd)
            self.tokenizer = load_tokenizer(self.job.spec, choose_device(self.device))
            self.readers = Readers(self.tokenizer.spec.sample_rate_hz, self.job.num_workers)
        return []

    def make(self, index: int) -> list[Step]:
        steps = self.ready()
        assert self.tokenizer is not None
        output = Output(self.job.out)
        output.bring()
        plan = Plan(output.folder, self.job.base)
        shard = plan.shards[index]
        if shard_name(plan, shard) in output.names():  # an earlier try got so far, and died before it could say so
            return [Step(shard.duration_s, output.record(shard_name(plan, shard)).rejects, index)]
        make_shards(self.job, [index], steps.append, self.tokenizer, self.readers)
        if output.record(shard_name(plan, shard)).num_clips:
            self.job = replace(self.job, proven=True)
        return steps
