"""A Ray of a sweep's own: only the processes that it needs, and those started and ended quickly, as nothing of what they hold
is needed after a sweep. What Ray has no option for is done to its `Node`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sweeps import manifest, ray_dashboard
from sweeps.schema import SearchSpace

NEEDLESS = ("start_monitor", "start_log_monitor", "start_api_server")
"""What starts the autoscaler (there is one node), the copying of the workers' output to the driver (the trials have logs), and
the server of the dashboard, which Ray starts also without that: two seconds of processor time, the last of them waited for."""
ACTOR_MODULE = "sweeps.trainable"
IDLE_SECONDS = 60
"""How long a worker waits for a slot; longer than a validation takes, in general."""


def start(space: SearchSpace) -> None:
    """Start Ray on this machine, and the workers of its first slots, which import what a slot needs meanwhile."""
    import ray

    cpus = manifest.cpus()
    slots = min(cpus // space.resources.cpu, space.search.trials)
    settings = {
        # By the workers themselves: one that has run a task does not become an actor any more.
        "preload_python_modules": [ACTOR_MODULE],
        # Ray starts one for every CPU.
        "prestart_worker_first_driver": cpus <= 2 * slots,
        # After a second it would end them again as Tune asks for one slot after another.
        "idle_worker_killing_time_threshold_ms": IDLE_SECONDS * 1000,
    }
    dashboard = ray_dashboard.options()
    with _without(() if dashboard["include_dashboard"] else NEEDLESS), _importable():
        ray.init(
            address="local",
            num_cpus=cpus,
            **dashboard,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=128 * 2**20,  # trials pass messages, not tensors
            _system_config=settings,
        )


@contextmanager
def as_they_are() -> Iterator[None]:
    """While it is entered, Tune takes workers of this process's own Ray as they have been started.

    It asks for others otherwise, with an environment of Tune's variables, which ours have inherited.
    """
    import ray
    from ray.tune.execution.class_cache import _ActorClassCache

    get = _ActorClassCache.get
    _ActorClassCache.get = lambda cache, actor: cache._cache.get(actor) or cache._cache.setdefault(actor, ray.remote(actor))
    try:
        yield
    finally:
        _ActorClassCache.get = get


@contextmanager
def _importable() -> Iterator[None]:
    """While it is entered, what is started finds this project: workers know no driver yet whose paths they could take."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(manifest.PROJECT), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextmanager
def _without(methods: tuple[str, ...]) -> Iterator[None]:
    """While it is entered, these methods of a node do nothing."""
    from ray._private.node import Node

    originals = {name: getattr(Node, name) for name in methods}
    for name in methods:
        setattr(Node, name, _nothing)
    try:
        yield
    finally:
        for name, method in originals.items():
            setattr(Node, name, method)


def _nothing(node: Any, **options: Any) -> None:
    """Instead of starting a process."""


def shut_down() -> None:
    """Leave Ray; one that this process has started ends, without the second that Ray's node would take to say goodbye to its
    workers: they end with it."""
    import ray
    from ray._private import worker

    if node := worker._global_node:
        kill = node.kill_all_processes
        node.kill_all_processes = lambda **options: kill(**{**options, "allow_graceful": False})
    ray.shutdown()
