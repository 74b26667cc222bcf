"""Decoded images that the processes of one machine hold once: as a file that each of them maps, in a directory that whoever has
started them names and removes. It knows arrays and files, and no dataset.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from lhtx.data.batches import StreamedImages
from lhtx.data.records import MappedImages
from lhtx.files import replacing

VARIABLE = "LHTX_SHARED_DATA"
"""Names the directory. Where it is not set, every process loads for itself."""
LEAST_BYTES = 8 * 2**20
"""Less than this is not worth a file."""


def load(images: StreamedImages) -> torch.Tensor:
    """Every image, in memory: (N, C, H, W) uint8, not to be written to. The values are those of `images.load()`.

    The first process that asks for these images writes the file, whole or not at all. If it cannot, each has them to itself,
    and says so.
    """
    directory = os.environ.get(VARIABLE)
    if not directory or images.bytes < LEAST_BYTES:
        return images.load()
    path = Path(directory) / f"{_fingerprint(images)}.images"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                with replacing(path) as draft:
                    with draft.open("wb") as file:
                        os.posix_fallocate(file.fileno(), 0, images.bytes)  # a full disk is told now, and not by a signal
                    images.fill(np.memmap(draft, np.uint8, "r+", shape=images.shape))
    except OSError as error:
        print(f"the images are in this process's own memory: {directory} cannot hold them for all: {error}", flush=True)
        return images.load()
    return torch.from_numpy(np.memmap(path, np.uint8, "c", shape=images.shape))  # a writer would get copies of its pages


def _fingerprint(images: StreamedImages) -> str:
    """Of what the images are read from: files by their places and times of change, arrays by their bytes; and of the channels."""
    digest = hashlib.blake2b(repr((images.shape, images.channels)).encode(), digest_size=16)
    for source in images.sources:
        if isinstance(source, MappedImages):
            status = source.file.stat()
            facts = (str(source.file.resolve()), status.st_ino, status.st_size, status.st_mtime_ns, source.offset)
            digest.update(repr((*facts, source.dtype.descr, source.shape)).encode())
        else:
            digest.update(repr(source.shape).encode())
            digest.update(np.ascontiguousarray(source))
    return digest.hexdigest()
