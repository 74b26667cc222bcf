"""The datamodule of VIMH datasets: what `ImageDataModule` has to know of them, and the making of a missing one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lhtx.data.dataset import describe_dataset, open_dataset
from lhtx.data.images import ImageDataModule, Part
from lhtx.data.parameters import LEVELS, Parameter, class_index, dequantise, normalise
from lhtx.data.recipe import Recipe, generate
from lhtx.data.records import Samples
from lhtx.data.spec import HeadSpec, ImageInfo
from lhtx.errors import DatasetError


class VIMHDataModule(ImageDataModule):
    """Feeds a VIMH dataset to a network, a batch at a time; its heads are the parameters that vary.

    Args:
        data_dir: the dataset's directory.
        generate: generator options (`lhtx.data.recipe.Recipe`) by which `prepare_data` makes a missing dataset.
        options: those of `ImageDataModule`.

    Raises `ConfigError` for a bad argument and `DatasetError` for a bad dataset.
    """

    def __init__(self, data_dir: str | Path, generate: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.data_dir = Path(data_dir)
        self.recipe = None if generate is None else Recipe.from_options(generate)

    def prepare_data(self) -> None:
        """Make the dataset if it is missing and a recipe was given; refuse to go on without one, or with another's."""
        if self.recipe is not None:
            generate(self.recipe, self.data_dir)
        elif not self.data_dir.exists():
            raise DatasetError(
                f"no dataset at {self.data_dir}; make one with `{Recipe().command(self.data_dir)}` (see --help for what can "
                "vary), give data.generate a recipe, or point data.data_dir at an existing one"
            )

    def describe(self) -> ImageInfo:
        """Reads the JSON and the first bytes of the files."""
        info = describe_dataset(self.data_dir)
        heads = {name: HeadSpec.of(info.parameters[name]) for name in info.varying}
        return ImageInfo(info.name, tuple(info.channel_labels), info.height, info.width, heads)

    def load(self) -> list[Part]:
        """The records, mapped and checked, with the labels of the chosen heads."""
        dataset = open_dataset(self.data_dir, test=self.reads_test_file)
        chosen = self.chosen_heads(self.describe())
        parameters = {name: dataset.info.parameters[name] for name in chosen}
        ids = [list(dataset.info.parameters).index(name) for name in chosen]
        parts = [_part(dataset.train, ids, parameters)]
        if dataset.test is not None:
            parts.append(_part(dataset.test, ids, parameters, test=True))
        return parts


def _part(samples: Samples, ids: list[int], parameters: Mapping[str, Parameter], test: bool = False) -> Part:
    """Samples with the class and the regression target of every label, by a table of the 256 bytes a head."""
    stored = samples.labels(ids)
    classes, values = {}, {}
    for column, (name, p) in enumerate(parameters.items()):
        table = dequantise(np.arange(LEVELS + 1), p.minimum, p.maximum)
        classes[name] = class_index(table, p.minimum, p.maximum, p.step)[stored[:, column]]
        values[name] = normalise(table, p.minimum, p.maximum)[stored[:, column]]
    return Part(samples.images, classes, values, test)
