"""A VIMH dataset directory, opened: its description and its samples, binary or pickled, agreed with one another."""

from dataclasses import dataclass
from pathlib import Path

from lhtx.data.info import HEADER_BYTES, VARYING, DataFacts, DatasetInfo, check_agreement, read_info
from lhtx.data.records import Samples, Shape, peek, read_records, record_dtype
from lhtx.data.vimh_pickles import read_pickle
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
    if _file(directory, "train") is None:
        raise DatasetError(f"{directory}: no samples: expected a file {BINARY_FILES['train']} or {PICKLE_FILES['train']}")
    for facts in _binary_facts(directory, info):
        check_agreement(directory, info, facts)
    return info


def open_dataset(directory: Path, test: bool = True) -> Dataset:
    """Open a dataset and check all of its records; `test=False` leaves the test file alone.

    Binary files are mapped, and preferred where the directory has both kinds; pickles are read into memory. Raises
    `DatasetError` with the file, the record and the byte offset where there is one.
    """
    directory = Path(directory)
    info = describe_dataset(directory)
    train = _read(_file(directory, "train"), info)
    test_file = _file(directory, "test") if test else None
    held_out = None if test_file is None else _read(test_file, info)
    counts = {"train_samples": len(train), "test_samples": len(held_out) if held_out is not None else None}
    check_agreement(directory, info, DataFacts(train.file.name, **counts))
    return Dataset(directory, info, train, held_out)


def _file(directory: Path, part: str) -> Path | None:
    """The file that holds a part: the binary one, else the pickle, else None."""
    candidates = (directory / BINARY_FILES[part], directory / PICKLE_FILES[part])
    return next((file for file in candidates if file.is_file()), None)


def _read(file: Path, info: DatasetInfo) -> Samples:
    if file.name in PICKLE_FILES.values():
        return read_pickle(file, info)
    shape = Shape(info.height, info.width, info.channels, len(info.varying), len(info.parameters))
    return read_records(file, info.version, shape)


def _binary_facts(directory: Path, info: DatasetInfo) -> list[DataFacts]:
    """What each binary file says of itself in its first record, with the number of samples in all files by their sizes."""
    shapes: dict[str, Shape] = {}
    counts: dict[str, int] = {}
    for part, name in BINARY_FILES.items():
        file = directory / name
        if not file.is_file():
            if _file(directory, part) is None:
                counts[f"{part}_samples"] = 0
            continue
        shape = peek(file, info.version)
        if shape is None:
            counts[f"{part}_samples"] = 0
            continue
        if shape.parameters != len(info.varying):
            _check_version(file, info)
        shapes[name] = shape
        whole, rest = divmod(file.stat().st_size, record_dtype(info.version, shape).itemsize)
        if not rest:  # a file that is cut short is refused with its place when its records are read
            counts[f"{part}_samples"] = whole
    # a version of other records is unknown here only where all samples are pickled
    offsets = {"height": 0, "width": 2, "channels": 4, VARYING: HEADER_BYTES.get(info.version)}
    found = [
        DataFacts(
            str(directory / name),
            shape.height,
            shape.width,
            shape.channels,
            shape.parameters,
            **counts,
            places={quantity: f"{directory / name}: record 0, byte {byte}" for quantity, byte in offsets.items()},
        )
        for name, shape in shapes.items()
    ]
    return found or [DataFacts("the files there are", **counts)]


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
