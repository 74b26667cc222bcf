"""A disk that runs full under a driver. To be run where a file system may be mounted:

    unshare --user --map-root-user --mount python -m benchmarks.faults.full_disk DIRECTORY NAME

DIRECTORY/runs becomes a small file system. Once two trials have ended it is filled to the last byte; when the driver has
ended, room is made, the sweep is resumed and its failures are retried. What is left is copied to DIRECTORY/kept. It prints one
JSON line.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from benchmarks.faults.workshop import Workshop, ended

SIZE = "64m"


def main(directory: str, name: str) -> None:
    workshop = Workshop(Path(directory))
    workshop.runs.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(workshop.runs)], check=True)
    command, _ = workshop.under_way(name)
    filler = workshop.runs / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    workshop.release(name)
    status, output = command.end()
    before = ended(workshop.ledger(name))
    filler.unlink()
    again = [workshop.run(what, name) for what in ("resume", "retry")]
    shutil.copytree(workshop.runs / name, workshop.directory / "kept" / name)
    print(json.dumps({"status": status, "output": output, "before": sorted(before), "again": again}))


if __name__ == "__main__":
    main(*sys.argv[1:])
