"""Brings a sweep that ran on a cluster into the local ledger, as a copy that a later fetch replaces."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from lhtx.files import write_atomically
from sweeps.cluster import parcel
from sweeps.cluster.connection import ClusterError
from sweeps.cluster.jobs import DEFAULT_RUNS, Cluster
from sweeps.errors import LedgerError
from sweeps.ledger import Ledger

_KEPT = ("report", "export", "results.parquet")
"""What was made of the copy here, and stays when it is fetched anew."""


def fetch(cluster: Cluster, ledger: Ledger, runs: str | None, checkpoints: str, say: Callable[[str], None]) -> None:
    """Copy the sweep from the cluster to `ledger`, also while it runs there.

    Args:
        runs: where the sweep lives on the cluster; where its last job has put it if not given.
        checkpoints: those of the `best` trial, `all`, or `none`.

    Raises:
        ClusterError: the cluster has no such sweep, or it did not arrive whole.
        LedgerError: another sweep of that name is here.
    """
    parcel.check(checkpoints)
    job = cluster.latest(ledger.name)
    runs = runs or (job.runs if job else DEFAULT_RUNS)
    if is_shared(ledger, runs):
        say(f"{ledger.directory} is the sweep's own directory: nothing is to be fetched")
        return
    require_copy(ledger)
    command = ["pack", ledger.name, "--checkpoints", checkpoints]
    packing = cluster.wait(cluster.submit(command, "pack", ledger.name, runs).id)
    text = cluster.logs(packing.id)
    if packing.status != "SUCCEEDED":
        said = [line.removeprefix("error: ") for line in text.splitlines() if line.strip()] or [packing.message]
        raise ClusterError(f"{ledger.name} cannot be fetched from {runs} on the cluster: {said[-1]}")
    runs_there = job.id if job and not job.ended else None
    _replace(ledger, text, {"address": cluster.address, "runs": runs, "job": runs_there})
    which = {"best": "the best trial's", "all": "all", "none": "no"}[checkpoints]
    said = f" as it was just now: {job} goes on there" if runs_there else ""
    say(f"{ledger.name} is here, in {ledger.directory}, with {which} checkpoints{said}")


def is_shared(ledger: Ledger, runs: str) -> bool:
    """Whether the cluster's directory of sweeps is the local one, on a file system that both see, and holds the sweep."""
    return os.path.isabs(runs) and ledger.exists() and Path(runs).resolve() == ledger.root.resolve() and not _mark(ledger)


def require_copy(ledger: Ledger) -> None:
    """Raises LedgerError if what stands at the ledger's place is no copy that was fetched, is one no more, or is being run."""
    if not ledger.directory.exists():
        return
    _require_unchanged(ledger)
    if holder := ledger.holder():
        raise LedgerError(f"{ledger.directory}/ is being run by {holder}. {_elsewhere(ledger)}")


def _elsewhere(ledger: Ledger) -> str:
    return f"Choose another name with AS=…, or fetch into another directory: `{ledger.command('fetch')} RUNS=…`."


def _require_unchanged(ledger: Ledger) -> None:
    elsewhere = _elsewhere(ledger)
    mark = _mark(ledger)
    if mark is None:
        raise LedgerError(
            f"{ledger.directory}/ exists and was not fetched from a cluster: it is never overwritten. {elsewhere}"
        )
    if mark["manifest"] != _digest(ledger):
        raise LedgerError(
            f"{ledger.directory}/ was fetched from {mark['address']}, and run here since: it is never overwritten. {elsewhere}"
        )


def require_at_rest(ledger: Ledger) -> None:
    """Refuses to go on with a copy of a sweep that was running on its cluster when it was fetched: two drivers would run the
    same trials.

    Raises:
        LedgerError: with what to do instead.
    """
    mark = _mark(ledger)
    if mark is None or mark.get("job") is None:
        return
    there = f"NAME={ledger.name} ADDRESS={mark['address']}{ledger.runs_variable}"
    raise LedgerError(
        f"{ledger.directory}/ is a copy of a sweep that was running on {mark['address']}, as job {mark['job']}, when it was "
        "fetched: going on here would run its trials twice. Go on there with `make submit`; or let it end there, or stop it "
        f"(`make stop {there}`), and fetch it again (`make fetch {there}`). If that cluster is gone for good, remove "
        f"{ledger.fetched_file} and go on here."
    )


def _mark(ledger: Ledger) -> dict[str, Any] | None:
    try:
        return json.loads(ledger.fetched_file.read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def _digest(ledger: Ledger) -> str | None:
    file = ledger.manifest_file
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None


def _replace(ledger: Ledger, text: str, origin: Mapping[str, str | None]) -> None:
    """Put what the job has printed at the ledger's place: made beside it, then moved there."""
    ledger.root.mkdir(parents=True, exist_ok=True)
    workshop = Path(mkdtemp(prefix=".fetching-", dir=ledger.root))
    try:
        draft, before = Ledger(ledger.name, workshop), workshop / "before"
        draft.directory.mkdir()
        parcel.read(text, draft.directory)
        if ledger.exists() and _identity(ledger) != _identity(draft):
            raise LedgerError(
                f"{ledger.directory}/ is a copy of another sweep of that name, begun at {_identity(ledger)}: move it away, or "
                "fetch into another directory with RUNS=…"
            )
        write_atomically(draft.fetched_file, json.dumps({**origin, "manifest": _digest(draft)}) + "\n")
        for name in _KEPT:
            if (ledger.directory / name).exists():
                (shutil.copytree if (ledger.directory / name).is_dir() else shutil.copy2)(
                    ledger.directory / name, draft.directory / name
                )
        if not ledger.directory.exists():
            draft.directory.rename(ledger.directory)
            return
        with ledger.lock():  # packing takes its time, in which somebody may have gone on with the copy
            _require_unchanged(ledger)
            ledger.directory.rename(before)
            try:
                draft.directory.rename(ledger.directory)
            except BaseException:
                before.rename(ledger.directory)
                raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _identity(ledger: Ledger) -> str:
    """What tells a sweep from another one of its name: when it was first run, and the seed of its sampler."""
    record = ledger.manifest()
    sessions = record.get("sessions") or [{"started": "an unknown time"}]
    return f"{sessions[0]['started']} with seed {record.get('seed')}"
