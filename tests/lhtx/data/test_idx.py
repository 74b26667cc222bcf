"""IDX files, plain and gzipped: read as they are published, and refused where they are not."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from lhtx.data.idx import read_idx, read_idx_images
from lhtx.errors import DatasetError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 4), dtype=np.uint8)
PACKED = struct.pack(">IIII", 0x803, 5, 3, 4) + IMAGES.tobytes()


@pytest.fixture(params=["", ".gz"])
def packed(request, tmp_path: Path):
    """Returns a function that writes bytes as an IDX file, plain or gzipped, and returns the file."""

    def write(content: bytes) -> Path:
        file = tmp_path / f"images-idx3-ubyte{request.param}"
        file.write_bytes(gzip.compress(content) if request.param else content)
        return file

    return write


def test_the_numbers_are_those_in_the_file(packed) -> None:
    file = packed(PACKED)
    assert (read_idx(file, 3) == IMAGES).all()
    images = read_idx_images(file)
    assert images.shape == (5, 1, 3, 4)
    assert (images[np.array([4, 0])] == IMAGES[[4, 0], None]).all()
    assert (images[1:3] == IMAGES[1:3, None]).all()


def test_labels_have_one_dimension(packed) -> None:
    assert read_idx(packed(struct.pack(">II", 0x801, 3) + bytes([7, 0, 9])), 1).tolist() == [7, 0, 9]
    assert read_idx(packed(struct.pack(">II", 0x801, 0)), 1).tolist() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with the bytes of an empty file; expected 00 00 08 03"),
        (b"<html>", "begins with the bytes 3c 68 74 6d; expected 00 00 08 03, an IDX file of unsigned bytes in 3 dimensions"),
        (struct.pack(">II", 0x801, 3), "begins with the bytes 00 00 08 01; expected 00 00 08 03"),
        (struct.pack(">I", 0xD03) + PACKED[4:], "begins with the bytes 00 00 0d 03"),
        (PACKED[:9], "cut short: 9 bytes; the header alone takes 16"),
        (PACKED[:-1], "cut short: 75 bytes.*; expected 76, as its header says"),
        (PACKED + b"\0", "too long: 77 bytes.*; expected 76"),
    ],
)
@pytest.mark.parametrize("read", [lambda file: read_idx(file, 3), read_idx_images])
def test_what_is_no_such_file_is_refused(packed, read, content: bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=f"images-idx3-ubyte(.gz)?: {message}"):
        read(packed(content))


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-12], lambda c: c[:40] + b"xxxxxxxx" + c[48:], lambda c: b"PK" + c, lambda c: c[:3]]
)
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, damage) -> None:
    file = tmp_path / "images.gz"
    file.write_bytes(damage(gzip.compress(PACKED)))
    with pytest.raises(DatasetError, match=r"images.gz: damaged or cut short \(\d+ bytes\): .*delete it"):
        read_idx_images(file)
