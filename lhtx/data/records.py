"""Binary VIMH records, versions 2.0 and 2.1, as a memory-mapped array of a structured dtype, checked as a whole.
The mapping itself serves other formats of fixed records too.

Knows one file at a time and its expected shape; what the parameters mean stands in the JSON, which it never opens.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lhtx.data.info import HEADER_BYTES
from lhtx.errors import DatasetError


@dataclass(frozen=True)
class Shape:
    """What the records of a file must look like. `parameters` are the labels of a record, `names` the ids there are."""

    height: int
    width: int
    channels: int
    parameters: int
    names: int


@dataclass(frozen=True)
class Samples:
    """The samples of one file: images (N, C, H, W) uint8, perhaps still on disk; label ids and values (N, P) uint8.

    `decibels` (N, 2) float32 is the dB range of each image before it was scaled to bytes, where the file tells.
    `label_offset` and `stride` place a record's labels in the file, in bytes; None in a file without fixed places.
    """

    file: Path
    images: "np.ndarray | MappedImages"
    ids: np.ndarray
    values: np.ndarray
    decibels: np.ndarray | None = None
    label_offset: int | None = None
    stride: int | None = None

    def __len__(self) -> int:
        return len(self.values)

    def place(self, record: int, column: int) -> str:
        """Where a label is, for messages: the file, the record, and the byte offset of the label's id."""
        if self.label_offset is None or self.stride is None:
            return f"{self.file}: record {record}, label {column}"
        return f"{self.file}: record {record}, byte {record * self.stride + self.label_offset + 2 * column}"

    def labels(self, ids: list[int]) -> np.ndarray:
        """The stored values of the parameters `ids`, in that order: (N, len(ids)) uint8.

        Records may order their labels as they like. Raises `DatasetError` for a record that lacks one or has it twice.
        """
        columns = np.empty((len(self), len(ids)), dtype=np.uint8)
        for position, identifier in enumerate(ids):
            match = self.ids == identifier
            wrong = np.flatnonzero(match.sum(axis=1) != 1)
            if len(wrong):
                count = int(match[wrong[0]].sum())
                raise DatasetError(
                    f"{self.place(int(wrong[0]), 0)}: parameter id {identifier} is labelled {count} times, expected once; "
                    f"the record's ids are {self.ids[wrong[0]].tolist()}"
                )
            columns[:, position] = self.values[match]
        return columns


class MappedImages:
    """The images of a file of records, read from disk by index; each process maps the file for itself.

    Args:
        file: records of one size, as `dtype` has them, after `offset` bytes of something else.
        dtype: of a record; its field `image` is the image, (C, H, W) uint8.
        offset: where the first record begins.
    """

    def __init__(self, file: Path, dtype: np.dtype, offset: int = 0) -> None:
        self.file, self.dtype, self.offset = file, dtype, offset
        self.shape: tuple[int, ...] = (_count(file, dtype, offset), *dtype["image"].shape)

    @cached_property
    def _view(self) -> np.ndarray:
        return np.asarray(map_records(self.file, self.dtype, self.offset)["image"])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: "np.ndarray | slice") -> np.ndarray:
        """The images at `index`: (B, C, H, W) uint8."""
        return self._view[index]

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_view"}  # a worker must not copy the file


def record_dtype(version: str, shape: Shape) -> np.dtype:
    """The dtype of one record: u16 H, W, C; in 2.1 f32 spec_min, spec_max; u8 N; N × (u8 id, u8 value); C·H·W bytes."""
    decibels = [("spec_min", "<f4"), ("spec_max", "<f4")] if version == "2.1" else []
    return np.dtype(
        [
            *[(key, "<u2") for key in ("height", "width", "channels")],
            *decibels,
            ("count", "u1"),
            ("labels", [("id", "u1"), ("value", "u1")], (shape.parameters,)),
            ("image", "u1", (shape.channels, shape.height, shape.width)),
        ]
    )


def peek(file: Path, version: str) -> Shape | None:
    """The shape that the first record of `file` claims; None for an empty file. `names` is then all 256 ids.

    Raises `DatasetError` for an unknown version or a file that ends within its first header.
    """
    header = _header_bytes(file, version)
    with file.open("rb") as stream:
        start = stream.read(header + 1)
    if not start:
        return None
    if len(start) <= header:
        raise DatasetError(
            f"{file}: record 0, byte {len(start)}: the file ends inside the first header, which takes {header + 1} bytes"
        )
    height, width, channels = (int(number) for number in np.frombuffer(start, "<u2", 3))
    return Shape(height, width, channels, start[header], 256)


def read_records(file: Path, version: str, shape: Shape) -> Samples:
    """Map a file of records and check every one of them at once.

    Raises `DatasetError`, naming the file, the record and the byte offset, for a record cut short, a header that differs
    from `shape`, a dB range that is none, or a parameter id outside the names.
    """
    header = _header_bytes(file, version)
    dtype = record_dtype(version, shape)
    size = file.stat().st_size
    whole, rest = divmod(size, dtype.itemsize)
    records = map_records(file, dtype)
    _check_headers(file, records, shape)
    if rest:
        raise DatasetError(
            f"{file}: record {whole}, byte {whole * dtype.itemsize}: cut short: {rest} of {dtype.itemsize} bytes are there "
            f"(the file has {size} bytes, which is no multiple of the record size of version {version})"
        )
    samples = Samples(
        file,
        MappedImages(file, dtype),
        np.array(records["labels"]["id"]),
        np.array(records["labels"]["value"]),
        _decibels(file, records) if version == "2.1" else None,
        header + 1,
        dtype.itemsize,
    )
    outside = np.argwhere(samples.ids >= shape.names)
    if len(outside):
        record, column = (int(number) for number in outside[0])
        raise DatasetError(
            f"{samples.place(record, column)}: parameter id {samples.ids[record, column]} is out of range; "
            f"parameter_names has {shape.names} names, ids 0 to {shape.names - 1}"
        )
    return samples


def pack(version: str, images: np.ndarray, ids: np.ndarray, values: np.ndarray, decibels: np.ndarray | None) -> np.ndarray:
    """Samples as an array of records, ready to be written: images (N, C, H, W), ids (P,), values (N, P), decibels (N, 2)."""
    _, channels, height, width = images.shape
    records = np.zeros(len(images), record_dtype(version, Shape(height, width, channels, len(ids), 256)))
    records["height"], records["width"], records["channels"], records["count"] = height, width, channels, len(ids)
    records["labels"]["id"], records["labels"]["value"], records["image"] = ids, values, images
    if decibels is not None:
        records["spec_min"], records["spec_max"] = decibels[:, 0], decibels[:, 1]
    return records


def map_records(file: Path, dtype: np.dtype, offset: int = 0) -> np.ndarray:
    """The whole records of a file after `offset` bytes, mapped; an empty file, which cannot be mapped, has none."""
    count = _count(file, dtype, offset)
    return np.memmap(file, dtype, mode="r", offset=offset, shape=(count,)) if count else np.empty(0, dtype)


def _count(file: Path, dtype: np.dtype, offset: int) -> int:
    return (file.stat().st_size - offset) // dtype.itemsize


def _header_bytes(file: Path, version: str) -> int:
    if version not in HEADER_BYTES:
        raise DatasetError(f"{file}: records of version {version!r} are unknown; versions {', '.join(HEADER_BYTES)} are read")
    return HEADER_BYTES[version]


def _check_headers(file: Path, records: np.ndarray, shape: Shape) -> None:
    wanted = {"height": shape.height, "width": shape.width, "channels": shape.channels, "count": shape.parameters}
    wrong = {key: int(np.argmax(bad)) for key, value in wanted.items() if (bad := records[key] != value).any()}
    if wrong:
        key = min(wrong, key=wrong.__getitem__)
        record = wrong[key]
        offset = record * records.dtype.itemsize + records.dtype.fields[key][1]
        meaning = "number of labels" if key == "count" else key
        raise DatasetError(
            f"{file}: record {record}, byte {offset}: the {meaning} is {records[key][record]}, expected {wanted[key]} "
            "as in the records before it and in the JSON"
        )


def _decibels(file: Path, records: np.ndarray) -> np.ndarray:
    decibels = np.stack([records["spec_min"], records["spec_max"]], axis=1)
    wrong = np.flatnonzero(~(np.isfinite(decibels).all(axis=1) & (decibels[:, 0] <= decibels[:, 1])))
    if len(wrong):
        record = int(wrong[0])
        offset = record * records.dtype.itemsize + records.dtype.fields["spec_min"][1]
        raise DatasetError(
            f"{file}: record {record}, byte {offset}: the dB range is {decibels[record].tolist()}; "
            "expected two finite numbers, spec_min ≤ spec_max"
        )
    return decibels
