"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 and 10,000 colour images of 32×32 pixels, from their published files.

Either published version is read: the binary one (fixed records of label bytes and 3,072 planar image bytes) or the Python
one (pickled dictionaries, opened without running what they say).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lhtx.data.cifar_labels import CIFAR10, CIFAR100_COARSE, CIFAR100_FINE, DOMAIN, MOBILITY, SIZE, class_of_object
from lhtx.data.download import base_urls, check_md5, fetch, unpack
from lhtx.data.images import ImageDataModule, Part
from lhtx.data.pickles import byte_table, load_dictionary
from lhtx.data.records import MappedImages, map_records
from lhtx.data.spec import ImageInfo
from lhtx.data.writer import dataset_lock
from lhtx.errors import ConfigError, DatasetError
from lhtx.files import ensure_directory

SHAPE = (3, 32, 32)
TEST_IMAGES = 10_000
"""How many the published test file of either dataset holds."""
MIRRORS = ("https://www.cs.toronto.edu/~kriz", "https://cave.cs.toronto.edu/kriz")


@dataclass(frozen=True)
class Version:
    """One published version: the archive, its MD5 checksum, the folder in it, and the files that hold the samples."""

    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str

    @property
    def files(self) -> tuple[str, ...]:
        """Of the samples, the train files first."""
        return (*self.train, self.test)

    @property
    def binary(self) -> bool:
        """Whether the files are records; else they are pickles."""
        return self.test.endswith(".bin")


@dataclass(frozen=True)
class Dataset:
    """What the two datasets differ in. `labels`: the labels of a sample, in the order of a record's label bytes.

    `train_images`: how many each published train file holds. `derived`: further heads, each made from the first label by a
    table with a class for each of that label's classes.
    """

    name: str
    versions: tuple[Version, ...]
    train_images: int
    class_names: dict[str, list[str]]
    labels: dict[str, str]
    derived: dict[str, list[int]]


_TEN = tuple(f"data_batch_{number}" for number in range(1, 6))
DATASETS = {
    10: Dataset(
        "cifar10",
        (
            Version(
                "cifar-10-binary.tar.gz",
                "c32a1d4ab5d03f1284b67883e8d87530",
                "cifar-10-batches-bin",
                tuple(f"{name}.bin" for name in _TEN),
                "test_batch.bin",
            ),
            Version("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py", _TEN, "test_batch"),
        ),
        10_000,
        {"class": CIFAR10, "domain": list(DOMAIN), "mobility": list(MOBILITY), "size": list(SIZE)},
        {"class": "labels"},
        {"domain": class_of_object(DOMAIN), "mobility": class_of_object(MOBILITY), "size": class_of_object(SIZE)},
    ),
    100: Dataset(
        "cifar100",
        (
            Version(
                "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", "cifar-100-binary", ("train.bin",), "test.bin"
            ),
            Version("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python", ("train",), "test"),
        ),
        50_000,
        {"fine": CIFAR100_FINE, "coarse": CIFAR100_COARSE},
        {"coarse": "coarse_labels", "fine": "fine_labels"},
        {},
    ),
}
"""By the number of classes. The key of a label is its head, the value its name in the pickles."""


class CIFARDataModule(ImageDataModule):
    """Feeds CIFAR-10 or CIFAR-100 to a network.

    Heads of CIFAR-10: `class`, and `domain`, `mobility` and `size`, which are made from it. Heads of CIFAR-100: `fine`, and
    `coarse`, the superclasses that the files themselves carry.

    Args:
        data_dir: where the archive is unpacked, its folder or the files in it.
        classes: 10 or 100: which dataset.
        download: fetch and unpack the binary version if neither is there.
        mirrors: base URLs of the archives, tried in this order; None is `MIRRORS`.
        options: those of `ImageDataModule`.
    """

    def __init__(
        self,
        data_dir: str | Path,
        classes: int = 10,
        download: bool = True,
        mirrors: str | Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if classes not in DATASETS:
            raise ConfigError(f"classes is {classes!r}; expected {' or '.join(map(str, DATASETS))}")
        self.dataset = DATASETS[classes]
        self.data_dir = Path(data_dir)
        self.download = download
        self.mirrors = base_urls(mirrors, MIRRORS)

    def prepare_data(self) -> None:
        """Unpack an archive that lies there, or fetch one, one process at a time; raises `DatasetError` if neither will do."""
        if self._found():
            return
        archives = [version for version in self.dataset.versions if (self.data_dir / version.archive).is_file()]
        if not archives and not self.download:
            raise DatasetError(f"{self._advice()}, and data.download=true fetches the binary version")
        ensure_directory(self.data_dir, "data.data_dir")
        with dataset_lock(self.data_dir):
            if self._found():
                return
            version = archives[0] if archives else self.dataset.versions[0]
            archive = self.data_dir / version.archive
            if archives:
                check_md5(archive, version.md5)
            else:
                try:
                    fetch(version.archive, version.md5, self.mirrors, self.data_dir)
                except DatasetError as error:
                    raise DatasetError(f"{self._advice()}. Fetching failed: {error}") from error
            members = [f"{version.folder}/{name}" for name in version.files]
            unpack(archive, members, self.data_dir / version.folder)
            if not archives:
                archive.unlink()

    def describe(self) -> ImageInfo:
        """Three channels of 32×32 and the dataset's heads; nothing is read."""
        return ImageInfo.of_classes(self.dataset.name, SHAPE, self.dataset.class_names)

    def load(self) -> list[Part]:
        """The train files, and the test file where it is read. Raises `DatasetError`, naming the file."""
        found = self._found()
        if found is None:
            raise DatasetError(self._advice())
        version, directory = found
        names = version.files if self.reads_test_file else version.train
        parts = {directory / name: self._part(directory / name, version.binary, test=name == version.test) for name in names}
        self._check_sizes({file: len(part) for file, part in parts.items()}, directory / version.test)
        return list(parts.values())

    def _part(self, file: Path, binary: bool, test: bool) -> Part:
        images, classes = _read_records(file, self.dataset) if binary else _read_pickle(file, self.dataset)
        for head, labels in classes.items():
            last = len(self.dataset.class_names[head]) - 1
            if (labels > last).any():
                record = int(np.argmax(labels > last))
                raise DatasetError(f"{file}: sample {record} has the {head} label {labels[record]}; expected 0 to {last}")
        original = next(iter(classes.values()))
        derived = {head: np.array(table)[original] for head, table in self.dataset.derived.items()}
        return Part(images, classes | derived, test=test)

    def _check_sizes(self, images: Mapping[Path, int], test: Path) -> None:
        """Refuse files that end early between two samples, by the number of images in each file that is read.

        Of the published files every one has its published size. Others, such as small ones to try things with, may have any,
        but for one: all train files have the same.
        """
        published = {file: TEST_IMAGES if file == test else self.dataset.train_images for file in images}
        whole = any(count == published[file] for file, count in images.items())
        largest = max(count for file, count in images.items() if file != test)
        for file, count in images.items():
            expected = published[file] if whole else count if file == test else largest
            if count == 0 or count != expected:
                wanted = f"{expected:,}" if expected else "some"
                why = "as the other files are the published ones" if whole else "as every train file has the same number"
                raise DatasetError(
                    f"{file}: cut short: it holds {count:,} images; expected {wanted}, {why}. Unpack the archive again"
                )

    def _found(self) -> tuple[Version, Path] | None:
        """The first version all of whose files are there, and where they are."""
        for version in self.dataset.versions:
            for directory in (self.data_dir / version.folder, self.data_dir):
                if all((directory / name).is_file() for name in version.files):
                    return version, directory
        return None

    def _advice(self) -> str:
        versions = [f"{', '.join(v.files)} (from {v.archive}, perhaps in {v.folder}/)" for v in self.dataset.versions]
        return (
            f"no {self.dataset.name} in {self.data_dir}. Expected there: {'; or '.join(versions)}; or one of the archives. "
            f"They are published at {' and '.join(self.mirrors)}. data.data_dir may name another directory"
        )


def _read_records(file: Path, dataset: Dataset) -> tuple[MappedImages, dict[str, np.ndarray]]:
    """Records of one byte a label and the image: images left on the disk, labels by head."""
    dtype = np.dtype([*((head, "u1") for head in dataset.labels), ("image", "u1", SHAPE)])
    size = file.stat().st_size
    if size % dtype.itemsize:
        raise DatasetError(f"{file}: cut short: {size} bytes is no multiple of the {dtype.itemsize} that a record takes")
    records = map_records(file, dtype)
    return MappedImages(file, dtype), {head: np.array(records[head]) for head in dataset.labels}


def _read_pickle(file: Path, dataset: Dataset) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A dictionary with `data` (N × 3072, planar) and a list for each label."""
    content = load_dictionary(file)
    missing = [key for key in ("data", *dataset.labels.values()) if key not in content]
    if missing:
        raise DatasetError(f"{file}: has no {', '.join(missing)}; found {', '.join(content) or 'nothing'}")
    images = byte_table(file, "data", content["data"])
    if images.ndim != 2 or images.shape[1] != np.prod(SHAPE):
        raise DatasetError(f"{file}: data has the shape {images.shape}; expected (samples, {np.prod(SHAPE)})")
    classes = {head: byte_table(file, key, content[key]) for head, key in dataset.labels.items()}
    for head, labels in classes.items():
        if labels.shape != (len(images),):
            raise DatasetError(
                f"{file}: {dataset.labels[head]} has the shape {labels.shape}; expected one for each of {len(images)} images"
            )
    return images.reshape(-1, *SHAPE), classes
