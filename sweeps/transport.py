"""A trial's files between the node on which it runs and the one on which its sweep lives.

`FileHost` stands beside the driver and reads and writes the trials' directories. `TrialCopy` is a trial's directory on a node:
it begins with what the sweep has, and sends what changes. Neither knows Ray: `transfer.py` makes an actor of the host.

An attempt at a trial holds the trial's `.running` lock on the driver's node, as a trial's process does where it writes to the
sweep's directory itself: whoever holds that lock finds every checkpoint that the attempt has made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from filelock import FileLock, Timeout

from sweeps.ledger import RUNNING
from sweeps.relocation import Places

CHUNK_BYTES = 32 * 2**20
"""How much of a file travels in one message."""
PATIENCE_SECONDS = 30.0
"""How long an attempt that another one is to follow may be silent before it is given up. It has ten seconds to write its last
checkpoint, and every chunk that it sends is a sign of life."""
POLL_SECONDS = 0.1
DRIVERS_OWN = frozenset({"history.csv", "overrides.txt"})
"""Files of a trial that the driver writes: they stay where they are."""
_TEXTS = frozenset({".yaml", ".txt", ".log", ".json"})
"""Kinds of files in which the node's paths are replaced by the driver's. (Checkpoints have the sweep's from the start.)"""


class SupersededError(RuntimeError):
    """An attempt speaks of a trial that another attempt has been given since: it was taken for dead."""


class Host(Protocol):
    """What a node asks of the driver's."""

    def begin(self, number: int, attempt: str) -> dict[str, int] | None: ...
    def read(self, number: int, name: str, offset: int) -> bytes: ...
    def write(self, number: int, attempt: str, name: str, offset: int, content: bytes, last: bool) -> None: ...
    def remove(self, number: int, attempt: str, names: list[str]) -> None: ...
    def end(self, number: int, attempt: str) -> None: ...


@dataclass
class _Attempt:
    name: str
    lock: FileLock
    heard: float
    wanted: float | None = None
    """When another attempt asked for the trial."""


class FileHost:
    """The trials' directories of one sweep, for nodes that do not see them."""

    def __init__(self, trials: str | Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: trials: the sweep's directory of trials. clock: seconds."""
        self._trials, self._clock = Path(trials), clock
        self._open: dict[int, _Attempt] = {}

    def begin(self, number: int, attempt: str) -> dict[str, int] | None:
        """Give trial `number` to an attempt: its files with their sizes in bytes; None while another one may still write."""
        earlier = self._open.get(number)
        if earlier is not None and earlier.name != attempt:
            earlier.wanted = self._clock() if earlier.wanted is None else earlier.wanted
            if self._clock() - max(earlier.wanted, earlier.heard) < PATIENCE_SECONDS:
                return None
            self.lost(number)
        directory = self._directory(number)
        if number not in self._open:
            lock = FileLock(directory / RUNNING)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return None
            self._open[number] = _Attempt(attempt, lock, self._clock())
            for part in directory.rglob(".*.part"):  # of an attempt that was killed
                part.unlink()
        return {name: size for name, (size, _) in files(directory).items() if name not in DRIVERS_OWN}

    def read(self, number: int, name: str, offset: int) -> bytes:
        """A part of one file, at most `CHUNK_BYTES` long."""
        with self._place(number, name).open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK_BYTES)

    def write(self, number: int, attempt: str, name: str, offset: int, content: bytes, last: bool) -> None:
        """Take a part of a file; with the `last` one it takes its place.

        Raises:
            SupersededError: the trial has been given to another attempt.
            ValueError: the file is not the attempt's to write.
        """
        self._hear(number, attempt)
        path = self._place(number, name)
        if name in DRIVERS_OWN:
            raise ValueError(f"{name} of trial {number} is the driver's own")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        with part.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(content)
            if last:
                file.flush()
                os.fsync(file.fileno())
        if last:
            part.replace(path)

    def remove(self, number: int, attempt: str, names: list[str]) -> None:
        """Remove files that the attempt has removed. Raises as `write` does."""
        self._hear(number, attempt)
        for name in names:
            if name not in DRIVERS_OWN:
                self._place(number, name).unlink(missing_ok=True)

    def end(self, number: int, attempt: str) -> None:
        """The attempt has sent all that it had."""
        if number in self._open and self._open[number].name == attempt:
            self.lost(number)

    def lost(self, number: int) -> None:
        """No more will come from the trial's attempt: what has arrived is what there is."""
        if earlier := self._open.pop(number, None):
            earlier.lock.release()

    def _hear(self, number: int, attempt: str) -> None:
        current = self._open.get(number)
        if current is None or current.name != attempt:
            raise SupersededError(f"trial {number} was given to another attempt: this one was taken for dead")
        current.heard = self._clock()

    def _directory(self, number: int) -> Path:
        directory = self._trials / f"{number:04d}"
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def _place(self, number: int, name: str) -> Path:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"{name!r} is no file of a trial's directory")
        return self._directory(number) / path


def files(directory: Path) -> dict[str, tuple[int, int]]:
    """Every file under `directory` but the hidden ones: its name there, its size and its time of change (ns)."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if any(part.startswith(".") for part in name.parts):
            continue
        with contextlib.suppress(FileNotFoundError):  # it has just been replaced
            if path.is_file():
                status = path.stat()
                found[name.as_posix()] = (status.st_size, status.st_mtime_ns)
    return found


class TrialCopy:
    """One attempt at a trial: its directory on this node, in step with the sweep's."""

    def __init__(self, host: Host, number: int, attempt: str, directory: Path, places: Places) -> None:
        """Args: directory: on this node, made anew. places: what lies elsewhere for the driver, this directory among it."""
        self._host, self._number, self._attempt = host, number, attempt
        self.directory, self._places = directory, sorted(places, key=lambda place: -len(place[1]))
        self._sent: dict[str, tuple[int, int]] = {}

    def fetch(self, pause: Callable[[float], None] = time.sleep) -> None:
        """Begin with what the sweep has of the trial, once nobody else writes it."""
        while (there := self._host.begin(self._number, self._attempt)) is None:
            pause(POLL_SECONDS)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        for name, size in there.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                while file.tell() < size and (part := self._host.read(self._number, name, file.tell())):
                    file.write(part)
        self._sent = files(self.directory)

    def send(self) -> None:
        """Send what has changed, in the order in which it did."""
        now = files(self.directory)
        changed = [name for name, status in now.items() if self._sent.get(name) != status and name not in DRIVERS_OWN]
        for name in sorted(changed, key=lambda name: now[name][1]):
            self._send(name)
        if gone := [name for name in self._sent if name not in now]:
            self._host.remove(self._number, self._attempt, gone)
        self._sent = now

    def _send(self, name: str) -> None:
        path = self.directory / name
        if path.suffix in _TEXTS:
            content = path.read_bytes()
            for there, here in self._places:
                content = content.replace(os.fsencode(here), os.fsencode(there))
            self._host.write(self._number, self._attempt, name, 0, content, True)
            return
        with path.open("rb") as file:
            size, offset = os.fstat(file.fileno()).st_size, 0
            while True:
                content = file.read(CHUNK_BYTES)
                last = offset + len(content) >= size
                self._host.write(self._number, self._attempt, name, offset, content, last)
                offset += len(content)
                if last:
                    return

    def end(self) -> None:
        """Send the rest, say that it was all, and leave nothing on this node."""
        self.send()
        self._host.end(self._number, self._attempt)
        shutil.rmtree(self.directory, ignore_errors=True)
