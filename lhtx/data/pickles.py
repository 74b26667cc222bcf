"""Pickles, read without running what they say: an unpickler that knows plain containers and NumPy arrays alone.

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

from lhtx.errors import DatasetError

_NUMBERS = re.compile(r"[<>|=]?[biufSU]\d+")


class _Dtype:
    """Stands for numpy.dtype: a number or string type, or object; its state can change the byte order and no more."""

    def __init__(self, name: str, align: bool = False, copy: bool = False) -> None:
        self.name = text(name)
        if self.name not in ("O", "O8") and not _NUMBERS.fullmatch(self.name):
            raise pickle.UnpicklingError(f"the array type {self.name!r} is not allowed")

    def __setstate__(self, state: tuple) -> None:
        order = text(state[1])
        if order in ("<", ">"):
            self.name = order + self.name.lstrip("<>|=")

    @property
    def is_object(self) -> bool:
        return self.name.startswith("O")


class PickledArray:
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


def _reconstruct(kind: type, shape: tuple, code: bytes) -> PickledArray:
    return PickledArray()


def _from_buffer(content: bytes, dtype: _Dtype, shape: tuple, order: str) -> PickledArray:
    array = PickledArray()
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
    ("numpy", "ndarray"): PickledArray,
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


def load_dictionary(file: Path) -> dict[str, Any]:
    """Read a pickle that holds one dictionary, its keys as text; raises `DatasetError` for any other."""
    content = load(file)
    if not isinstance(content, Mapping):
        raise DatasetError(f"{file}: holds a {type(content).__name__}; expected a dictionary with data and labels")
    return {text(key): value for key, value in content.items()}


def byte_table(file: Path, key: str, value: Any) -> np.ndarray:
    """What a pickle holds under `key` as uint8; raises `DatasetError` where that would change a number."""
    try:
        array = np.asarray(value)
        if array.dtype == np.uint8:
            return array
        with np.errstate(invalid="ignore"):  # a NaN is no byte, and is refused below
            stored = array.astype(np.uint8)
        same = array.dtype != object and bool((stored == array).all())
        same = same or (array.dtype == object and stored.tolist() == array.tolist())
    except (TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{file}: {key} is no table of bytes: {error}") from error
    if not same:
        raise DatasetError(f"{file}: {key} holds values other than the whole numbers 0 to 255")
    return stored


def text(value: Any) -> str:
    """A word of a pickle, which may have come as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
