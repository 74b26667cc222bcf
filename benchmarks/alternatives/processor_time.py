"""The processor time of a command and of all that it starts, also of what its own processes never wait for. Linux only."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from types import TracebackType

INTERVAL = 0.1
_PR_SET_CHILD_SUBREAPER = 36


class ProcessorTime:
    """While it is entered, looks at this process's descendants every `INTERVAL` seconds; `seconds` is the sum in the end.

    The last moments of a process, at most `INTERVAL`, are not seen. Ray's daemons let their workers go unwaited for, so that
    the system's own sum over children lacks most of them. One that outlives its parent becomes this process's child.
    """

    def __enter__(self) -> ProcessorTime:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._seen: dict[tuple[int, int], int] = {}
        self._before = set(self._descendants())
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        return sum(self._seen.values()) / os.sysconf("SC_CLK_TCK")

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL):
            self._seen |= {process: ticks for process, ticks in self._descendants().items() if process not in self._before}

    def _descendants(self) -> dict[tuple[int, int], int]:
        """(pid, start time) → clock ticks in user and system mode."""
        parents: dict[int, int] = {}
        found: dict[int, tuple[int, int]] = {}
        for file in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = file.read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            pid = int(file.parent.name)
            parents[pid] = int(fields[1])
            found[pid] = (int(fields[19]), int(fields[11]) + int(fields[12]))
        own = {os.getpid()}
        while more := {pid for pid, parent in parents.items() if parent in own and pid not in own}:
            own |= more
        return {(pid, found[pid][0]): found[pid][1] for pid in own if pid != os.getpid()}
