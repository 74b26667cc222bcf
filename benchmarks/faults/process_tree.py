"""Which processes a process has started, read from /proc."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """The processes below `pid`: their command lines."""
    parents, commands = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            commands[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ").strip()
    below, level = {}, {pid}
    while level := {child for child, parent in parents.items() if parent in level}:
        below |= {child: commands.get(child, "") for child in level}
    return below


def naming(text: str) -> list[int]:
    """The processes whose command line holds `text`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            if text.encode() in file.read_bytes():
                found.append(int(file.parent.name))
    return found
