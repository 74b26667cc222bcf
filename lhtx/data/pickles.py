"""VIMH pickles, read without running what they say: an unpickler that knows plain containers and NumPy arrays alone.

The names a pickle may call are answered by stand-ins of our own, so not even NumPy's reconstruction code sees its bytes.
"""

import codecs
import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lhtx.data.info import DataFacts, DatasetInfo, check_agreement
from lhtx.data.records import Samples
from lhtx.errors import DatasetError

LABEL_KEYS = ("vimh_labels", "labels", "multihead_labels", "cifar100mh_labels")
_NUMBERS = re.compile(r"[<>|=]?[biufSU]\d+")


class _Dtype:
    """Stands for numpy.dtype: a number or string type, or object; its state can change the byte order and no more."""

    def __init__(self, name: str, align: bool = False, copy: bool = False) -> None:
        self.name = _text(name)
        if self.name not in ("O", "O8") and not _NUMBERS.fullmatch(self.name):
            raise pickle.UnpicklingError(f"the array type {self.name!r} is not allowed")

    def __setstate__(self, state: tuple) -> None:
        order = _text(state[1])
        if order in ("<", ">"):
            self.name = order + self.name.lstrip("<>|=")

    @property
    def is_object(self) -> bool:
        return self.name.startswith("O")


class _Array:
    """Stands for numpy.ndarray: what a pickle says of an array, made into a real one by `numpy.asarray`."""

    array: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        if dtype.is_object:
            self.array = np.empty(len(content), dtype=object)
            self.array[:] = content
        else:
            content = content.encode("latin1") if isinstance(content, str) else content
            self.array = np.frombuffer(content, dtype.name)
        self.array = self.array.reshape(shape, order="F" if fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array if dtype is None else self.array.astype(dtype)


def _reconstruct(kind: type, shape: tuple, code: bytes) -> _Array:
    return _Array()


def _from_buffer(content: bytes, dtype: _Dtype, shape: tuple, order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array


def _scalar(dtype: _Dtype, content: bytes) -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, dtype.name)[0]


def _encode(text: str, encoding: str) -> bytes:
    if codecs.lookup(encoding).name != "iso8859-1":  # what pickle itself uses for bytes in its old protocols
        raise pickle.UnpicklingError(f"the encoding {encoding!r} is not allowed")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset, bytearray)},
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is refused: a pickle can run code when it is opened, so only plain "
                "containers, numbers, strings and NumPy arrays are read"
            ) from None


def load(file: Path) -> Any:
    """Read a pickle of plain containers and NumPy arrays; raises `DatasetError` for any other."""
    try:
        return _Unpickler(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except Exception as error:  # broken input may raise any exception at all, as the pickle module's page says
        raise DatasetError(f"{file}: not readable as a plain pickle: {error or type(error).__name__}") from error


def read_pickle(file: Path, info: DatasetInfo) -> Samples:
    """The samples of a VIMH pickle: images as C,H,W whatever its `layout`, labels from any of the known keys.

    Raises `DatasetError`, naming the file, the key and the record, for what contradicts `info` or makes no sense.
    """
    content = load(file)
    if not isinstance(content, Mapping):
        raise DatasetError(f"{file}: holds a {type(content).__name__}; expected a dictionary with data and labels")
    content = {_text(key): value for key, value in content.items()}
    sizes = {key: _size(file, key, content[key]) for key in ("height", "width", "channels") if key in content}
    check_agreement(file.parent, info, DataFacts(file.name, **sizes))
    images = _images(file, content, info)
    ids, values = _labels(file, content, len(images), info)
    return Samples(file, images, ids, values)


def _images(file: Path, content: dict, info: DatasetInfo) -> np.ndarray:
    size = info.height * info.width * info.channels
    if "data" not in content:
        raise DatasetError(f"{file}: has no data; found {', '.join(content) or 'nothing'}")
    data = _bytes(file, "data", content["data"])
    if data.ndim != 2 or data.shape[1] != size:
        raise DatasetError(
            f"{file}: data has the shape {data.shape}; expected (samples, {size}) for {info.height}x{info.width}x"
            f"{info.channels} images"
        )
    layout = _text(content.get("layout", info.layout))
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
    rows = content[key] if isinstance(content[key], _Array | list | tuple) else None
    rows = rows.array.tolist() if isinstance(rows, _Array) and rows.array.dtype == object else rows
    if isinstance(rows, list | tuple):
        lengths = np.array([_length(row) for row in rows], dtype=int)
        _refuse(file, key, lengths != 1 + 2 * parameters, lengths, f"{1 + 2 * parameters} numbers [N, id, value, …]")
    table = _bytes(file, key, rows)
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
    return len(row.array.reshape(-1) if isinstance(row, _Array) else row) if isinstance(row, _Array | list | tuple) else 0


def _bytes(file: Path, key: str, value: Any) -> np.ndarray:
    """`value` as uint8, refused where that would change a number."""
    try:
        array = np.asarray(value)
        with np.errstate(invalid="ignore"):  # a NaN is no byte, and is refused below
            stored = array.astype(np.uint8)
        same = array.dtype != object and bool((stored == array).all())
        same = same or (array.dtype == object and stored.tolist() == array.tolist())
    except (TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{file}: {key} is no table of bytes: {error}") from error
    if not same:
        raise DatasetError(f"{file}: {key} holds values other than the whole numbers 0 to 255")
    return stored


def _size(file: Path, key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise DatasetError(f"{file}: {key} is {value!r}; expected a whole number")
    return int(value)


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
