"""Ray's own processes, started and ended quickly: nothing of what they hold is needed after a sweep."""

from __future__ import annotations

from typing import Any


def prestart(count: int) -> list[Any]:
    """Let `count` workers start and import what a slot needs, while this process does something else.

    Returns: what to keep until the slots are wanted.
    """
    import ray

    return [ray.remote(num_cpus=1)(_import_actor).remote() for _ in range(count)]


def _import_actor() -> None:
    import sweeps.trainable  # noqa: F401


def shut_down() -> None:
    """Leave Ray; one that this process has started ends, without the second that Ray's node would take to say goodbye to its
    workers: they end with it."""
    import ray
    from ray._private import worker

    if node := worker._global_node:
        kill = node.kill_all_processes
        node.kill_all_processes = lambda **options: kill(**{**options, "allow_graceful": False})
    ray.shutdown()
