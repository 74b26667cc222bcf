"""What a network has to know of a dataset: the shape of an image and the heads. Knows nothing of files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lhtx.data.channels import default_labels
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

    @classmethod
    def nominal(cls, classes: int) -> "HeadSpec":
        """The head of a label with `classes` classes, whose value in parameter units is the class index."""
        return cls(classes, 0.0, float(classes - 1), 1.0)


@dataclass(frozen=True)
class ImageInfo:
    """What a dataset of images holds, before anything of it is chosen.

    Attributes:
        name: of the dataset.
        channel_labels: one a channel, in stored order.
        height, width: of an image, in pixels.
        heads: every label that there is, by name.
        class_names: head → the names of its classes, in the order of their indices, where they have names.
    """

    name: str
    channel_labels: tuple[str, ...]
    height: int
    width: int
    heads: dict[str, HeadSpec]
    class_names: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of_classes(cls, name: str, shape: Sequence[int], class_names: Mapping[str, Sequence[str]]) -> "ImageInfo":
        """A dataset of images of the `shape` (C, H, W) whose heads are labels with named classes.

        >>> ImageInfo.of_classes("stripes", (1, 8, 8), {"direction": ["level", "upright"]}).heads["direction"].classes
        2
        """
        channels, height, width = shape
        heads = {head: HeadSpec.nominal(len(names)) for head, names in class_names.items()}
        names = {head: list(names) for head, names in class_names.items()}
        return cls(name, default_labels(channels), height, width, heads, names)


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
    class_names: dict[str, list[str]] = field(default_factory=dict)

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
