"""VIMH samples that come as a pickle: what the keys of its dictionary mean, and whether they agree with the description."""

from pathlib import Path
from typing import Any

import numpy as np

from lhtx.data.info import DataFacts, DatasetInfo, check_agreement
from lhtx.data.pickles import PickledArray, byte_table, load_dictionary, text
from lhtx.data.records import Samples
from lhtx.errors import DatasetError

LABEL_KEYS = ("vimh_labels", "labels", "multihead_labels", "cifar100mh_labels")


def read_pickle(file: Path, info: DatasetInfo) -> Samples:
    """The samples of a VIMH pickle: images as C,H,W whatever its `layout`, labels from any of the known keys.

    Raises `DatasetError`, naming the file, the key and the record, for what contradicts `info` or makes no sense.
    """
    content = load_dictionary(file)
    sizes = {key: _size(file, key, content[key]) for key in ("height", "width", "channels") if key in content}
    check_agreement(file.parent, info, DataFacts(file.name, **sizes))
    images = _images(file, content, info)
    ids, values = _labels(file, content, len(images), info)
    return Samples(file, images, ids, values)


def _images(file: Path, content: dict, info: DatasetInfo) -> np.ndarray:
    size = info.height * info.width * info.channels
    if "data" not in content:
        raise DatasetError(f"{file}: has no data; found {', '.join(content) or 'nothing'}")
    data = byte_table(file, "data", content["data"])
    if data.ndim != 2 or data.shape[1] != size:
        raise DatasetError(
            f"{file}: data has the shape {data.shape}; expected (samples, {size}) for {info.height}x{info.width}x"
            f"{info.channels} images"
        )
    layout = text(content.get("layout", info.layout))
    if layout == "CHW":
        return data.reshape(-1, info.channels, info.height, info.width)
    if layout == "HWC":
        interleaved = data.reshape(-1, info.height, info.width, info.channels)
        return np.ascontiguousarray(interleaved.transpose(0, 3, 1, 2))
    raise DatasetError(f"{file}: layout is {layout!r}; expected 'CHW' or 'HWC'")


def _labels(file: Path, content: dict, samples: int, info: DatasetInfo) -> tuple[np.ndarray, np.ndarray]:
    """Rows [N, id, value, id, value, …] → ids and values, (samples, N) each."""
    found = [key for key in LABEL_KEYS if key in content]
    if not found:
        raise DatasetError(f"{file}: has no labels; expected one of {', '.join(LABEL_KEYS)}, found {', '.join(content)}")
    key, parameters = found[0], len(info.varying)
    rows = content[key] if isinstance(content[key], PickledArray | list | tuple) else None
    rows = rows.array.tolist() if isinstance(rows, PickledArray) and rows.array.dtype == object else rows
    if isinstance(rows, list | tuple):
        lengths = np.array([_length(row) for row in rows], dtype=int)
        _refuse(file, key, lengths != 1 + 2 * parameters, lengths, f"{1 + 2 * parameters} numbers [N, id, value, …]")
    table = byte_table(file, key, rows)
    if table.shape != (samples, 1 + 2 * parameters):
        raise DatasetError(
            f"{file}: {key} has the shape {table.shape}; expected ({samples}, {1 + 2 * parameters}): one row "
            f"[N, id, value, …] for each of the {samples} images and {parameters} varying parameters"
        )
    _refuse(file, key, table[:, 0] != parameters, table[:, 0], f"a count of {parameters}")
    ids = np.ascontiguousarray(table[:, 1::2])
    outside = (ids >= len(info.parameters)).any(axis=1)
    _refuse(file, key, outside, ids, f"ids from 0 to {len(info.parameters) - 1}, as parameter_names has them")
    return ids, np.ascontiguousarray(table[:, 2::2])


def _refuse(file: Path, key: str, wrong: np.ndarray, found: np.ndarray, expected: str) -> None:
    if wrong.any():
        record = int(np.argmax(wrong))
        raise DatasetError(f"{file}: {key}, record {record}: found {found[record].tolist()}; expected {expected}")


def _length(row: Any) -> int:
    """How many entries a row has, whatever they are; what is no row has none."""
    if isinstance(row, PickledArray):
        return row.array.size
    return len(row) if isinstance(row, list | tuple) else 0


def _size(file: Path, key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise DatasetError(f"{file}: {key} is {value!r}; expected a whole number")
    return int(value)
