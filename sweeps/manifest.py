"""Where a sweep came from: code, versions, machine and command line, so that its figures can be traced and made again."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from sweeps.errors import LedgerError
from sweeps.ledger import Ledger

PROJECT = Path(__file__).resolve().parent.parent
SHIPPED = PROJECT / ".shipped"
"""In a copy of the code that was sent to a cluster: where the search space and what is known of the code stand."""
SHIPPED_CODE = SHIPPED / "code.json"
ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "LHTX_ROOT", "OMP_NUM_THREADS", "RAY_ADDRESS")
"""Variables that change what a sweep does; no other is recorded, as some hold secrets."""
LIBRARIES = ("torch", "lightning", "hydra-core", "ray", "optuna", "torchmetrics", "numpy", "pandas")


def open_session(ledger: Ledger) -> None:
    """Add this run or resume to the manifest."""
    record = ledger.manifest()
    sessions = list(record.get("sessions", []))
    if sessions and "seconds" not in sessions[-1]:  # it was killed
        index, seconds = last_beat(ledger)
        took = session_seconds(sessions[-1], seconds if index == len(sessions) else None)
        sessions[-1] = {**sessions[-1], "seconds": took}
    ledger.write_manifest({**record, "sessions": [*sessions, session(command_line())]})


def close_session(ledger: Ledger, end: str, seconds: float) -> None:
    """Note when and how the run that was opened last has ended; one that was killed has no end.

    Args:
        end: `complete`, or why it ended before it had all its trials (`sweeps.study.End`).
        seconds: how long it took, by a clock that nobody sets.
    """
    record = ledger.manifest()
    *before, last = record["sessions"]
    ended = {"ended": datetime.now(UTC).isoformat(timespec="seconds"), "end": end, "seconds": seconds}
    ledger.write_manifest({**record, "sessions": [*before, {**last, **ended}]})


def run_seconds(ledger: Ledger) -> tuple[int, float]:
    """How many runs and resumes a sweep has had before the one that is under way or comes next, and their seconds together.

    Those of a run that was killed are what it wrote down last. All are measured by a clock that nobody sets.
    """
    sessions = ledger.manifest().get("sessions", [])
    index, seconds = last_beat(ledger)
    return len(sessions), math.fsum(
        session_seconds(session, seconds if number == index else None) for number, session in enumerate(sessions, start=1)
    )


def last_beat(ledger: Ledger) -> tuple[int, float]:
    """Which run has written down last how long it has taken (from 1), and that; (0, 0) if none has."""
    try:
        noted = json.loads(ledger.clock_file.read_text())
        return int(noted["session"]), float(noted["seconds"])
    except FileNotFoundError:
        return 0, 0.0
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(
            f"{ledger.clock_file} is damaged ({error}). Delete it: only how long the last run took is lost, if that was killed."
        ) from error


def session_seconds(session: Mapping[str, Any], beat: float | None) -> float:
    """How long a run took. Args: beat: what it wrote down last, if that is known."""
    if "seconds" in session:
        return max(0.0, float(session["seconds"]))
    if beat is not None:
        return beat
    if "ended" not in session:
        return 0.0
    began, ended = (datetime.fromisoformat(session[name]) for name in ("started", "ended"))
    return max(0.0, (ended - began).total_seconds())  # of a sweep from before the seconds were kept


def session_at(record: Mapping[str, Any], moment: datetime) -> Mapping[str, Any]:
    """The run or resume of a manifest that was the last to begin before `moment` (local time); empty if none had begun."""
    begun = [each for each in record.get("sessions", []) if local_time(each["started"]) <= moment]
    return begun[-1] if begun else {}


def local_time(text: str) -> datetime:
    """A time of the manifest as Optuna writes its own: local, without a zone."""
    return datetime.fromisoformat(text).astimezone().replace(tzinfo=None)


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
            "processor": processor(),
            "cpus": cpus(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "gpus": gpus(),
        },
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


def processor() -> str:
    """The CPU's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def gpus() -> list[str]:
    """The NVIDIA GPUs of this machine, each with its memory and driver; none where there is no `nvidia-smi`."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def code() -> dict[str, Any]:
    """The commit, and the difference of the working tree from it; None and no difference outside a git checkout."""
    lock_file = PROJECT / "requirements.lock"
    lock = hashlib.sha256(lock_file.read_bytes()).hexdigest() if lock_file.exists() else None
    if SHIPPED_CODE.exists():  # a copy that was sent to a cluster
        return json.loads(SHIPPED_CODE.read_text())
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
