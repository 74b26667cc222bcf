"""A VIMH dataset directory, opened: its description and its samples, binary or pickled, agreed with one another."""

from dataclasses import dataclass, replace
from pathlib import Path

from lhtx.data.info import HEADER_BYTES, DataFacts, DatasetInfo, check_agreement, read_info
from lhtx.data.pickles import read_pickle
from lhtx.data.records import Samples, Shape, peek, read_records, record_dtype
from lhtx.errors import DatasetError

BINARY_FILES = {"train": "train", "test": "test"}
PICKLE_FILES = {"train": "train_batch", "test": "test_batch"}


@dataclass(frozen=True)
class Dataset:
    """The description, and the samples of the train file and of the test file (None where there is none)."""

    directory: Path
    info: DatasetInfo
    train: Samples
    test: Samples | None


def describe_dataset(directory: Path) -> DatasetInfo:
    """The description alone, agreed with the directory's name and with the first record and the size of each binary file.

    Reads a few bytes of the sample files. Raises `DatasetError`.
    """
    directory = Path(directory)
    info = read_info(directory)
    check_agreement(directory, info, _binary_facts(directory, info))
    return info


def open_dataset(directory: Path, test: bool = True) -> Dataset:
    """Open a dataset and check all of its records; `test=False` leaves the test file alone.

    Binary files are mapped, and preferred where the directory has both kinds; pickles are read into memory. Raises
    `DatasetError` with the file, the record and the byte offset where there is one.
    """
    directory = Path(directory)
    info = describe_dataset(directory)
    train = _read(directory, info, "train")
    if train is None:
        raise DatasetError(f"{directory}: no samples: expected a file {BINARY_FILES['train']} or {PICKLE_FILES['train']}")
    held_out = _read(directory, info, "test") if test else None
    counts = {"train_samples": len(train), "test_samples": len(held_out) if held_out is not None else None}
    check_agreement(directory, info, DataFacts(train.file.name, **counts))
    return Dataset(directory, info, train, held_out)


def _read(directory: Path, info: DatasetInfo, part: str) -> Samples | None:
    binary, pickled = directory / BINARY_FILES[part], directory / PICKLE_FILES[part]
    if binary.is_file():
        shape = Shape(info.height, info.width, info.channels, len(info.varying), len(info.parameters))
        return read_records(binary, info.version, shape)
    return read_pickle(pickled, info) if pickled.is_file() else None


def _binary_facts(directory: Path, info: DatasetInfo) -> DataFacts:
    """What the binary files say of themselves in their first record and their sizes."""
    facts: DataFacts | None = None
    counts: dict[str, int] = {}
    for part, name in BINARY_FILES.items():
        file = directory / name
        if not file.is_file():
            if part == "test" and not (directory / PICKLE_FILES[part]).is_file():
                counts["test_samples"] = 0
            continue
        shape = peek(file, info.version)
        if shape is None:
            counts[f"{part}_samples"] = 0
            continue
        found = DataFacts(f"{name}, record 0", shape.height, shape.width, shape.channels, shape.parameters)
        if found.parameters != len(info.varying):
            _check_version(file, info)
        check_agreement(directory, info, found)
        facts = facts or found
        whole, rest = divmod(file.stat().st_size, record_dtype(info.version, shape).itemsize)
        if not rest:  # a file that is cut short is refused with its place when its records are read
            counts[f"{part}_samples"] = whole
    return replace(facts or DataFacts("the files' sizes"), **counts)


def _check_version(file: Path, info: DatasetInfo) -> None:
    """Say so where the records are whole ones of another version than the JSON claims."""
    expected = Shape(info.height, info.width, info.channels, len(info.varying), 256)
    for version in HEADER_BYTES:
        shape = peek(file, version) if version != info.version else None
        if shape == expected and file.stat().st_size % record_dtype(version, expected).itemsize == 0:
            raise DatasetError(
                f"{file}: the JSON says version {info.version} ({HEADER_BYTES[info.version]} header bytes), but the file "
                f"holds records of version {version} ({HEADER_BYTES[version]} header bytes); correct the JSON's version"
            )
