"""A Ray of a sweep's own: only the processes that it needs, and those started and ended quickly, as nothing of what they hold
is needed after a sweep. What Ray has no option for is done to its functions while it starts.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sweeps import manifest, ray_dashboard
from sweeps.schema import SearchSpace

NEEDLESS = ("start_monitor", "start_log_monitor", "start_api_server")
"""What starts the autoscaler (there is one node), the copying of the workers' output to the driver (the trials have logs), and
the server of the dashboard, which Ray starts also without that: two seconds of processor time, the last of them waited for."""
AGENTS: Mapping[str, Sequence[str]] = {
    "dashboard_agent_command": ("dashboard_agent_listen", "metrics_agent", "metrics_export"),
    "runtime_env_agent_command": ("runtime_env_agent",),
}
"""Commands that a raylet insists on, and the ports that it waits for each to write down before its node is one: what serves the
dashboard, and environments for tasks that ask for another one. One to three seconds of processor time."""
IDLE_AGENT = ("sh", "-c", "trap '' INT; exec cat")
"""Instead of them: it reads the pipe that the raylet holds and ends with it, which would end with this one, too: so Ctrl-C does
not reach it, and it takes whatever arguments the raylet adds."""
ACTOR_MODULE = "sweeps.trainable"
IDLE_SECONDS = 60
"""How long a worker waits for a slot; longer than a validation takes, in general."""
NODE_SECONDS = 30
"""How long Ray waits for a node that it has started."""


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
    with ExitStack() as changed:
        changed.enter_context(_importable())
        if not dashboard["include_dashboard"]:
            settings["enable_metrics_collection"] = False  # nobody asks for them
            changed.enter_context(_only_what_is_needed())
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

    def get(cache: Any, actor: type) -> Any:
        return cache._cache.get(actor) or cache._cache.setdefault(actor, ray.remote(actor))

    with _replaced(_ActorClassCache, get=get):
        yield


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
def _only_what_is_needed() -> Iterator[None]:
    """While it is entered, Ray starts no more than its two servers and the workers, and does not wait for what is missing."""
    from ray._private import services
    from ray._private.node import Node

    start_process, get_node = services.start_ray_process, services.get_node

    def start(command: list[str], process_type: str, **options: Any) -> Any:
        return start_process(_with_idle_agents(command) if process_type == "raylet" else command, process_type, **options)

    def get(address: str, node: str) -> dict[str, Any]:
        _await_node(address, node)
        return get_node(address, node)

    def nothing(node: Any, **options: Any) -> None:
        """Instead of starting a process."""

    with _replaced(Node, **dict.fromkeys(NEEDLESS, nothing)), _replaced(services, start_ray_process=start, get_node=get):
        yield


def _with_idle_agents(command: Sequence[str]) -> list[str]:
    """The `command` that starts a raylet, with processes in the agents' places that cost nothing, whose ports are written down
    already."""
    options = dict(part.removeprefix("--").split("=", 1) for part in command if part.startswith("--") and "=" in part)
    for port in (port for ports in AGENTS.values() for port in ports):
        Path(options["session_dir"], f"{port}_port_{options['node_id']}").write_text("1")  # where nobody answers
    names, idle = tuple(f"--{agent}=" for agent in AGENTS), subprocess.list2cmdline(IDLE_AGENT)
    return [part.partition("=")[0] + f"={idle}" if part.startswith(names) else part for part in command]


def _await_node(address: str, node: str) -> None:
    """Look for a new node every hundredth of a second; where Ray does not find one at once, it looks every two seconds."""
    from ray._private import services
    from ray._private.state import GlobalState

    state = GlobalState()
    state._initialize_global_state(services._get_gcs_client_options(address))
    end = time.monotonic() + NODE_SECONDS
    while time.monotonic() < end and all(each["NodeID"] != node for each in state.node_table()):
        time.sleep(0.01)


@contextmanager
def _replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """While it is entered, these `attributes` of `owner` are others."""
    originals = {name: getattr(owner, name) for name in attributes}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in originals.items():
            setattr(owner, name, value)


def shut_down() -> None:
    """Leave Ray; one that this process has started ends, without the second that Ray's node would take to say goodbye to its
    workers: they end with it."""
    import ray
    from ray._private import worker

    if node := worker._global_node:
        kill = node.kill_all_processes
        node.kill_all_processes = lambda **options: kill(**{**options, "allow_graceful": False})
    ray.shutdown()
