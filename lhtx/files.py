"""Writing a file so that a reader, or the next run after a kill, sees the old one or the new one and never a part.

Also: whether a directory can be written to, and making it. Imports no torch: the ledger of a sweep writes through it too.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lhtx.errors import ConfigError

REMOVED = "removed.txt"
"""A note beside the checkpoints of a run, by whoever has removed some of them: why."""


@contextmanager
def replacing(path: Path, sync: bool = False) -> Iterator[Path]:
    """A temporary name beside `path`, to write to; it takes the place of `path` if the block ends without an error.

    Args:
        path: the file to make or replace; its directory exists.
        sync: wait until the content is on the disk before renaming, so that it also outlives a loss of power.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `path`, on the disk before it is seen; see `replacing`."""
    with replacing(path, sync=True) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def check_directory(directory: str | Path, key: str) -> None:
    """Raises ConfigError where `directory` can be neither made nor written to. Leaves nothing there.

    Args:
        directory: need not exist.
        key: the config key or the option that names it, for the message.
    """
    directory = Path(directory).absolute()
    try:
        nearest = next(place for place in (directory, *directory.parents) if place.exists())
    except OSError as error:  # a name that is too long, or a directory that must not be looked into
        raise _unusable(directory, key, error.strerror) from error
    if not nearest.is_dir():
        raise _unusable(directory, key, "that is a file" if nearest == directory else f"{nearest} is a file")
    try:  # to do it tells more than the permissions: /proc, say, takes nothing from anybody
        os.rmdir(tempfile.mkdtemp(prefix=".writable-", dir=nearest))
    except OSError as error:
        raise _unusable(directory, key, f"nothing can be made in {nearest} ({error.strerror})") from error


def check_file(file: str | Path, key: str) -> None:
    """Raises ConfigError where no file could be written to `file`, as `check_directory` does for its directory."""
    file = Path(file).absolute()
    if file.is_dir():
        raise ConfigError(f"{key} is {file}, and that is a directory; expected a file")
    check_directory(file.parent, f"the directory of {key}")


def ensure_directory(directory: str | Path, key: str) -> Path:
    """`directory`, made where it is missing. Raises ConfigError, as `check_directory` does."""
    directory = Path(directory)
    check_directory(directory, key)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, key, error.strerror) from error
    return directory


def _unusable(directory: Path, key: str, why: str | None) -> ConfigError:
    return ConfigError(f"{key} is {directory}, and {why}; expected a directory that can be made and written to")
