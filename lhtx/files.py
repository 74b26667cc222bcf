"""Writing a file so that a reader, or the next run after a kill, sees the old one or the new one and never a part.

Imports nothing of the project and no torch: the ledger of a sweep writes through it too.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
