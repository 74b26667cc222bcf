"""What a node needs to run trials of a sweep that lives elsewhere: whether it sees the sweep's files, a directory for its
copies of trials and datasets, and their removal. It knows no Ray: what reaches the driver's node is handed to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps import node_data
from sweeps.node_data import Dataset
from sweeps.relocation import Places
from sweeps.transport import Host, TrialCopy


@dataclass(frozen=True)
class Offer:
    """What a driver tells the nodes of its sweep."""

    token_file: str
    token: str
    """What stands in the token file: a node that finds it there sees the sweep's directory."""
    always: bool
    """`trial_files: node`: trials and data are copied to the node even if it sees them."""
    root: str
    """Where the driver's paths begin (`paths.root_dir`)."""
    data_root: str
    """The driver's `paths.data_dir`."""
    datasets: tuple[Dataset, ...]


class Node:
    """One actor's share of a node."""

    def __init__(
        self, offer: Offer, host: Host, name: str, data: Callable[[str], Iterable[bytes]], base: Path | None = None
    ) -> None:
        """Args:
        host: the sweep's files, where the driver runs.
        name: tells this node from others.
        data: the packed chunks of a dataset's directory.
        base: the directory for copies; one of this user's under the system's for temporary files if not given.
        """
        self._offer, self._host = offer, host
        self.shared = not offer.always and _sees(offer)
        base = base or Path(tempfile.gettempdir()) / f"lhtx-sweeps-{os.getuid()}"
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        if base.stat().st_uid != os.getuid():
            raise PermissionError(f"{base} belongs to another user: set TMPDIR on this node to a directory of your own")
        _remove_abandoned(base)
        self._directory = base / f"{offer.token}-{name}"
        self._hold = _hold(self._directory)
        self.unpacked = 0
        """How many datasets this actor has unpacked."""
        self.places: Places = self._data(data)
        self._copies: dict[int, TrialCopy] = {}
        """By trial."""

    def _data(self, data: Callable[[str], Iterable[bytes]]) -> Places:
        offer, root = self._offer, self._directory / "data"
        places: list[tuple[str, str]] = []
        for index, dataset in enumerate(offer.datasets):
            if not offer.always and node_data.digest(dataset.directory) == dataset.digest:
                places.append((dataset.directory, dataset.directory))
                continue
            origin = Path(dataset.directory)
            below = origin.is_relative_to(offer.data_root) and dataset.directory != offer.data_root
            target = root / origin.relative_to(offer.data_root) if below else root / f".{index}" / origin.name
            self.unpacked += node_data.unpack(target, lambda directory=dataset.directory: data(directory))
            places.append((dataset.directory, str(target)))
        if offer.always or not Path(offer.data_root).is_dir():
            places.insert(0, (offer.data_root, str(root)))
        return places

    def begin(self, assignment: dict[str, Any]) -> dict[str, Any]:
        """What the trial's process is told: with its directory on this node, and the paths that differ here."""
        if self.shared:
            return {**assignment, "places": self.places}
        number, origin = assignment["number"], assignment["directory"]
        attempt = uuid.uuid4().hex
        directory = self._directory / "trials" / f"{number:04d}-{attempt[:8]}"  # an earlier attempt may just be leaving
        places = [*self.places, (origin, str(directory))]
        self._copies[number] = TrialCopy(self._host, number, attempt, directory, places)
        self._copies[number].fetch()
        return {**assignment, "directory": str(directory), "places": places}

    def send(self) -> None:
        """Bring the sweep what the trials have written."""
        for copy in self._copies.values():
            copy.send()

    def end(self, numbers: Iterable[int] | None = None) -> None:
        """Nothing writes to these trials (all, if not given) any more: bring the sweep the rest."""
        for number in list(self._copies if numbers is None else numbers):
            if copy := self._copies.pop(number, None):
                copy.end()

    def close(self) -> None:
        """No more trials: the last one to leave a node removes the copies."""
        try:
            self.end()
        finally:
            os.close(self._hold)
            _remove_abandoned(self._directory.parent, self._directory.name)


def _sees(offer: Offer) -> bool:
    try:
        return Path(offer.token_file).read_text() == offer.token
    except (OSError, UnicodeDecodeError):
        return False


def _hold(directory: Path) -> int:
    """Make `directory` and hold it, with others, against removal."""
    while True:
        descriptor = os.open(directory.with_suffix(".held"), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(directory.with_suffix(".held"))):
                directory.mkdir(mode=0o700, exist_ok=True)
                return descriptor
        os.close(descriptor)  # it was removed between the two lines


def _remove_abandoned(base: Path, name: str = "*") -> None:
    """Remove copies (those of `name`) that no living process holds."""
    for held in base.glob(f"{name}.held"):
        try:
            descriptor = os.open(held, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(held.with_suffix(""), ignore_errors=True)
            held.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
