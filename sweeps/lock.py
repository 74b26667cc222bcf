"""Who runs a sweep: a lock that the system takes back from a dead process, and a note that says who holds it.

It knows two files, and nothing of what is in a sweep.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lhtx.files import write_atomically
from sweeps.errors import LedgerError

PATIENCE_SECONDS = 0.5
"""How long a driver tries: whoever looks whether the lock is held (`SweepLock.held`) holds it himself for an instant."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a sweep; `pid` and `node` are None for the instant in which it has not said so yet."""

    pid: int | None = None
    node: str | None = None

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.node == os.uname().nodename

    def __str__(self) -> str:
        return "another process" if self.pid is None else f"process {self.pid} on {self.node}"


@dataclass(frozen=True)
class SweepLock:
    """The lock of the sweep that lives in `directory`."""

    directory: Path

    @property
    def file(self) -> Path:
        return self.directory / ".lock"

    @property
    def note(self) -> Path:
        return self.directory / ".holder"

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the sweep for this process; the system lets go of it when the process dies, however it dies.

        Raises:
            LedgerError: another process holds it, or the directory cannot be written.
        """
        lock = FileLock(self.file)
        try:
            lock.acquire(timeout=PATIENCE_SECONDS, poll_interval=0.02)
        except Timeout:
            raise LedgerError(
                f"The sweep {self.directory.name!r} is being run by {self.holder() or 'another process'}: wait for it to "
                "end, or stop it first (`make stop`)."
            ) from None
        except OSError as error:
            raise LedgerError(f"{self.directory} cannot be written ({error.strerror}): nothing was started.") from error
        try:
            self._write_note()
            yield
        finally:
            self.note.unlink(missing_ok=True)
            lock.release()

    def _write_note(self) -> None:
        try:
            write_atomically(self.note, f"process {os.getpid()} on {os.uname().nodename}\n")
        except OSError as error:
            raise LedgerError(f"{self.directory} cannot be written ({error.strerror}): nothing was started.") from error

    def held(self) -> bool:
        """Whether a living process holds the sweep. Writes nothing."""
        try:
            descriptor = os.open(self.file, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: those who look do not see each other
        except (BlockingIOError, PermissionError):
            return True
        else:
            return False
        finally:
            os.close(descriptor)

    def holder(self) -> Holder | None:
        """Who holds the sweep; None if nobody does, whatever a process that was killed has left behind."""
        if not self.held():
            return None
        try:
            found = re.fullmatch(r"process (\d+) on (\S+)", self.note.read_text().strip())
        except FileNotFoundError:
            return Holder()
        return Holder(int(found[1]), found[2]) if found else Holder()
