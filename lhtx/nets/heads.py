"""The readouts that every network ends in, and the checks of sizes and inputs that the networks share.

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


def require_sizes(network: str, **sizes: int) -> None:
    """Raise a `ConfigError` that names the first of `sizes` that is no whole number of 1 or more."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"{network}: {name} is {size!r}; expected a whole number, 1 or more")


def require_dropout(network: str, dropout: float) -> None:
    """Raise a `ConfigError` for a dropout probability outside [0, 1)."""
    if not 0 <= dropout < 1:
        raise ConfigError(f"{network}: dropout is {dropout!r}; expected a probability, 0 or more and below 1")


def require_features(network: str, image: Tensor, features: int) -> None:
    """Raise a `ValueError` where a batch of images does not flatten to `features` numbers each. Looks at the shape only."""
    if image.shape[1:].numel() != features:
        raise ValueError(
            f"{network} was built for input_size={features} numbers an image, and got images of shape "
            f"{tuple(image.shape[1:])}, {image.shape[1:].numel()} numbers; set input_size to that"
        )


def require_auxiliary(network: str, auxiliary: Tensor | None, size: int) -> None:
    """Raise a `ValueError` unless `auxiliary` is (B, size), or None where size is 0. Looks at the shape only."""
    if size == 0 and auxiliary is not None:
        raise ValueError(
            f"{network} was built with auxiliary_input_size=0 and got auxiliary features of shape {tuple(auxiliary.shape)}; "
            "build it with their number, or hand it none"
        )
    if size > 0 and auxiliary is None:
        raise ValueError(
            f"{network} was built with auxiliary_input_size={size} and got no auxiliary features; they are required"
        )
    if auxiliary is not None and (auxiliary.ndim != 2 or auxiliary.shape[1] != size):
        raise ValueError(f"{network} takes auxiliary features of shape (B, {size}) and got {tuple(auxiliary.shape)}")
