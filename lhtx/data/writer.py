"""Writes a VIMH dataset directory, all of it or nothing: beside its place first, then renamed into it.

Knows the format, not where the samples come from.
"""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock

from lhtx.data.dataset import BINARY_FILES
from lhtx.data.info import HEADER_BYTES, INFO_FILE, DatasetInfo, check_agreement, parse_info
from lhtx.data.records import pack
from lhtx.errors import DatasetError
from lhtx.files import ensure_directory


@dataclass(frozen=True)
class Chunk:
    """Samples to be written: images (N, C, H, W) uint8; values (N, P) uint8 in the order of the varying parameters.

    `decibels` (N, 2): the dB range of each image, required by version 2.1 and refused by 2.0.
    """

    images: np.ndarray
    values: np.ndarray
    decibels: np.ndarray | None = None


def write_dataset(directory: Path, info: DatasetInfo, train: Iterable[Chunk], test: Iterable[Chunk] = ()) -> DatasetInfo:
    """Write a dataset; the sample counts of `info` are set from what was written. Returns the description as written.

    `directory` appears complete or not at all: an interruption leaves at most a hidden temporary directory beside it,
    which the next writer of the same directory removes. Writers of one directory wait for each other. An existing
    `directory` is never touched; a `DatasetError` says so.
    """
    if info.version not in HEADER_BYTES:
        raise DatasetError(f"{directory}: version {info.version!r} cannot be written; {', '.join(HEADER_BYTES)} can")
    directory = Path(directory)
    ensure_directory(directory.parent, "the place of the dataset")
    with dataset_lock(directory):
        if directory.exists():
            raise DatasetError(f"{directory} exists and is left as it is; delete it first, or choose another directory")
        prefix = f".{directory.name}.partial-"
        for leftover in directory.parent.glob(f"{_escaped(prefix)}*"):
            shutil.rmtree(leftover)  # of a writer that was killed: a living one would hold the lock
        partial = directory.parent / f"{prefix}{os.getpid()}"
        partial.mkdir()
        try:
            counts = {
                part: _write(partial / BINARY_FILES[part], info, chunks) for part, chunks in (("train", train), ("test", test))
            }
            written = replace(
                info, train_samples=counts["train"], test_samples=counts["test"], total_samples=sum(counts.values())
            )
            check_agreement(directory, parse_info(written.as_json(), directory / INFO_FILE))
            document = json.dumps(written.as_json(), indent=2, ensure_ascii=False) + "\n"
            (partial / INFO_FILE).write_text(document, encoding="utf-8")
            os.replace(partial, directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return written


def dataset_lock(directory: Path) -> FileLock:
    """The lock that guards the making of `directory`, one for all processes of a machine; reentrant for one object."""
    return FileLock(directory.parent / f".{directory.name}.lock", is_singleton=True)


def _write(file: Path, info: DatasetInfo, chunks: Iterable[Chunk]) -> int:
    ids = np.array([list(info.parameters).index(name) for name in info.varying], dtype=np.uint8)
    shape = (info.channels, info.height, info.width)
    samples = 0
    with file.open("wb") as stream:
        for chunk in chunks:
            count = len(chunk.images)
            if chunk.images.dtype != np.uint8 or chunk.images.shape[1:] != shape:
                raise DatasetError(f"images are {chunk.images.dtype} {chunk.images.shape}; expected uint8 (N, *{shape})")
            if chunk.values.dtype != np.uint8 or chunk.values.shape != (count, len(ids)):
                raise DatasetError(
                    f"label values are {chunk.values.dtype} {chunk.values.shape}; expected uint8 {(count, len(ids))}"
                )
            if (chunk.decibels is not None) != (info.version == "2.1"):
                raise DatasetError("the dB range of every image belongs to version 2.1, and to no other")
            pack(info.version, chunk.images, ids, chunk.values, chunk.decibels).tofile(stream)
            samples += count
    return samples


def _escaped(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
