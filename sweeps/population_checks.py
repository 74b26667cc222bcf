"""What a search space must hold for population-based training: in the file, and once it is composed.

Parts of `space_reader.py` and `validation.py`, which call them. What a copy perturbs must not change what a checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from sweeps.errors import suggestions
from sweeps.located_yaml import KeyPath

if TYPE_CHECKING:
    from lhtx.compose import Description
    from sweeps.hydra_overrides import Scalar
    from sweeps.schema import Parameter, Stopping
    from sweeps.space_reader import SpaceReader

PERTURB: KeyPath = ("stopping", "perturb")
_NEVER = {
    "seed": "a seed is no hyperparameter, and every copy has its own anyway",
    "trainer.max_epochs": "the population trains in step, so that a copy has as many epochs as its donor",
}


def perturbed(reader: SpaceReader, stopping: Stopping | None, parameters: Mapping[str, Parameter]) -> None:
    """`perturb` names parameters of the space that a copy can take over changed."""
    if stopping is None or stopping.scheduler != "pbt":
        return
    if not stopping.perturb:
        found = "is missing" if stopping.perturb is None else "is empty"
        near = ", ".join(key for key in parameters if key.lstrip("+") not in _NEVER)
        reader.problem(PERTURB, f"{found}: which parameters a copy takes over changed, some of: {near}")
        return
    for index, key in enumerate(stopping.perturb):
        path = (*PERTURB, index)
        if key in stopping.perturb[:index]:
            reader.problem(path, f"{key} stands here twice")
        elif key.lstrip("+") in _NEVER:
            reader.problem(path, f"{key} cannot be perturbed: {_NEVER[key.lstrip('+')]}")
        elif key not in reader.entries:
            reader.problem(path, f"is no parameter of this space. {suggestions(key, list(reader.entries))}")
        else:
            for other, parameter in parameters.items():
                if any(key == needed for needed, _ in parameter.when):
                    what = f"{key} cannot be perturbed: {other} is active under a condition on it, and a copy inherits that"
                    reader.problem(path, what)


def changed(key: str, ends: Mapping[Scalar, Description]) -> Iterator[str]:
    """What of a checkpoint the parameter `key` changes between two of its values, in words."""
    (first, one), *rest = ends.items()
    parts = {
        "the network": lambda each: _shapes(each),
        "the optimizer": lambda each: each.config.model.optimizer.get("_target_"),
        "the parameter groups of the optimizer": lambda each: each.config.model.decay_vectors,
        "the learning-rate schedule": lambda each: (each.config.model.get("scheduler") or {}).get("_target_"),
        "when the learning rate is scheduled": lambda each: each.config.model.scheduler_interval,
    }
    for value, other in rest:
        for part, of in parts.items():
            if of(one) != of(other):
                yield f"{key} cannot be perturbed: between {first} and {value} it changes {part}, and a copy inherits that"
                return


def _shapes(description: Description) -> dict[str, tuple[int, ...]]:
    """Of every tensor that a checkpoint of the task holds."""
    import torch

    from lhtx.compose import build_task

    with torch.device("meta"):
        state = build_task(description.config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
