"""The other end of a mirror: the directory of one sweep in another file system, listed, read and written whole.

It knows files and their names, and neither trials nor when they are sent.
"""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from sweeps.errors import MirrorError
from sweeps.ledger import Ledger
from sweeps.results_place import ResultsPlace, is_atomic, told

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

CHUNK_BYTES = 2**20
_PROBE = ".writable"
_MEND = "Nothing was started: mend that, name another place with `results`, or leave it out."


@dataclass
class Target:
    """The directory of one sweep in another file system."""

    place: ResultsPlace
    files: FileSystem
    path: str

    @classmethod
    def of(cls, base: ResultsPlace, name: str) -> Target:
        """Where `base` has the sweep `name`.

        Raises:
            MirrorError: it cannot be opened.
        """
        place = base.of(name)
        return cls(place, *place.open())

    def at(self, name: str) -> str:
        return f"{self.path}/{name}"

    def listed(self) -> dict[str, int]:
        """Every file that there is, by its name in the sweep's directory, with its size in bytes."""
        from pyarrow.fs import FileSelector, FileType

        found = self.files.get_file_info(FileSelector(self.path, allow_not_found=True, recursive=True))
        root = PurePosixPath(self.path.lstrip("/"))
        return {
            PurePosixPath(info.path.lstrip("/")).relative_to(root).as_posix(): info.size
            for info in found
            if info.type == FileType.File
        }

    def write(self, name: str, source: IO[bytes]) -> None:
        """Make or replace a file: whole, or not at all."""
        path = self.at(name)
        if not is_atomic(self.files):
            self.files.create_dir(path.rpartition("/")[0], recursive=True)
        target = path if is_atomic(self.files) else f"{path.rpartition('/')[0]}/.{path.rpartition('/')[2]}.part"
        with self.files.open_output_stream(target) as stream:
            shutil.copyfileobj(source, stream, CHUNK_BYTES)
        if target != path:
            self.files.move(target, path)

    def read(self, name: str) -> bytes:
        with self.files.open_input_stream(self.at(name)) as stream:
            return stream.read()

    def manifest(self, name: str) -> dict[str, Any] | None:
        """That of the sweep that is there, in a file of this name; None if there is none."""
        from pyarrow.fs import FileType

        if self.files.get_file_info(self.at(name)).type != FileType.File:
            return None
        return json.loads(self.read(name))

    def check(self) -> None:
        """Write a file and remove it.

        Raises:
            MirrorError: that cannot be done.
        """
        try:
            self.write(_PROBE, io.BytesIO(b"may be removed\n"))
            self.files.delete_file(self.at(_PROBE))
        except Exception as error:  # each file system's library has its own errors
            raise MirrorError(f"{self.place.shown} cannot be written: {told(error)}. {_MEND}") from error


def belongs(target: Target, ledger: Ledger) -> None:
    """Refuses a place that holds another sweep of this name, or this one as it has gone on elsewhere.

    Raises:
        MirrorError: with what is there, and what to do.
    """
    try:
        there = target.manifest(ledger.manifest_file.name)
    except Exception as error:  # each file system's library has its own errors
        raise MirrorError(f"{target.place.shown} cannot be read: {told(error)}. {_MEND}") from error
    if there is None:
        return
    here = ledger.manifest() if ledger.exists() else None
    if here is None or there.get("id") != here.get("id"):
        raise MirrorError(
            f"{target.place.shown} holds another sweep of this name. Name another place with `results`, give this sweep "
            f"another name with AS=…, or bring that one here with `make pull NAME={ledger.name} FROM=…` to go on with it."
        )
    begun = {session["started"] for session in here.get("sessions", [])}
    if any(session["started"] not in begun for session in there.get("sessions", [])):
        raise MirrorError(
            f"{target.place.shown} holds this sweep as it has gone on elsewhere since: to copy this one there would undo that. "
            f"Bring that one here under another root, with `make pull NAME={ledger.name} FROM=… RUNS=…`, or name another place."
        )


def open_target(place: ResultsPlace, ledger: Ledger) -> Target:
    """Where a sweep is copied to, once it is known that it can be.

    Raises:
        MirrorError: it cannot be written, or holds something else.
    """
    try:
        target = Target.of(place, ledger.name)
    except MirrorError as error:
        raise MirrorError(f"{error} {_MEND}") from error
    if target.files.type_name == "local":
        there, here = Path(target.path).resolve(), ledger.directory.resolve()
        if there == here or here in there.parents:
            raise MirrorError(f"{place.shown} is where the sweep itself lives, {ledger.directory}: name another place.")
    belongs(target, ledger)
    target.check()
    return target
