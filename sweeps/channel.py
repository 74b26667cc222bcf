"""How the process that runs trials and those that give it trials speak: JSON messages, one a line, over a socket of this
machine; and how a client finds the one server of its node, or starts it. It knows no trial and no Ray.

A server has a name that only those who are to share it know. Its socket lies in a directory that belongs to this user alone.
Finding, starting and leaving happen under one lock, so that nobody finds a server that is about to leave.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_PART = 65536


class Channel:
    """One end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Mapping[str, Any]) -> None:
        """Raises OSError: the other side is gone."""
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message, or None when the other side is gone."""
        while not self.pending:
            try:
                part = self._socket.recv(_PART)
            except ConnectionResetError:
                return None
            if not part:
                return None
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    @property
    def pending(self) -> bool:
        """Whether a message has arrived already."""
        return b"\n" in self._buffer

    def readable(self, timeout: float) -> bool:
        """Whether a message, or the news that the other side is gone, comes within `timeout` seconds."""
        return self.pending or bool(select.select([self._socket], [], [], timeout)[0])

    def close(self) -> None:
        self._socket.close()


def private_directory() -> Path:
    """A directory of this user's under the system's for temporary files.

    Raises:
        PermissionError: it belongs to another user.
    """
    directory = Path(tempfile.gettempdir()) / f"lhtx-sweeps-{os.getuid()}"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_uid != os.getuid():
        raise PermissionError(f"{directory} belongs to another user: set TMPDIR on this node to a directory of your own")
    return directory


def paired(arguments: list[str], environment: Mapping[str, str]) -> tuple[Channel, subprocess.Popen[bytes]]:
    """A connection to a new process for this one alone, which finds its end as its standard input."""
    here, there = socket.socketpair()
    with there:
        return Channel(here), _start(arguments, there, environment)


def shared(
    name: str, arguments: list[str], environment: Mapping[str, str], outlives: bool = True
) -> tuple[Channel, subprocess.Popen[bytes] | None]:
    """A connection to the server called `name`, which is started if there is none: its process then, if it is this one's child.

    Args:
        arguments: of Python; the server finds its listening socket as its standard input.
        outlives: whether it may live on when this process ends. Nothing that ends the children of this one reaches it then.
    """
    directory = private_directory()
    for other in directory.glob("*.socket"):
        if other.stem != name:
            remove(other.stem)
    with _locked(directory / f"{name}.lock"):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(_path(directory, name))
            return Channel(connection), None
        except (FileNotFoundError, ConnectionRefusedError):
            (directory / f"{name}.socket").unlink(missing_ok=True)  # of a server that was killed
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(_path(directory, name))
            listener.listen(socket.SOMAXCONN)
            connection.connect(_path(directory, name))  # before it starts: it leaves when it has no client
            process = _start([*arguments, name, *(["outlives"] if outlives else [])], listener, environment)
        if outlives:
            process.wait()
            return Channel(connection), None
        return Channel(connection), process


def data_directory(name: str) -> Path:
    """Where what a server forks may keep data that all of them read; it is removed after the server."""
    return private_directory() / f"{name}.data"


def may_leave(name: str, listener: socket.socket) -> bool:
    """Whether a server that has no client may leave: it is not to be found any more then."""
    directory = private_directory()
    try:
        with _locked(directory / f"{name}.lock", wait=False):
            if select.select([listener], [], [], 0)[0]:
                return False
            (directory / f"{name}.socket").unlink(missing_ok=True)
            shutil.rmtree(data_directory(name), ignore_errors=True)
            (directory / f"{name}.lock").unlink()
            return True
    except BlockingIOError:
        return False  # somebody is looking for it


def remove(name: str) -> None:
    """What a server that was killed has left, unless another one has taken its place."""
    directory = private_directory()
    with _locked(directory / f"{name}.lock"):
        with socket.socket(socket.AF_UNIX) as connection:
            if connection.connect_ex(_path(directory, name)) == 0:
                return
        (directory / f"{name}.socket").unlink(missing_ok=True)
        shutil.rmtree(data_directory(name), ignore_errors=True)
        (directory / f"{name}.lock").unlink()


def _start(arguments: list[str], connection: socket.socket, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C in the terminal is for the driver alone.
    return subprocess.Popen([sys.executable, *arguments], stdin=connection, env=dict(environment), start_new_session=True)


def _path(directory: Path, name: str) -> str:
    """The socket's path, however long: the system takes 107 characters."""
    path = f"{directory}/{name}.socket"
    if len(path.encode()) < 100:
        return path
    raise OSError(f"{path} is too long for a socket: set TMPDIR to a shorter directory")


@contextlib.contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Raises BlockingIOError: another process holds it, and it is not to `wait`."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    yield
                    return
        finally:
            os.close(descriptor)  # else it was removed between the first two lines
