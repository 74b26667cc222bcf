"""Brings a sweep to nodes that do not see its directory: an actor beside the driver that holds the files, and the trainable
that finds it. A sweep on this machine alone gets neither.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps import node_data, ray_cluster
from sweeps.ledger import Ledger
from sweeps.node import Node, Offer
from sweeps.space import SearchSpace
from sweeps.transport import FileHost


class HostActor(FileHost):
    """The host, which also puts datasets into the object store: each once, when the first node asks for it."""

    def __init__(self, trials: str) -> None:
        super().__init__(trials)
        self._packed: dict[str, list[ray.ObjectRef]] = {}

    def data(self, directory: str) -> list[ray.ObjectRef]:
        """The chunks of a dataset's directory."""
        if directory not in self._packed:
            references: list[ray.ObjectRef] = []
            node_data.pack(directory, lambda chunk: references.append(ray.put(chunk)))
            self._packed[directory] = references
        return self._packed[directory]


@dataclass(frozen=True)
class Remote:
    """The host as a node calls it: every method waits for its answer."""

    actor: Any

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.actor, name)
        return lambda *arguments: ray.get(method.remote(*arguments))

    def chunks(self, directory: str) -> Iterable[bytes]:
        """The chunks of a dataset's directory, one in memory at a time."""
        for reference in self.data(directory):
            yield ray.get(reference)


@dataclass(frozen=True)
class Transfer:
    """What the trainable is given."""

    offer: Offer
    host: Any

    def node(self) -> Node:
        """This actor's share of its node, in which the driver's paths hold."""
        os.environ["LHTX_ROOT"] = self.offer.root
        remote = Remote(self.host)
        return Node(self.offer, remote, ray.get_runtime_context().get_node_id()[:12], remote.chunks)


def is_needed(space: SearchSpace) -> bool:
    """Whether trials may run where the sweep's directory is not to be seen, or are not to use it."""
    alone = not ray_cluster.joined() and sum(node["Alive"] for node in ray.nodes()) == 1
    return space.resources.trial_files == "node" or not alone


@contextmanager
def trainable(ledger: Ledger, space: SearchSpace, scratch: Path) -> Iterator[tuple[type, Callable[[int], None]]]:
    """What Tune runs, and what is to be told when the process of a trial is lost.

    Args: scratch: a directory of the sweep's for what lives as long as its driver.
    """
    from ray import tune

    from sweeps.trainable import TrialActor

    if not is_needed(space):
        yield TrialActor, lambda number: None
        return
    from lhtx.compose import project_root

    token = uuid.uuid4().hex
    scratch.mkdir(parents=True, exist_ok=True)
    token_file = scratch / "token"
    token_file.write_text(token)
    data_root, datasets = node_data.datasets(space)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    host = ray.remote(HostActor).options(num_cpus=0, scheduling_strategy=here).remote(str(ledger.trials_directory.resolve()))
    always = space.resources.trial_files == "node"
    offer = Offer(str(token_file.resolve()), token, always, project_root(), data_root, datasets)
    try:
        yield (
            tune.with_parameters(TrialActor, transfer=Transfer(offer, host)),
            lambda number: ray.get(host.lost.remote(number)),
        )
    finally:
        ray.kill(host)
