"""Whether a path is on a file system of this very machine. It knows nothing of what lies there."""

from __future__ import annotations

import re
from pathlib import Path

LOCAL = {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "tmpfs", "xfs", "zfs"}
MOUNTS = Path("/proc/self/mountinfo")


def local(path: Path, mounts: Path = MOUNTS) -> bool:
    """Whether no other machine can have this file open: what lies on a file system that is not known to be local may be shared
    with others, and so may everything on a system that does not tell of its mounts as Linux does.

    Args:
        path: exists.
        mounts: as `proc(5)` describes it.
    """
    if not mounts.exists():
        return False
    path = path.resolve()
    found: tuple[int, bool] = (0, False)
    for line in mounts.read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4]))
        if point == path or point in path.parents:
            found = max(found, (len(point.parts), after.split(" ")[0] in LOCAL), key=lambda each: each[0])
    return found[1]
