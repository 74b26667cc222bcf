"""What a network has to know of a dataset: the shape of an image and the heads. Knows nothing of files."""

from dataclasses import asdict, dataclass
from typing import Any

from lhtx.data.parameters import Parameter


@dataclass(frozen=True)
class HeadSpec:
    """One head: the classes of a parameter and its range in parameter units (`step` = 0: none, and 256 classes)."""

    classes: int
    minimum: float
    maximum: float
    step: float

    @classmethod
    def of(cls, parameter: Parameter) -> "HeadSpec":
        """The head that predicts `parameter`."""
        return cls(parameter.classes, parameter.minimum, parameter.maximum, parameter.step)


@dataclass(frozen=True)
class DataSpec:
    """The images (channels after selection, height = frequency, width = time), the heads in label order, the extras."""

    name: str
    channels: int
    height: int
    width: int
    heads: dict[str, HeadSpec]
    auxiliary_size: int
    target_width: float

    @property
    def features(self) -> int:
        """Numbers in one image, C·H·W: the input size of a network that flattens it."""
        return self.channels * self.height * self.width

    @property
    def head_sizes(self) -> dict[str, int]:
        """Head name → number of classes, in label order."""
        return {name: head.classes for name, head in self.heads.items()}

    def as_config(self) -> dict[str, Any]:
        """The same as plain builtins, for a config: every field, `features` and `head_sizes`."""
        return asdict(self) | {"features": self.features, "head_sizes": self.head_sizes}
