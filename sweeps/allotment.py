"""Whether a trial holds more memory than it was allotted: its whole process group, read from /proc now and then.

It knows process groups and bytes, nothing of trials. On a system without /proc nothing is read and nothing is ever too much.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

LOOK_SECONDS = 0.25
SHARE = 0.05
"""Looking takes at most this share of one core, on a machine of however many processes."""
_CHEAP = ("RssAnon:", "RssShmem:", "VmSwap:")
_EXACT = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")


class MemoryWatch:
    """Looks whether a process group has come to hold more than `allotted` bytes.

    A group holds what is its own: anonymous and shared memory, in RAM or swapped out, and no pages of files, which the system
    takes back when it needs them. What each process has resident is read first, which is cheap, but counts a page that
    several of them share once for each: data-loader workers share nearly all with the process that has forked them. Only
    if that comes to too much is the share of every page added up, where a page that n processes map counts 1/n for each of
    them. What the trial was forked with and has left as it was (some 300 MB of imported libraries) is shared with the
    process that forked it, and counts in part.
    """

    def __init__(self, group: int, allotted: int | None) -> None:
        self._group, self._allotted = group, allotted
        self._next = 0.0

    def exceeded(self) -> int | None:
        """The bytes that the group holds, if it is time to look and they are more than it was allotted."""
        start = time.monotonic()
        if self._allotted is None or start < self._next:
            return None
        members = list(_members(self._group))
        held = sum(_field_sum(pid, "status", _CHEAP) for pid in members)
        if held > self._allotted:
            held = sum(_field_sum(pid, "smaps_rollup", _EXACT) for pid in members)
        now = time.monotonic()
        self._next = now + max(LOOK_SECONDS, (now - start) / SHARE)
        return held if held > self._allotted else None


def _members(group: int) -> Iterator[int]:
    """The processes of a process group."""
    try:
        names = os.listdir("/proc")
    except FileNotFoundError:
        return
    for name in names:
        if name.isdigit() and (text := _read(f"/proc/{name}/stat")):
            fields = text.rpartition(b")")[2].split()  # the name before it may hold anything
            if int(fields[2]) == group:
                yield int(name)


def _field_sum(pid: int, file: str, names: tuple[str, ...]) -> int:
    """Bytes: what /proc says of a process under `names`, together; 0 if it is gone."""
    lines = (line.split() for line in _read(f"/proc/{pid}/{file}").decode(errors="replace").splitlines())
    return sum(1024 * int(words[1]) for words in lines if words and words[0] in names)


def _read(path: str) -> bytes:
    """Empty where the process is gone, or is not to be looked at."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
