"""Where a sweep came from: code, versions, machine and command line, so that its figures can be traced and made again."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "lightning", "hydra-core", "ray", "optuna", "torchmetrics", "numpy", "pandas")


def session(command: list[str]) -> dict[str, Any]:
    """One run or resume of a sweep: when, by which command, of which code, with which versions, on which machine."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "code": code(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}},
        "machine": {
            "node": platform.node(),
            "system": platform.platform(),
            "cpus": cpus(),
        },
    }


def cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def code() -> dict[str, Any]:
    """The commit, and the difference of the working tree from it; None and no difference outside a git checkout."""
    lock_file = PROJECT / "requirements.lock"
    lock = hashlib.sha256(lock_file.read_bytes()).hexdigest() if lock_file.exists() else None
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "diff": "", "untracked": [], "lock_sha256": lock}
    untracked = _git("ls-files", "--others", "--exclude-standard") or ""
    return {
        "commit": commit.strip(),
        "diff": _git("diff", "HEAD") or "",
        "untracked": untracked.split(),
        "lock_sha256": lock,
    }


def _git(*arguments: str) -> str | None:
    """What git prints; None where there is no git, no checkout or no commit."""
    try:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False, errors="replace")
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def command_line() -> list[str]:
    """The command that this process was started with, as a person would type it."""
    module = Path(sys.argv[0])
    head = ["python", "-m", module.parent.name] if module.name == "__main__.py" else [sys.argv[0]]
    return [*head, *sys.argv[1:]]
