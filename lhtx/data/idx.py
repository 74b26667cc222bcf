"""IDX files, plain or gzipped: the format that MNIST is published in. Knows nothing of digits.

A file is a magic number (two bytes 0, a type code, the number of dimensions), the size of each dimension as a big-endian
u32, and the numbers, the last dimension fastest. Only the type 0x08, unsigned bytes, is read.
"""

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np

from lhtx.data.records import MappedImages
from lhtx.errors import DatasetError

UNSIGNED_BYTE = 0x08


def read_idx(file: Path, dimensions: int) -> np.ndarray:
    """The array in an IDX file of unsigned bytes with so many dimensions: uint8, in memory.

    Raises `DatasetError`, naming the file and the bytes found and expected, for another magic number, type or number of
    dimensions, and for a file that is cut short, too long or damaged.
    """
    content = _content(file)
    shape = _shape(file, content, dimensions)
    start = 4 + 4 * dimensions
    _check_size(file, len(content), start + prod(shape))
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def read_idx_images(file: Path) -> np.ndarray | MappedImages:
    """Grey images from a three-dimensional IDX file: (N, 1, H, W) uint8, left on the disk where it is not gzipped.

    Raises `DatasetError` as `read_idx` does.
    """
    if file.suffix == ".gz":
        return read_idx(file, 3)[:, None]
    with file.open("rb") as stream:
        start = stream.read(16)
    count, height, width = _shape(file, start, 3)
    _check_size(file, file.stat().st_size, 16 + count * height * width)
    return MappedImages(file, np.dtype([("image", "u1", (1, height, width))]), offset=16)


def _content(file: Path) -> bytes:
    content = file.read_bytes()
    if file.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise DatasetError(
            f"{file}: damaged or cut short ({len(content)} bytes): {error}; delete it, so that it is fetched again"
        ) from error


def _shape(file: Path, content: bytes, dimensions: int) -> tuple[int, ...]:
    expected = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if content[:4] != expected:
        raise DatasetError(
            f"{file}: begins with the bytes {content[:4].hex(' ') or 'of an empty file'}; expected {expected.hex(' ')}, an IDX "
            f"file of unsigned bytes in {dimensions} dimension{'s' * (dimensions > 1)}"
        )
    if len(content) < 4 + 4 * dimensions:
        raise DatasetError(f"{file}: cut short: {len(content)} bytes; the header alone takes {4 + 4 * dimensions}")
    return tuple(np.frombuffer(content, dtype=">u4", count=dimensions, offset=4).tolist())


def _check_size(file: Path, found: int, expected: int) -> None:
    if found != expected:
        what = "cut short" if found < expected else "too long"
        packed = " when unpacked" if file.suffix == ".gz" else ""
        raise DatasetError(f"{file}: {what}: {found} bytes{packed}; expected {expected}, as its header says")
