"""Sweeps on a cluster, as a person asks for them: submit, attach, stop. What each prints says what can be typed next."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from sweeps import places, results_place
from sweeps.cluster import fetch
from sweeps.cluster.connection import ClusterError
from sweeps.cluster.jobs import DEFAULT_RUNS, EXIT_INTERRUPTED, Cluster, Job, exit_status
from sweeps.errors import StorageError, suggestions
from sweeps.ledger import Ledger
from sweeps.space import SearchSpace, load_space


def submit(
    space_name: str,
    name: str | None,
    address: str,
    root: Path,
    console: Console,
    wait: bool = True,
    cluster_runs: str = DEFAULT_RUNS,
    checkpoints: str = "best",
) -> int:
    """Run a sweep on a cluster, or go on with it there; the job's exit status, or 0 if nobody waits for it.

    Raises:
        SweepError: the space is refused, another sweep of that name is here, or the cluster cannot be used.
    """
    space = load_space(space_name)
    ledger = Ledger(name or space.name, root)
    fetch.parcel.check(checkpoints)
    said = _said_here(space)
    if not fetch.is_shared(ledger, cluster_runs):
        fetch.require_copy(ledger)
    cluster = Cluster(address)
    job = cluster.latest(ledger.name, cluster_runs)
    if job and not job.ended:
        console.print(f"{ledger.name} runs there already, as {job}", soft_wrap=True)
    else:
        job = cluster.submit(["run", ledger.name, *said], "sweep", ledger.name, cluster_runs, space)
        console.print(f"{ledger.name}: submitted to {cluster.address} as job {job.id}", soft_wrap=True)
    if not wait:
        console.print(f"see it with {_command('attach', ledger, cluster)}", soft_wrap=True)
        console.print(f"stop it with {_command('stop', ledger, cluster)}", soft_wrap=True)
        return 0
    return _follow(cluster, job, ledger, console, checkpoints)


def _said_here(space: SearchSpace) -> list[str]:
    """What the job is told of the environment here: where study and results go, if the space does not say it.

    Raises:
        StorageError: the study's database needs a password that is known here alone, or `places.VARIABLE` names no place.
        MirrorError: `results_place.VARIABLE` names none.
    """
    place = places.chosen(space.storage)
    if place.url and places.password(place) is not None:
        raise StorageError(
            f"{place}: the password that is given for it here is not sent with a job, whose description others can read. Put "
            f"it into ~/.pgpass on the head node, take it out of {places.VARIABLE} and {places.PASSWORD_VARIABLE} here, "
            "and submit again."
        )
    said = ["--storage", str(place)] if space.storage is None and place != places.Place() else []
    results = None if space.outputs.results else results_place.chosen(None)
    return [*said, "--results", results.url] if results else said


def attach(name: str, address: str, root: Path, console: Console, checkpoints: str = "best") -> int:
    """Follow a sweep's last job, from its first line, and fetch its results; the job's exit status.

    Raises:
        SweepError: there is no such job, or the cluster cannot be used.
    """
    fetch.parcel.check(checkpoints)
    cluster = Cluster(address)
    return _follow(cluster, _latest(cluster, name), Ledger(name, root), console, checkpoints)


def stop(name: str, address: str, root: Path, console: Console, wait: bool = True) -> None:
    """End a sweep's job, as SIGTERM ends a driver: running epochs have ten seconds to end, else they are trained again.

    Raises:
        SweepError: there is no such job, or the cluster cannot be used.
    """
    cluster, ledger = Cluster(address), Ledger(name, root)
    job = _latest(cluster, name)
    if job.ended:
        console.print(f"{name} does not run there: {job}", soft_wrap=True)
        return
    cluster.stop(job.id)
    said = "running epochs have ten seconds to end, else they are trained again"
    console.print(f"{name}: job {job.id} is stopping; {said}", soft_wrap=True)
    if wait:
        console.print(f"{name} has stopped: {cluster.wait(job.id)}", soft_wrap=True)
        console.print(f"fetch it with {_command('fetch', ledger, cluster)}; submit it again to go on", soft_wrap=True)


def fetch_results(name: str, address: str, root: Path, console: Console, runs: str | None, checkpoints: str) -> None:
    """Copy a sweep from a cluster into the local ledger, also while it runs there.

    Raises:
        SweepError: as `fetch.fetch`.
    """
    fetch.parcel.check(checkpoints)
    fetch.fetch(Cluster(address), Ledger(name, root), runs, checkpoints, lambda text: console.print(text, soft_wrap=True))


def _latest(cluster: Cluster, name: str) -> Job:
    job = cluster.latest(name)
    if job is None:
        raise ClusterError(f"no job of a sweep {name!r} is known to {cluster.address}. {suggestions(name, cluster.sweeps())}")
    return job


def _follow(cluster: Cluster, job: Job, ledger: Ledger, console: Console, checkpoints: str) -> int:
    output: list[str] = []

    def show(text: str) -> None:
        output.append(text)
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        job = cluster.follow(job.id, show)
    except KeyboardInterrupt:
        console.print(f"\ndetached: the job {job.id} goes on. See it again with {_command('attach', ledger, cluster)}")
        console.print(f"stop it with {_command('stop', ledger, cluster)}", soft_wrap=True)
        return EXIT_INTERRUPTED
    status = exit_status(job, "".join(output))
    if status == 2:  # refused: there is no sweep, or nothing new in it
        return status
    fetch.fetch(cluster, ledger, job.runs, checkpoints, lambda text: console.print(text, soft_wrap=True))
    return status


def _command(target: str, ledger: Ledger, cluster: Cluster) -> str:
    return f"`{ledger.command(target)} ADDRESS={cluster.address}`"
