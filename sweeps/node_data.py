"""Datasets for nodes that do not see the driver's: packed once where they lie, unpacked once on each node.

It knows directories and bytes; what carries the bytes is the caller's.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:
    from sweeps.schema import SearchSpace

CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Dataset:
    """A dataset's directory where the driver runs, and a digest of what is in it."""

    directory: str
    digest: str | None


def digest(directory: str | Path) -> str | None:
    """Of the names, sizes and times of change (in whole seconds, as archives keep them) of all files under `directory`; None if
    there is no such directory.

    A node that has the same digest at the same path sees the same directory, or a copy that was made with its times.
    """
    root = Path(directory)
    if not root.is_dir():
        return None
    lines = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix != ".lock":
            status = path.stat()
            lines.append(f"{path.relative_to(root).as_posix()}\0{status.st_size}\0{status.st_mtime_ns // 10**9}")
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def pack(directory: str | Path, take: Callable[[bytes], object], chunk_bytes: int = CHUNK_BYTES) -> None:
    """Give `take` the chunks of a tar file of `directory`, one after another; only one is in memory at a time."""
    chunks = _Writer(take, chunk_bytes)
    with tarfile.open(fileobj=chunks, mode="w|", dereference=True) as archive:  # type: ignore[call-overload]
        archive.add(directory, arcname=".", filter=lambda entry: None if entry.name.endswith(".lock") else entry)
    chunks.flush()


class _Writer:
    """Cuts what is written to it into chunks."""

    def __init__(self, take: Callable[[bytes], object], chunk_bytes: int) -> None:
        self._take, self._chunk_bytes, self._rest = take, chunk_bytes, bytearray()

    def write(self, content: bytes) -> int:
        self._rest += content
        while len(self._rest) >= self._chunk_bytes:
            self._take(bytes(self._rest[: self._chunk_bytes]))
            del self._rest[: self._chunk_bytes]
        return len(content)

    def flush(self) -> None:
        if self._rest:
            self._take(bytes(self._rest))
            self._rest.clear()


class _Reader(io.RawIOBase):
    """The chunks of a tar file as one stream."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._rest = iter(chunks), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def unpack(target: Path, chunks: Callable[[], Iterable[bytes]]) -> bool:
    """Make `target` of the chunks of a tar file, whole or not at all, unless another process of this node has done so.

    Args: chunks: is called only if they are needed.

    Returns: whether this call has done it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.is_dir():
            return False
        draft = target.with_name(f".{target.name}.part")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        with tarfile.open(fileobj=io.BufferedReader(_Reader(chunks())), mode="r|") as archive:
            archive.extractall(draft, filter="data")
        draft.rename(target)
        return True


def datasets(space: SearchSpace) -> tuple[str, tuple[Dataset, ...]]:
    """`paths.data_dir` of a space's base config, and the datasets on disk that its trials can ask for: that of the base config,
    which is made if it is missing, and those of the choices under `data` and `experiment`, where they are there.

    What else a trial asks for it prepares itself.
    """
    from lhtx.compose import build_datamodule, compose
    from lhtx.errors import ConfigError
    from sweeps.distributions import Choice
    from sweeps.hydra_overrides import override

    base = compose(list(space.trial))
    build_datamodule(base).prepare_data()
    found = dict.fromkeys([base.data.get("data_dir")])
    for key, parameter in space.parameters.items():
        if (key == "experiment" or key.split(".")[0] == "data") and isinstance(parameter.distribution, Choice):
            for option in parameter.distribution.options:
                try:
                    found[compose([*space.trial, override(key, option)]).data.get("data_dir")] = None
                except ConfigError:
                    continue  # it needs another parameter beside it; the trial that has both prepares its own data
    directories = [os.path.abspath(directory) for directory in found if directory and Path(directory).is_dir()]
    return os.path.abspath(base.paths.data_dir), tuple(Dataset(path, digest(path)) for path in directories)
