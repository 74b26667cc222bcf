"""What a job needs of this checkout: the code, the search space and where the code came from, as one directory to ship."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sweeps import manifest
from sweeps.cluster.connection import ClusterError
from sweeps.space import SearchSpace, dump

LIMIT_MIB = 100
"""Ray takes packages of at most 100 MiB, and unpacks them on every node."""
SPACE_FILE = "space.yaml"
LEFT_OUT = frozenset({".git", ".venv", "runs", "data", "logs", ".hypothesis", ".pytest_cache", ".ruff_cache"})
"""Directories of a checkout that hold no code."""


@contextmanager
def packaged(space: SearchSpace | None = None) -> Iterator[Path]:
    """A directory with the code of this checkout and the resolved space, if any, for as long as it is entered.

    Raises:
        ClusterError: it is too large to be shipped.
    """
    with TemporaryDirectory(prefix="sweep-") as name:
        target = Path(name)
        sizes: dict[Path, int] = {}
        for path in sources(manifest.PROJECT):
            copy = target / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(manifest.PROJECT / path, copy)
            sizes[path] = copy.stat().st_size
        if (total := sum(sizes.values())) > LIMIT_MIB * 2**20:
            largest = sorted(sizes, key=sizes.get, reverse=True)[:3]  # type: ignore[arg-type]
            listed = ", ".join(f"{path} ({sizes[path] / 2**20:.0f} MiB)" for path in largest)
            raise ClusterError(
                f"the code to be shipped has {total / 2**20:.0f} MiB, and Ray takes {LIMIT_MIB}. The largest files: {listed}. "
                "What is no code belongs under data/, runs/ or logs/, or into .gitignore."
            )
        shipped = target / manifest.SHIPPED.name
        shipped.mkdir()
        (shipped / manifest.SHIPPED_CODE.name).write_text(json.dumps(manifest.code()))
        if space is not None:
            (shipped / SPACE_FILE).write_text(dump(space))
        yield target


def sources(project: Path) -> Iterator[Path]:
    """The files of a checkout that are shipped, relative to it: all that git does not ignore, without `LEFT_OUT`."""
    try:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(command, cwd=project, capture_output=True, check=False)
        listed = [Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name] if done.returncode == 0 else None
    except FileNotFoundError:
        listed = None
    if listed is None:  # no checkout
        listed = [Path(directory).relative_to(project) / name for directory, _, names in os.walk(project) for name in names]
    for path in sorted(set(listed)):
        if path.parts[0] not in LEFT_OUT and "__pycache__" not in path.parts and (project / path).is_file():
            yield path
