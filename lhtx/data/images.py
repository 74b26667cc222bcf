"""The datamodule that all datasets of labelled images share: it decides what is loaded, split, normalised, augmented and
handed out, a whole batch at a time. It knows no file format: a subclass says what its dataset holds, and opens it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.accelerators import MPSAccelerator
from torch.utils.data import DataLoader

from lhtx.checkpoints import INPUT_CONSTANTS
from lhtx.config_errors import near
from lhtx.data import auxiliary, channels, shared
from lhtx.data.augment import Augmentation
from lhtx.data.batches import Batches, BatchOrder, StreamedImages, batch_loader
from lhtx.data.normalisation import NONE, Constants, measure, parse_normalisation
from lhtx.data.parameters import LEVELS
from lhtx.data.records import MappedImages
from lhtx.data.spec import DataSpec, ImageInfo
from lhtx.data.splits import Split, check_fractions, coverage_split, file_split, random_split
from lhtx.errors import CheckpointError, ConfigError, DatasetError

MEASURED_IMAGES = 4096
"""How many images of the train split the mean and the deviation are taken over: enough for both to three digits."""


@dataclass(frozen=True)
class Part:
    """The samples of one file.

    Attributes:
        images: (N, C, H, W) uint8, planar, in memory or mapped from the file.
        classes: head → the class index of every sample, whole numbers (N,). Heads that are not asked for may be left out.
        values: head → the same as a regression target in [0, 1], (N,); None makes it index / (classes − 1).
        test: whether these are the dataset's own test samples.
    """

    images: "np.ndarray | MappedImages"
    classes: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray] | None = None
    test: bool = False

    def __len__(self) -> int:
        return len(self.images)


class ImageDataModule(LightningDataModule, ABC):
    """Feeds a dataset of labelled images to a network, a batch at a time.

    A batch is a dict, on the device after `on_after_batch_transfer`: `image` float32 (B, C, H, W), normalised, and
    augmented in training; `index` int64 (B, heads), the class of every head in the order of `spec.heads`; `value` float32
    (B, heads), the same as a regression target in [0, 1]; and, if there are any, `auxiliary` float32 (B, F), standardised
    on the train split.

    A dataset is a subclass with two methods, `describe` and `load`, and a third, `prepare_data`, if files have to be made
    or fetched first. What its constructor takes besides the options below, it keeps itself:

        class Stripes(ImageDataModule):
            def describe(self):
                return ImageInfo.of_classes("stripes", (1, 8, 8), {"direction": ["level", "upright"]})

            def load(self):
                return [Part(images, {"direction": directions})]  # uint8 (N, 1, 8, 8); whole numbers (N,)

    Args:
        batch_size: samples a batch of one process, in training and in evaluation.
        target_width: width σ of soft targets in class steps; carried to the task in `spec`, nothing here depends on it.
        heads: the labels to predict, in that order; None is every one that the dataset has.
        channel_selection: names or shell patterns of the channels to use; None is all.
        normalisation: "train" gives every channel mean 0 and standard deviation 1 over the train split (an even spread of
            at most `MEASURED_IMAGES` of its images), "none" leaves [0, 1], and {mean, std} are constants in units of
            [0, 1] (see `lhtx.data.normalisation.Constants`). What is measured goes into the checkpoints, and out of them
            comes what is used instead (`load_state_dict`): a network reads any dataset as it learnt to read its own.
        augmentation: crop_padding, flip and cutout (see `lhtx.data.augment.Augmentation`) of training images; None is none.
        auxiliary_features: names of `lhtx.data.auxiliary.FEATURES`.
        train_val_test_split: three fractions of the train file (`use_random_split`).
        split_seed: the seed of every split.
        use_random_split: False tests on the test file and validates on a seeded tenth of the train file.
        coverage_mode: train on both files together but for a seeded tenth, which validates and tests.
        in_memory: True, False to read batches from where the images lie, or "auto": in memory if the images take at most
            `memory_limit_gib`.
        memory_limit_gib: the limit of "auto", in GiB.
        num_workers: processes that read batches when streaming; a dataset in memory needs none and gets none, and beside
            Apple's GPU (MPS) there are none either.
        pin_memory: as the DataLoader's; helps the copy to a CUDA device.
        seed: decides the order of training samples, together with the epoch.
        first_order: which of these orders the first epoch takes, the others following; above 0 it is that of a network which
            joined others in their course (`lhtx.fused`).

    Raises `ConfigError` for a bad argument and `DatasetError` for a bad dataset.
    """

    def __init__(
        self,
        batch_size: int = 64,
        target_width: float = 0.0,
        heads: str | Sequence[str] | None = None,
        channel_selection: Sequence[str] | None = None,
        normalisation: str | Mapping[str, Any] = "train",
        augmentation: Mapping[str, Any] | None = None,
        auxiliary_features: Sequence[str] = (),
        train_val_test_split: Sequence[float] = (0.7, 0.2, 0.1),
        split_seed: int = 42,
        use_random_split: bool = True,
        coverage_mode: bool = False,
        in_memory: bool | str = "auto",
        memory_limit_gib: float = 2.0,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 0,
        first_order: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("split_seed", split_seed, 0),
            ("seed", seed, 0),
            ("first_order", first_order, 0),
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
        self.batch_size = batch_size
        self.target_width = float(target_width)
        self.heads = None if heads is None else [heads] if isinstance(heads, str) else list(heads)
        self.channel_selection = channel_selection if isinstance(channel_selection, str | None) else list(channel_selection)
        self.normalisation = parse_normalisation(normalisation)
        self.augmentation = Augmentation.parse(augmentation)
        self.auxiliary_features = list(auxiliary_features)
        self.train_val_test_split = tuple(train_val_test_split)
        self.split_seed = split_seed
        self.use_random_split = use_random_split
        self.coverage_mode = coverage_mode
        self.in_memory = in_memory
        self.memory_limit_gib = memory_limit_gib
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.seed = seed
        self.first_order = first_order
        self.split: Split | None = None
        self._batches: Batches | None = None
        self._features: torch.Tensor | None = None  # auxiliary ones, not standardised
        self._constants: dict[str, torch.Tensor] = {}
        self._mean, self._scale = torch.zeros(1), torch.full((1,), 1 / LEVELS)

    @abstractmethod
    def describe(self) -> ImageInfo:
        """What the dataset holds. Cheap: it is called to configure a network, before anything is loaded."""

    @abstractmethod
    def load(self) -> list[Part]:
        """The samples, a part for each file or all in one; called after `prepare_data`.

        It may spare itself what nobody reads: heads outside `chosen_heads`, and test files unless `reads_test_file`.
        """

    @property
    def reads_test_file(self) -> bool:
        """Whether the split takes any sample of the dataset's own test file."""
        return self.coverage_mode or not self.use_random_split

    @property
    def spec(self) -> DataSpec:
        """What a network has to know: shape, heads, auxiliary size. Loads nothing."""
        info = self.describe()
        self.augmentation.check(info.height, info.width)
        heads = self.chosen_heads(info)
        return DataSpec(
            name=info.name,
            channels=len(channels.select(info.channel_labels, self.channel_selection)),
            height=info.height,
            width=info.width,
            heads={name: info.heads[name] for name in heads},
            auxiliary_size=auxiliary.feature_count(self.auxiliary_features),
            target_width=self.target_width,
            class_names={name: list(info.class_names[name]) for name in heads if name in info.class_names},
        )

    @property
    def streams(self) -> bool:
        """Whether batches are read from the files, after `setup`."""
        return isinstance(self._ready().columns["image"], StreamedImages)

    def chosen_heads(self, info: ImageInfo) -> list[str]:
        """The heads to predict, in the order of a batch's columns. Raises `ConfigError` for one that there is not."""
        names = list(info.heads) if self.heads is None else self.heads
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"heads is {names}; expected different heads among {', '.join(info.heads) or 'none'}")
        for name in names:
            if name not in info.heads:
                raise ConfigError(f"heads: {info.name} has no head {name!r}. {near(str(name), info.heads)}")
        return names

    def setup(self, stage: str | None = None) -> None:
        """Open, split and load the dataset, once for all stages."""
        if self._batches is not None:
            return
        info = self.describe()
        self.augmentation.check(info.height, info.width)
        heads = self.chosen_heads(info)
        selected = channels.select(info.channel_labels, self.channel_selection)
        parts = sorted(self.load(), key=lambda part: part.test)  # a split counts through the train files first
        parts = [part for part in parts if self.reads_test_file or not part.test]
        for part in parts:
            _check(part, info, heads)
        test = sum(len(part) for part in parts if part.test)
        self.split = self._split(sum(map(len, parts)) - test, test)
        images = StreamedImages([part.images for part in parts], selected)
        size = len(images) * len(selected) * info.height * info.width
        fits = size <= self.memory_limit_gib * 2**30
        load = fits if self.in_memory == "auto" else self.in_memory
        columns: dict[str, torch.Tensor | StreamedImages] = {"image": shared.load(images) if load else images}
        columns |= _targets(parts, info, heads)
        if self.auxiliary_features:
            everything = StreamedImages(images.sources, range(len(info.channel_labels)))
            chunks = (everything[chunk] for chunk in torch.arange(len(everything)).split(512))
            self._features = auxiliary.compute(self.auxiliary_features, chunks)
        self._batches = Batches(columns)
        self._use(self._constants or self._measure(selected))

    def state_dict(self) -> dict[str, Any]:
        """What belongs to the trained network, for its checkpoints; empty before `setup`.

        Under `INPUT_CONSTANTS` the `mean` and `deviation` of the channels in units of [0, 1], float32 (C,), or (1,) for all of
        them; and of auxiliary features, if there are any, `auxiliary_mean` and `auxiliary_deviation`, float64 (F,).
        """
        return {INPUT_CONSTANTS: dict(self._constants)} if self._constants else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Use the constants of `state_dict` from now on, or from `setup` on, and measure none.

        Raises:
            CheckpointError: they are for other channels or other auxiliary features.
        """
        self._constants = dict(state_dict[INPUT_CONSTANTS])
        if self._batches is not None:
            self._use(self._constants)

    def train_dataloader(self) -> DataLoader:
        """Batches of the train split, in an order that `seed` and the epoch decide."""
        return self._loader(lambda split: split.train, self.seed)

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation split, in stored order."""
        return self._loader(lambda split: split.validation)

    def test_dataloader(self) -> DataLoader:
        """Batches of the test split, in stored order."""
        return self._loader(lambda split: split.test)

    def transfer_batch_to_device(
        self, batch: dict[str, torch.Tensor], device: torch.device, dataloader_idx: int
    ) -> dict[str, torch.Tensor]:
        """The batch on `device`. Lightning's own way looks through any nesting, which takes longer than a small step's share.

        It waits for the copy, except to CUDA, whose later operations wait by themselves; on MPS they would not.
        """
        overlaps = device.type == "cuda"
        return {name: column.to(device, non_blocking=overlaps) for name, column in batch.items()}

    def on_after_batch_transfer(self, batch: dict[str, torch.Tensor], dataloader_idx: int) -> dict[str, torch.Tensor]:
        """Bytes to numbers, on the device: `image` becomes normalised float32, augmented while the trainer trains.

        In double precision (`trainer.precision=64-true`) it becomes float64, as the network's weights are.
        """
        image = batch["image"]
        training = self.trainer is not None and self.trainer.training
        self._mean, self._scale = self._mean.to(image.device), self._scale.to(image.device)
        if training:
            image = self.augmentation.move(image)
        double = self.trainer is not None and self.trainer.precision == "64-true"
        image = image.to(torch.float64 if double else torch.float32).sub_(self._mean).mul_(self._scale)
        return {**batch, "image": self.augmentation.cover(image) if training else image}

    def _ready(self) -> Batches:
        if self._batches is None:
            raise RuntimeError("the datamodule is not set up; call prepare_data() and setup() first, as a Trainer does")
        return self._batches

    def _loader(self, part: Any, seed: int | None = None) -> DataLoader:
        batches = self._ready()
        rank, processes = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        order = BatchOrder(torch.from_numpy(part(self.split)), self.batch_size, seed, rank, processes, self.first_order)
        single = self.trainer is not None and isinstance(self.trainer.accelerator, MPSAccelerator)
        return batch_loader(batches, order, 0 if single or not self.streams else self.num_workers, self.pin_memory)

    def _split(self, train: int, test: int) -> Split:
        if self.coverage_mode:
            return coverage_split(train + test, self.split_seed)
        if self.use_random_split:
            return random_split(train, self.train_val_test_split, self.split_seed)
        return file_split(train, test, self.split_seed)

    def _measure(self, selected: Sequence[int]) -> dict[str, torch.Tensor]:
        """The constants as this dataset and its train split have them."""
        mean, deviation = self._statistics(selected)
        constants = {"mean": mean, "deviation": deviation}
        if self._features is not None:
            found = auxiliary.measure(self._features[torch.from_numpy(self.split.train)])
            constants |= zip(("auxiliary_mean", "auxiliary_deviation"), found, strict=True)
        return constants

    def _use(self, constants: dict[str, torch.Tensor]) -> None:
        """Normalise and standardise by `constants`."""
        columns = self._ready().columns
        channels = columns["image"][torch.zeros(1, dtype=torch.int64)].shape[1]
        features = 0 if self._features is None else self._features.shape[1]
        found = {name: len(constants.get(name, ())) for name in ("mean", "auxiliary_mean")}
        if found["mean"] not in (1, channels) or found["auxiliary_mean"] != features:
            raise CheckpointError(
                f"the checkpoint's network reads {found['mean']} channels and {found['auxiliary_mean']} auxiliary features, "
                f"and {self.describe().name} as configured has {channels} and {features}"
            )
        self._constants = constants
        self._mean = (constants["mean"] * LEVELS)[:, None, None]  # of bytes
        self._scale = (1 / (constants["deviation"] * LEVELS))[:, None, None]
        if self._features is not None:
            auxiliary_constants = (constants["auxiliary_mean"], constants["auxiliary_deviation"])
            columns["auxiliary"] = auxiliary.standardise(self._features, *auxiliary_constants)

    def _statistics(self, selected: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the selected channels, in units of [0, 1]: (C,) each."""
        if isinstance(self.normalisation, Constants):
            return self.normalisation.of(selected)
        if self.normalisation == NONE:
            return torch.zeros(1), torch.ones(1)
        train = self.split.train  # ascending, and samples may be stored in order: an even spread over all of them
        some = train[np.linspace(0, len(train) - 1, min(len(train), MEASURED_IMAGES)).astype(int)]
        return measure(self._ready()[torch.from_numpy(some)]["image"])


def _check(part: Part, info: ImageInfo, heads: Sequence[str]) -> None:
    """Refuse samples that are not what the dataset's description promises."""
    shape = (len(info.channel_labels), info.height, info.width)
    kind = part.images.dtype if isinstance(part.images, np.ndarray) else np.dtype(np.uint8)
    if tuple(part.images.shape[1:]) != shape or kind != np.uint8:
        raise DatasetError(
            f"{info.name}: images are {kind} {tuple(part.images.shape)}; expected uint8 (N, {', '.join(map(str, shape))})"
        )
    for head in heads:
        if head not in part.classes:
            raise DatasetError(f"{info.name}: there are no labels of the head {head!r}; found {', '.join(part.classes)}")
        labels = np.asarray(part.classes[head])
        classes = info.heads[head].classes
        if labels.shape != (len(part),) or labels.dtype.kind not in "iu":
            raise DatasetError(
                f"{info.name}: the labels of {head!r} are {labels.dtype} {labels.shape}; expected whole numbers ({len(part)},)"
            )
        wrong = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(wrong):
            raise DatasetError(
                f"{info.name}: sample {wrong[0]} has the class {labels[wrong[0]]} of {head!r}; expected 0 to {classes - 1}"
            )


def _targets(parts: Sequence[Part], info: ImageInfo, heads: Sequence[str]) -> dict[str, torch.Tensor]:
    """Class `index` int64 (N, heads) and regression `value` float32 (N, heads) of all parts, one after the other."""
    samples = sum(map(len, parts))
    index = np.empty((samples, len(heads)), dtype=np.int64)
    value = np.empty((samples, len(heads)), dtype=np.float32)
    for column, head in enumerate(heads):
        classes = [np.asarray(part.classes[head]) for part in parts]
        last = max(info.heads[head].classes - 1, 1)
        index[:, column] = np.concatenate(classes)
        value[:, column] = np.concatenate(
            [found / last if part.values is None else part.values[head] for found, part in zip(classes, parts, strict=True)]
        )
    return {"index": torch.from_numpy(index), "value": torch.from_numpy(value)}
