"""What a trial is allotted, the overrides that make it use exactly that, and how many trials the nodes of a cluster hold.

Threads equal allotted CPUs: two trials of two threads each on two cores are several times slower than with one each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from sweeps.errors import ResourceError
from sweeps.hydra_overrides import override
from sweeps.manifest import cpus
from sweeps.schema import Resources
from sweeps.sizes import size_text

Node = Mapping[str, float]
"""What one machine has, by Ray's names: CPU, GPU, memory (bytes)."""
_CLOSE = 1e-9


def overrides(resources: Resources) -> list[str]:
    """The overrides that hold a trial to its resources: a share of a GPU is still one device."""
    accelerator = "mps" if resources.mps else "gpu" if resources.gpu else "cpu"
    settings = {"threads": resources.cpu, "trainer.accelerator": accelerator, "trainer.devices": 1}
    return [override(key, value) for key, value in settings.items()]


def request(resources: Resources) -> dict[str, float]:
    """What Tune is to ask Ray for, for each trial. Ray offers an Apple GPU as a `GPU`, which nothing masks."""
    asked: dict[str, float] = {"cpu": resources.cpu, "gpu": resources.gpu or resources.mps}
    return asked | ({"memory": resources.memory_bytes} if resources.memory_bytes else {})


def told(resources: Resources) -> str:
    """In words: `2 CPU, 0.5 GPU and 4 GiB of memory`."""
    amounts = [f"{resources.cpu} CPU"]
    amounts += [f"{share:g} {name}" for name, share in (("GPU", resources.gpu), ("of the Apple GPU", resources.mps)) if share]
    amounts += [f"{size_text(resources.memory_bytes)} of memory"] if resources.memory_bytes else []
    return " and ".join(filter(None, [", ".join(amounts[:-1]), amounts[-1]]))


def torch_has_mps() -> bool:
    """Whether torch can use an Apple GPU on this machine."""
    import torch

    return torch.backends.mps.is_available()


def concurrency(resources: Resources, nodes: Sequence[Node], has_mps: Callable[[], bool] = torch_has_mps) -> int:
    """How many trials run at a time on a cluster of these nodes: a trial runs on one of them.

    Args: has_mps: whether torch can use an Apple GPU on this machine; asked only if a trial wants one.

    Raises:
        ResourceError: not even one fits; the message says what the largest node has.
    """
    if resources.mps and not has_mps():
        there = ", ".join(f"{_amount(name, amount)}" for name, amount in _largest(nodes).items() if amount)
        raise ResourceError(
            f"resources: a trial asks for {resources.mps:g} of an Apple GPU (mps), and torch can use none on this machine, "
            f"which has {there}. Take `mps` out of the search space, or run on a Mac with Apple silicon."
        )
    count = sum(_fitting(resources, node) for node in nodes)
    if count == 0:
        where = "this machine" if len(nodes) == 1 else f"the largest of {len(nodes)} nodes"
        raise ResourceError(
            f"resources: a trial asks for {_lack(resources, nodes, where) or _apart(resources, where)}. Ask for less in the "
            "search space, or run where there is more."
        )
    return count


def _fitting(resources: Resources, node: Node) -> int:
    """How many trials this node holds. A share of a GPU is of one GPU: two GPUs hold four trials of 0.4, not five."""
    limits = []
    for name, amount in _wanted(resources).items():
        has = node.get(name, 0.0)
        whole = int(has) if name == "GPU" else 0
        each = whole * int(1 / amount + _CLOSE) if whole else 0
        limits.append(each + int((has - whole) / amount + _CLOSE))
    return min(limits)


def _wanted(resources: Resources) -> dict[str, float]:
    return {{"cpu": "CPU", "gpu": "GPU"}.get(name, name): amount for name, amount in request(resources).items() if amount}


def _largest(nodes: Sequence[Node]) -> dict[str, float]:
    return {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in ("CPU", "GPU", "memory")}


def _lack(resources: Resources, nodes: Sequence[Node], where: str) -> str:
    """What no node has enough of, in words; empty if there is nothing of which a trial wants more than some node has."""
    largest = _largest(nodes)
    return "; for ".join(
        f"{_amount(name, amount)}, and {where} has {_amount(name, largest[name])}"
        for name, amount in _wanted(resources).items()
        if amount > largest[name] + _CLOSE
    )


def _apart(resources: Resources, where: str) -> str:
    return f"{told(resources)}, and {where} has each of these, but no node has all of them"


def _amount(name: str, amount: float) -> str:
    return f"{size_text(amount)} of memory" if name == "memory" else f"{amount:g} {name}"


def here() -> dict[str, float]:
    """What this machine has, without asking Ray."""
    import torch

    gpus = torch.cuda.device_count() or int(torch_has_mps())
    return {"CPU": cpus(), "GPU": gpus, "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}


def notes(resources: Resources, workers: int) -> list[str]:
    """What a reader of a space should know of its resources before running it here.

    Args: workers: the processes that load data beside a trial's own (`data.num_workers`).
    """
    found = []
    try:
        concurrency(resources, [here()])
    except ResourceError as error:
        found.append(f"not on this machine: {str(error).removeprefix('resources: ')}")
    if workers > resources.cpu:
        what = f"data.num_workers is {workers}, and a trial has {resources.cpu} CPU: its loaders take what others were allotted"
        found.append(what)
    return found
