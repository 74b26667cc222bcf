"""The Lightning datamodule of VIMH datasets. It decides what is loaded, split and handed out; the rest is done elsewhere."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from lhtx.data import auxiliary, channels
from lhtx.data.batches import Batches, BatchOrder, StreamedImages, batch_loader
from lhtx.data.dataset import Dataset, describe_dataset, open_dataset
from lhtx.data.info import DatasetInfo
from lhtx.data.parameters import LEVELS, class_index, dequantise, normalise
from lhtx.data.recipe import Recipe, generate
from lhtx.data.spec import DataSpec, HeadSpec
from lhtx.data.splits import Split, check_fractions, coverage_split, file_split, random_split
from lhtx.errors import ConfigError, DatasetError

STANDARDISE_ON = 4096
"""How many images of the train split the mean and the deviation are taken over: enough for both to three digits."""


class VIMHDataModule(LightningDataModule):
    """Feeds a VIMH dataset to a network, a batch at a time.

    A batch is a dict, on the device after `on_after_batch_transfer`: `image` float32 (B, C, H, W), standardised or
    in [0, 1]; `index` int64 (B, heads), the class of every head in the order of `spec.heads`; `value` float32 (B, heads),
    the same parameter as a regression target in [0, 1]; and, if there are any, `auxiliary` float32 (B, F), standardised on
    the train split.

    Args:
        data_dir: the dataset's directory.
        batch_size: samples a batch, in training and in evaluation.
        target_width: width σ of soft targets in class steps; carried to the task in `spec`, nothing here depends on it.
        heads: the parameters to predict, in that order; None is every varying parameter.
        channel_selection: names or shell patterns of the channels to use; None is all.
        standardise: give every channel mean 0 and standard deviation 1 over the train split (an even spread of at most
            `STANDARDISE_ON` of its images); False leaves [0, 1].
        auxiliary_features: names of `lhtx.data.auxiliary.FEATURES`.
        train_val_test_split: three fractions of the train file (`use_random_split`).
        split_seed: the seed of every split.
        use_random_split: False tests on the test file and validates on a seeded tenth of the train file.
        coverage_mode: train on both files together but for a seeded tenth, which validates and tests.
        in_memory: True, False to stream from the files, or "auto": in memory if the images take at most `memory_limit_gib`.
        memory_limit_gib: the limit of "auto", in GiB.
        num_workers: processes that read batches when streaming; a dataset in memory needs none and gets none.
        pin_memory: as the DataLoader's; helps the copy to a CUDA device.
        generate: generator options (`lhtx.data.recipe.Recipe`) by which `prepare_data` makes a missing dataset.
        seed: decides the order of training samples, together with the epoch.

    Raises `ConfigError` for a bad argument and `DatasetError` for a bad dataset.
    """

    def __init__(
        self,
        data_dir: str | Path,
        batch_size: int = 64,
        target_width: float = 0.0,
        heads: Sequence[str] | None = None,
        channel_selection: Sequence[str] | None = None,
        standardise: bool = True,
        auxiliary_features: Sequence[str] = (),
        train_val_test_split: Sequence[float] = (0.7, 0.2, 0.1),
        split_seed: int = 42,
        use_random_split: bool = True,
        coverage_mode: bool = False,
        in_memory: bool | str = "auto",
        memory_limit_gib: float = 2.0,
        num_workers: int = 0,
        pin_memory: bool = False,
        generate: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("split_seed", split_seed, 0),
            ("seed", seed, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} is {value!r}; expected a whole number of at least {least}")
        for name, value in (("target_width", target_width), ("memory_limit_gib", memory_limit_gib)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
                raise ConfigError(f"{name} is {value!r}; expected a number of at least 0")
        if in_memory not in (True, False, "auto"):
            raise ConfigError(f"in_memory is {in_memory!r}; expected true, false or auto")
        auxiliary.check_features(auxiliary_features)
        check_fractions(train_val_test_split)
        self.data_dir = Path(data_dir)
        self.batch_size = batch_size
        self.target_width = float(target_width)
        self.heads = None if heads is None else list(heads)
        self.channel_selection = channel_selection if isinstance(channel_selection, str | None) else list(channel_selection)
        self.standardise = standardise
        self.auxiliary_features = list(auxiliary_features)
        self.train_val_test_split = tuple(train_val_test_split)
        self.split_seed = split_seed
        self.use_random_split = use_random_split
        self.coverage_mode = coverage_mode
        self.in_memory = in_memory
        self.memory_limit_gib = memory_limit_gib
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.recipe = None if generate is None else Recipe.from_options(generate)
        self.seed = seed
        self.split: Split | None = None
        self._batches: Batches | None = None
        self._mean, self._scale = torch.zeros(1), torch.full((1,), 1 / LEVELS)

    def prepare_data(self) -> None:
        """Make the dataset if it is missing and a recipe was given; refuse to go on without one, or with another's."""
        if self.recipe is not None:
            generate(self.recipe, self.data_dir)
        elif not self.data_dir.exists():
            raise DatasetError(
                f"no dataset at {self.data_dir}; make one with `{Recipe().command(self.data_dir)}` (see --help for what can "
                "vary), give data.generate a recipe, or point data.data_dir at an existing one"
            )

    @property
    def spec(self) -> DataSpec:
        """What a network has to know: shape, heads, auxiliary size. Reads the JSON and the first bytes of the files."""
        return self._spec(describe_dataset(self.data_dir))

    @property
    def streams(self) -> bool:
        """Whether batches are read from the files, after `setup`."""
        return isinstance(self._ready().columns["image"], StreamedImages)

    def setup(self, stage: str | None = None) -> None:
        """Open, split and load the dataset, once for all stages."""
        if self._batches is not None:
            return
        dataset = open_dataset(self.data_dir, test=self.coverage_mode or not self.use_random_split)
        sources = [dataset.train] if dataset.test is None else [dataset.train, dataset.test]
        self.split = self._split(dataset)
        names = self._head_names(dataset.info)
        ids = [list(dataset.info.parameters).index(name) for name in names]
        stored = np.concatenate([source.labels(ids) for source in sources])
        selected = channels.select(dataset.info.channel_labels, self.channel_selection)
        images = StreamedImages([source.images for source in sources], selected)
        size = len(images) * len(selected) * dataset.info.height * dataset.info.width
        fits = size <= self.memory_limit_gib * 2**30
        load = fits if self.in_memory == "auto" else self.in_memory
        columns: dict[str, torch.Tensor | StreamedImages] = {"image": images.load() if load else images}
        columns |= _targets(stored, [dataset.info.parameters[name] for name in names])
        if self.auxiliary_features:
            everything = StreamedImages(images.sources, range(dataset.info.channels))
            chunks = (everything[chunk] for chunk in torch.arange(len(everything)).split(512))
            features = auxiliary.compute(self.auxiliary_features, chunks)
            columns["auxiliary"] = auxiliary.standardise(features, torch.from_numpy(self.split.train))
        self._batches = Batches(columns)
        if self.standardise:
            train = self.split.train  # ascending, and samples may be stored in order: an even spread over all of them
            some = torch.from_numpy(train[np.linspace(0, len(train) - 1, min(len(train), STANDARDISE_ON)).astype(int)])
            images = self._batches[some]["image"].float()
            deviation, self._mean = torch.std_mean(images, dim=(0, 2, 3), keepdim=True, correction=0)
            self._scale = torch.where(deviation > 0, 1 / deviation, 1.0)

    def train_dataloader(self) -> DataLoader:
        """Batches of the train split, in an order that `seed` and the epoch decide."""
        return self._loader(lambda split: split.train, self.seed)

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation split, in stored order."""
        return self._loader(lambda split: split.validation)

    def test_dataloader(self) -> DataLoader:
        """Batches of the test split, in stored order."""
        return self._loader(lambda split: split.test)

    def on_after_batch_transfer(self, batch: dict[str, torch.Tensor], dataloader_idx: int) -> dict[str, torch.Tensor]:
        """Bytes to numbers, on the device: `image` becomes float32."""
        image = batch["image"]
        self._mean, self._scale = self._mean.to(image.device), self._scale.to(image.device)
        return {**batch, "image": image.float().sub_(self._mean).mul_(self._scale)}

    def _ready(self) -> Batches:
        if self._batches is None:
            raise RuntimeError("the datamodule is not set up; call prepare_data() and setup() first, as a Trainer does")
        return self._batches

    def _loader(self, part: Any, seed: int | None = None) -> DataLoader:
        batches = self._ready()
        order = BatchOrder(torch.from_numpy(part(self.split)), self.batch_size, seed)
        return batch_loader(batches, order, self.num_workers if self.streams else 0, self.pin_memory)

    def _spec(self, info: DatasetInfo) -> DataSpec:
        return DataSpec(
            name=info.name,
            channels=len(channels.select(info.channel_labels, self.channel_selection)),
            height=info.height,
            width=info.width,
            heads={name: HeadSpec.of(info.parameters[name]) for name in self._head_names(info)},
            auxiliary_size=auxiliary.feature_count(self.auxiliary_features),
            target_width=self.target_width,
        )

    def _head_names(self, info: DatasetInfo) -> list[str]:
        names = list(info.varying) if self.heads is None else self.heads
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"heads is {names}; expected different parameters among {', '.join(info.varying) or 'none'}")
        for name in names:
            if name not in info.varying:
                near = get_close_matches(str(name), info.varying, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise ConfigError(f"heads: {name!r} does not vary in {self.data_dir}{hint}; {', '.join(info.varying)} do")
        return names

    def _split(self, dataset: Dataset) -> Split:
        train, test = len(dataset.train), len(dataset.test) if dataset.test is not None else 0
        if self.coverage_mode:
            return coverage_split(train + test, self.split_seed)
        if self.use_random_split:
            return random_split(train, self.train_val_test_split, self.split_seed)
        return file_split(train, test, self.split_seed)


def _targets(stored: np.ndarray, parameters: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Stored bytes (N, heads) → class `index` int64 and regression `value` float32, by a table of the 256 bytes a head."""
    index = np.empty(stored.shape, dtype=np.int64)
    value = np.empty(stored.shape, dtype=np.float32)
    for head, p in enumerate(parameters):
        values = dequantise(np.arange(LEVELS + 1), p.minimum, p.maximum)
        index[:, head] = class_index(values, p.minimum, p.maximum, p.step)[stored[:, head]]
        value[:, head] = normalise(values, p.minimum, p.maximum)[stored[:, head]]
    return {"index": torch.from_numpy(index), "value": torch.from_numpy(value)}
