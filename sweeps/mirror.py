"""Copies a sweep's directory to another file system while it runs, so that the loss of its machine loses little.

One thread of the driver does it, pass after pass; the driver only says that a trial has ended, and never waits. What is there
at any instant can be pulled and resumed (`pull.py`): see `Mirror.copy`. It knows files and numbers, not how trials run.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from lhtx.files import write_atomically
from sweeps.errors import LedgerError, MirrorError
from sweeps.ledger import Ledger, read_history
from sweeps.mirror_target import Target, open_target
from sweeps.results_place import ResultsPlace, told

ATTEMPTS = 3
"""How often a file is tried before the pass is given up."""
PAUSE_SECONDS = 1.0
"""Before a second attempt; twice as long before the third, and so on."""
AGAIN_SECONDS = 30.0
"""How long after a pass that failed the next one is tried, if nothing asks for it sooner."""
Stamp = tuple[int, int]
"""Size in bytes and time of change in ns: a file that has the same is the same."""


@dataclass
class Mirror:
    """A sweep's directory and its copy. `copy` makes one pass; `start`, `wake` and `close` let a thread make them."""

    ledger: Ledger
    target: Target
    every_seconds: float
    say: Callable[[str], None] = lambda text: None
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _ended: set[int] = field(default_factory=set)
    _fresh: set[int] = field(default_factory=set)
    """Those of them that may not all be there yet: so the end of one trial does not cost a look at all that ended before."""
    _known: dict[str, Stamp] = field(default_factory=dict)
    _said: bool = False
    _problem: str | None = None

    def __post_init__(self) -> None:
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._known = self._remembered()

    # The driver's side

    def start(self, ended: Iterable[int]) -> None:
        """Begin. Args: ended: the trials that have ended so far."""
        self._ended.update(ended)
        self._fresh |= self._ended
        self._wanted.set()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def wake(self, number: int) -> None:
        """Trial `number` has ended. Returns at once."""
        self._ended.add(number)
        self._fresh.add(number)
        self._wanted.set()

    def close(self) -> str | None:
        """Make a last pass and end the thread; what is not there then and why, in words."""
        self._closing.set()
        self._wanted.set()
        try:
            while self._thread and self._thread.is_alive():
                self._thread.join(0.2)  # so that Ctrl-C is heard
        except KeyboardInterrupt:
            self._problem = "stopped by Ctrl-C"
        if self._problem is None:
            return None
        missing = sum(1 for _ in self._changed(self._chosen(True)))
        what = f"{missing} files of {self.ledger.name} are not, or not as they are here, at {self.target.place.shown}"
        return f"{what}: {self._problem}"

    def leave(self) -> None:
        """End the thread where it is."""
        self._closing.set()

    # The thread's side

    def _run(self) -> None:
        due = self.clock() + self.every_seconds
        while True:
            failed = self._problem is not None
            self._wanted.wait(AGAIN_SECONDS if failed else max(0.0, due - self.clock()))
            self._wanted.clear()
            last = self._closing.is_set()
            everything = last or failed or self.clock() >= due
            if everything:
                due = self.clock() + self.every_seconds
            self.attempt(running=everything)
            if last:
                return

    def attempt(self, running: bool) -> None:
        """One pass; a failure is told, the first time, and remembered until a pass has brought everything over."""
        try:
            self.copy(running)
        except Exception as error:  # noqa: BLE001  a copy that fails must not end the sweep, whatever its library raises
            self._problem = told(error)
            if not self._said:
                self._said = True
                self.say(f"the copy at {self.target.place.shown} fails, and is tried again: {self._problem}")
            return
        if self._problem is not None and self._said:
            self._said = False
            self.say(f"the copy at {self.target.place.shown} is complete again")
        self._problem = None

    def copy(self, running: bool = True) -> None:
        """Bring what has changed over: of trials that have just ended all, of the others only if `running`.

        Whoever pulls may find any part of a pass done. What must never be there is a checkpoint with epochs that the study
        there has not heard of: they would be missing for good. So the last checkpoints are opened first and sent last, the
        study in between is read after these were and sent before them; and a trial that has ended is all there before a study
        that says so. (An open file stays as it is: checkpoints are replaced, never rewritten.)

        Raises:
            OSError: a file cannot be read or written; what has been sent is remembered.
        """
        with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="sweep-mirror-") as scratch:
            held = {
                name: _opened(stack, path) if self._runs(path) else path
                for name, path in self._changed(self._chosen(running))
                if self._late(name)
            }
            study = self._study(Path(scratch))
            settled = self._fresh - {_number(name) for name in held}
            try:
                for name, path in self._changed(self._chosen(running)):
                    settled.discard(_number(name))  # more of it may come: the last checkpoint is written after the end
                    if not self._late(name):
                        self._send(name, path)
                if study is not None:
                    self._send(*study)
                for name, file in held.items():
                    if isinstance(file, Path):
                        self._send(name, file)
                    elif file is not None:
                        self._send_open(name, file)
                self._fresh -= settled
                if running:
                    self._forget_removed()
            finally:
                if running or not self.ledger.mirrored_file.exists():  # what is not noted is sent again by the next driver
                    self._remember()

    def _chosen(self, running: bool) -> Iterator[Path]:
        """The directories and files to look at."""
        own = {self.ledger.trials_directory.name, *(path.name for path in self._study_files())}
        for path in sorted(self.ledger.directory.iterdir()):
            if not path.name.startswith(".") and path.name not in own:
                yield path
        for path in sorted(self.ledger.trials_directory.iterdir()):
            if path.name.isdigit() and (running or self._has_just_ended(int(path.name))):
                yield path

    def _has_just_ended(self, number: int) -> bool:
        return number in self._fresh or (number not in self._ended and self._concluded(number))

    def _concluded(self, number: int) -> bool:
        """Whether the driver has written down how a trial ended: it does so before the study says it."""
        try:
            rows = read_history(self.ledger.trial(number).history)
        except LedgerError:  # it is being replaced, or damaged: then it goes with the running ones
            return False
        return bool(rows) and bool(rows[-1]["verdict"]) and not rows[-1]["verdict"].startswith("shadow ")

    def _late(self, name: str) -> bool:
        """Whether a file must not be there before the study that it goes with: what a trial goes on from; and the manifest, by
        which a sweep is found."""
        return name.endswith("/checkpoints/last.ckpt") or name == self.ledger.manifest_file.name

    def _runs(self, path: Path) -> bool:
        """Whether it is of a trial that is under way."""
        number = path.parents[1].name
        return number.isdigit() and int(number) not in self._ended

    def _changed(self, chosen: Iterator[Path]) -> Iterator[tuple[str, Path]]:
        for top in chosen:
            for path in [top] if top.is_file() else sorted(top.rglob("*")):
                name = path.relative_to(self.ledger.directory)
                if any(part.startswith(".") for part in name.parts) or not path.is_file():
                    continue
                try:
                    if self._known.get(name.as_posix()) != _stamp(path):
                        yield name.as_posix(), path
                except FileNotFoundError:  # replaced or removed just now: the next pass sees what came of it
                    continue

    def _study_files(self) -> list[Path]:
        file = self.ledger.place.file(self.ledger.directory)
        return [] if file is None else list(file.parent.glob(f"{file.name}*"))

    def _study(self, scratch: Path) -> tuple[str, Path] | None:
        """A consistent copy of the study, if it lives in a file: its name, and where the copy is."""
        file = self.ledger.place.file(self.ledger.directory)
        if file is None:
            return None
        copy = scratch / file.name
        if self.ledger.place.kind == "sqlite":
            with (
                closing(sqlite3.connect(f"file:{file.resolve()}?mode=ro", uri=True, timeout=60)) as source,
                closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target)
        else:
            content = file.read_bytes()
            copy.write_bytes(content[: content.rfind(b"\n") + 1])  # the driver may be in the middle of a line
        return file.name, copy

    def _send(self, name: str, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._send_open(name, file)
        except FileNotFoundError:
            if path.exists():  # it is the other side that has lost something
                raise

    def _send_open(self, name: str, file: IO[bytes]) -> None:
        stamp = _stamp(file)  # what is appended from now on is for the next pass
        for attempt in range(1, ATTEMPTS + 1):
            try:
                file.seek(0)
                self.target.write(name, file)
                break
            except Exception:  # each file system's library has its own errors
                if attempt == ATTEMPTS:
                    raise
                self.pause(PAUSE_SECONDS * 2 ** (attempt - 1))
        self._known[name] = stamp

    def _forget_removed(self) -> None:
        """Remove the checkpoints over there that are gone here: the quota's doing. Nothing else is ever removed."""
        for name in [name for name in self._known if name.endswith(".ckpt")]:
            path = self.ledger.directory / name
            if not path.exists() and path.parents[1].is_dir():
                with suppress(FileNotFoundError):
                    self.target.files.delete_file(self.target.at(name))
                del self._known[name]

    def _remembered(self) -> dict[str, Stamp]:
        """What an earlier driver has sent, as far as it is there: what somebody has removed there is sent again."""
        try:
            note = json.loads(self.ledger.mirrored_file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        if note.get("url") != self.target.place.url:
            return {}
        there = self.target.listed()
        return {name: (size, time) for name, (size, time) in note["files"].items() if there.get(name) == size}

    def _remember(self) -> None:
        write_atomically(self.ledger.mirrored_file, json.dumps({"url": self.target.place.url, "files": self._known}))


def mirrored_to(ledger: Ledger) -> ResultsPlace | None:
    """Where a sweep was copied to when that was done last; None if it never was."""
    try:
        note: Mapping[str, Any] = json.loads(ledger.mirrored_file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    base, mark, query = note["url"].partition("?")
    return ResultsPlace(f"{base.rpartition('/')[0]}{mark}{query}")


def _number(name: str) -> int | None:
    """Of which trial a file is."""
    parts = name.split("/")
    return int(parts[1]) if len(parts) > 2 and parts[1].isdigit() else None


def _opened(stack: ExitStack, path: Path) -> IO[bytes] | None:
    try:
        return stack.enter_context(path.open("rb"))
    except FileNotFoundError:  # removed just now
        return None


def _stamp(file: IO[bytes] | Path) -> Stamp:
    status = file.stat() if isinstance(file, Path) else os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def open_mirror(place: ResultsPlace, ledger: Ledger, minutes: float, say: Callable[[str], None]) -> Mirror:
    """The mirror of a sweep that this process holds. Raises as `open_target`."""
    target = open_target(place, ledger)
    try:
        return Mirror(ledger, target, 60 * minutes, say)
    except Exception as error:  # each file system's library has its own errors
        raise MirrorError(f"{target.place.shown} cannot be read: {told(error)}.") from error
