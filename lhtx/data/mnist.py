"""MNIST (LeCun, Cortes, Burges): 60,000 and 10,000 handwritten digits of 28×28 pixels, from its published IDX files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lhtx.data.download import base_urls, fetch
from lhtx.data.idx import read_idx, read_idx_images
from lhtx.data.images import ImageDataModule, Part
from lhtx.data.spec import ImageInfo
from lhtx.data.writer import dataset_lock
from lhtx.errors import DatasetError
from lhtx.files import ensure_directory

FILES = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
"""The published files, with the MD5 checksum of each when gzipped."""
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")
THICKNESS = (0, 2, 1, 3, 2, 4, 3, 4, 4, 4)
"""Digit → class of thickness: half of an even digit; of an odd one half of it, rounded down, and 2 more, at most 4."""
SMOOTHNESS = (2, 0, 1, 2, 0, 1, 2, 0, 2, 2)
"""Digit → class of smoothness: 1, 4, 7 are angular; 2, 5 are mixed; 0, 3, 6, 8, 9 are curved."""
CLASS_NAMES = {
    "digit": [str(digit) for digit in range(10)],
    "thickness": ["very thin", "thin", "medium", "thick", "very thick"],
    "smoothness": ["angular", "mixed", "curved"],
}


class MNISTDataModule(ImageDataModule):
    """Feeds MNIST to a network. Its heads are `digit`, and `thickness` and `smoothness`, which are made from the digit.

    Args:
        data_dir: where the four files lie, plain or gzipped.
        download: fetch those that are missing.
        mirrors: base URLs of the gzipped files, tried in this order; None is `MIRRORS`.
        options: those of `ImageDataModule`.
    """

    def __init__(
        self, data_dir: str | Path, download: bool = True, mirrors: str | Sequence[str] | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.data_dir = Path(data_dir)
        self.download = download
        self.mirrors = base_urls(mirrors, MIRRORS)

    def prepare_data(self) -> None:
        """Fetch what is missing, one process at a time. Raises `DatasetError`, saying what belongs where, if it cannot."""
        if not self._missing():
            return
        if not self.download:
            raise DatasetError(f"{self._advice()}, and data.download=true fetches them")
        ensure_directory(self.data_dir, "data.data_dir")
        with dataset_lock(self.data_dir):
            for name in self._missing():
                try:
                    fetch(f"{name}.gz", FILES[name], self.mirrors, self.data_dir)
                except DatasetError as error:
                    raise DatasetError(f"{self._advice()}. Fetching failed: {error}") from error

    def describe(self) -> ImageInfo:
        """One channel of 28×28, three heads; nothing is read."""
        return ImageInfo.of_classes("mnist", (1, 28, 28), CLASS_NAMES)

    def load(self) -> list[Part]:
        """The train file, and the test file where it is read. Raises `DatasetError`, naming the file."""
        return [self._part("train"), *([self._part("t10k")] if self.reads_test_file else [])]

    def _part(self, prefix: str) -> Part:
        images = read_idx_images(self._file(f"{prefix}-images-idx3-ubyte"))
        labels = self._file(f"{prefix}-labels-idx1-ubyte")
        digits = read_idx(labels, 1)
        if len(digits) != len(images):
            raise DatasetError(f"{labels}: has {len(digits)} labels; expected {len(images)}, as there are images")
        if digits.max(initial=0) > 9:
            raise DatasetError(f"{labels}: label {int(np.argmax(digits > 9))} is {digits[digits > 9][0]}; expected 0 to 9")
        classes = {"digit": digits, "thickness": np.array(THICKNESS)[digits], "smoothness": np.array(SMOOTHNESS)[digits]}
        return Part(images, classes, test=prefix == "t10k")

    def _file(self, name: str) -> Path:
        """The plain file, else the gzipped one."""
        plain = self.data_dir / name
        return plain if plain.is_file() else plain.with_name(f"{name}.gz")

    def _missing(self) -> list[str]:
        return [name for name in FILES if not self._file(name).is_file()]

    def _advice(self) -> str:
        missing = self._missing()
        lacking = (
            "" if len(missing) == len(FILES) else f", as {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        )
        return (
            f"no MNIST in {self.data_dir}{lacking}. Expected there: {', '.join(FILES)}, each plain or with .gz at the end, "
            f"as published at {' and '.join(self.mirrors)}. data.data_dir may name another directory"
        )
