"""The readouts that every network ends in.

Knows nothing of what a head predicts: a head is a name and a number of classes.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from torch import Tensor, nn

from lhtx.errors import ConfigError

HeadKind = Literal["classification", "regression"]
HEAD_KINDS: tuple[str, ...] = ("classification", "regression")
DIGITS: Mapping[str, int] = MappingProxyType({"digit": 10})
"""The heads of a network that is built without any: the ten digits of MNIST."""


class Heads(nn.Module):
    """One linear readout a head, side by side on the same features.

    Args:
        features: width F of the features.
        heads: head name → number of classes.
        kind: `classification` (Linear to the classes, logits) or `regression` (Linear to one number, then a sigmoid).

    Raises:
        ConfigError: for no head at all, a name that a module cannot carry, fewer than 2 classes, or an unknown kind.
    """

    def __init__(self, features: int, heads: Mapping[str, int], kind: HeadKind) -> None:
        super().__init__()
        if kind not in HEAD_KINDS:
            raise ConfigError(f"unknown head_kind {kind!r}. Accepted: {', '.join(HEAD_KINDS)}")
        if not heads:
            raise ConfigError("a network needs one head at least, and heads is empty; expected a mapping name -> classes")
        self.sizes: dict[str, int] = {str(name): int(classes) for name, classes in heads.items()}
        self.kind = kind
        for name, classes in self.sizes.items():
            if not name or "." in name:
                raise ConfigError(f"the head name {name!r} is empty or has a dot in it, so no config key can reach it")
            if classes < 2:
                raise ConfigError(f"the head {name!r} has {classes} classes; expected 2 or more")
            self.add_module(f"{name}_head", nn.Linear(features, classes if kind == "classification" else 1))

    def forward(self, features: Tensor) -> Tensor | dict[str, Tensor]:
        """(B, F) → one head's output, or a dict of them: logits (B, classes), or (B, 1) in [0, 1] for regression."""
        outputs = {name: self._readout(name, features) for name in self.sizes}
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _readout(self, name: str, features: Tensor) -> Tensor:
        output = self.get_submodule(f"{name}_head")(features)
        return output.sigmoid() if self.kind == "regression" else output
