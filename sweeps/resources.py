"""What a trial is allotted, the overrides that make it use exactly that, and whether the cluster can give it.

Threads equal allotted CPUs: two trials of two threads each on two cores are several times slower than with one each.
"""

from __future__ import annotations

from collections.abc import Mapping

from sweeps.errors import ResourceError
from sweeps.hydra_overrides import override
from sweeps.schema import Resources


def overrides(resources: Resources) -> list[str]:
    """The overrides that hold a trial to its resources: a share of a GPU is still one device."""
    accelerator = "gpu" if resources.gpu else "cpu"
    settings = {"threads": resources.cpu, "trainer.accelerator": accelerator, "trainer.devices": 1}
    return [override(key, value) for key, value in settings.items()]


def concurrency(resources: Resources, cluster: Mapping[str, float]) -> int:
    """How many trials run at a time on a cluster that has `cluster` (Ray's names: CPU, GPU).

    Raises:
        ResourceError: not even one fits.
    """
    wanted = {"CPU": float(resources.cpu), "GPU": float(resources.gpu)}
    for name, amount in wanted.items():
        if amount > cluster.get(name, 0.0):
            raise ResourceError(
                f"resources: a trial asks for {amount:g} {name}, and this cluster has {cluster.get(name, 0.0):g}. Ask for "
                "less in the search space, or run where there is more."
            )
    return min(int(cluster[name] / amount + 1e-9) for name, amount in wanted.items() if amount)
