"""The jobs of sweeps on one cluster: submitted, found again by what they say of themselves, followed and stopped.

No state is kept where they are submitted: whoever reaches the Jobs port finds them.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import secrets
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sweeps import manifest
from sweeps.cluster.connection import ClusterError, connect, told
from sweeps.cluster.job import BEGUN
from sweeps.cluster.package import packaged
from sweeps.space import SearchSpace

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

DEFAULT_RUNS = "~/sweeps/runs"
"""Where sweeps live on the cluster: under the home directory of whoever runs the head node."""
STOP_SECONDS = 120
"""How long a job that was told to stop may take, as its trials bring their epochs to an end; Ray's own default is 3."""
SUBMIT_ATTEMPTS = 4
"""How often a head node is asked that has no agent for jobs yet; it takes ten seconds each time to say so."""
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 120
"""How long the cluster may be out of reach while a job is followed."""
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """One job of a sweep."""

    id: str
    status: str
    message: str
    exit_code: int | None
    runs: str
    """Where the sweep lives on the cluster."""
    by: str
    """Who submitted it, from which machine."""
    started: datetime
    """Local time."""

    @property
    def ended(self) -> bool:
        return self.status in {"SUCCEEDED", "FAILED", "STOPPED"}

    def __str__(self) -> str:
        return f"job {self.id} ({self.status.lower()}, submitted by {self.by} at {self.started:%Y-%m-%d %H:%M:%S})"


class Cluster:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        """Raises ClusterError where the cluster cannot be used (`connect`)."""
        self.address = address.rstrip("/")
        self._client = connect(self.address)

    def submit(self, command: list[str], kind: str, sweep: str, runs: str, space: SearchSpace | None = None) -> Job:
        """Ship the code and start `python -m sweeps.cluster.job COMMAND` on the head node."""
        code = manifest.code()
        dirty = bool(code["diff"] or code["untracked"])
        metadata = {
            "sweep": sweep,
            "kind": kind,
            "runs": runs,
            "commit": str(code["commit"]),
            "dirty": str(dirty).lower(),
            "by": f"{getpass.getuser()}@{os.uname().nodename}",
        }
        unique = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        with packaged(space) as directory:
            request = {
                "entrypoint": f"exec python -m sweeps.cluster.job {shlex.join([*command, '--runs', runs])}",
                "submission_id": f"{kind}-{sweep}-{unique}",
                "runtime_env": {
                    "working_dir": str(directory),
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "PYTHONUNBUFFERED": "1"},
                },
                "metadata": metadata,
            }
            return self.job(self._submit(request))

    def _submit(self, request: dict[str, Any], pause: Callable[[float], None] = time.sleep) -> str:
        for attempt in range(SUBMIT_ATTEMPTS):
            try:
                with told(self.address):
                    return self._client.submit_job(**request)
            except ClusterError as error:
                if "No available agent" not in str(error):
                    raise
                if attempt + 1 < SUBMIT_ATTEMPTS:
                    pause(POLL_SECONDS)
        raise ClusterError(
            f"{self.address}: the head node takes no jobs: its agent is not up. If the node has not just been started, the "
            "agent's port may be taken there: dashboard_agent.log among its logs tells."
        )

    def job(self, submission: str) -> Job:
        """The job as it is now."""
        with told(self.address):
            return _job(self._client.get_job_info(submission))

    def latest(self, sweep: str, runs: str | None = None) -> Job | None:
        """The sweep's last job; None if it has none on this cluster. Args: runs: only where it lives there."""
        with told(self.address):
            jobs = [each for each in self._client.list_jobs() if (each.metadata or {}).get("sweep") == sweep]
        jobs = [each for each in jobs if each.metadata["kind"] == "sweep"]
        found = [job for job in map(_job, jobs) if runs in {None, job.runs}]
        return max(found, key=lambda job: job.started, default=None)

    def sweeps(self) -> list[str]:
        """The sweeps that have a job here."""
        with told(self.address):
            jobs = self._client.list_jobs()
        return sorted({each.metadata["sweep"] for each in jobs if "sweep" in (each.metadata or {})})

    def logs(self, submission: str) -> str:
        """All that a job has printed."""
        with told(self.address):
            return self._client.get_job_logs(submission)

    def wait(self, submission: str, pause: Callable[[float], None] = time.sleep) -> Job:
        """The job, once it has ended."""
        while not (job := self.job(submission)).ended:
            pause(POLL_SECONDS)
        return job

    def stop(self, submission: str) -> None:
        """Ask a job to end, as SIGTERM asks a driver."""
        with told(self.address):
            self._client.stop_job(submission)

    def follow(self, submission: str, show: Callable[[str], None], pause: Callable[[float], None] = time.sleep) -> Job:
        """Show what a job prints until it has ended, from its beginning; the job.

        The connection may be lost for `PATIENCE_SECONDS`.

        Raises:
            ClusterError: it was lost for longer; the job goes on.
        """
        shown, lost = 0, None
        while True:
            try:
                try:
                    shown = asyncio.run(self._tail(submission, shown, show))
                except _Interrupted as broken:
                    shown = broken.shown
                job = self.job(submission)
                lost = None
            except ClusterError as error:
                lost = lost or time.monotonic()
                if time.monotonic() - lost > PATIENCE_SECONDS:
                    raise ClusterError(f"{error} The job {submission} goes on, if its cluster does.") from error
            else:
                if job.ended:
                    text = self.logs(submission)  # the stream may end before the last lines
                    show(text[shown:])
                    return job
            pause(POLL_SECONDS)

    async def _tail(self, submission: str, shown: int, show: Callable[[str], None]) -> int:
        """Show what comes after the first `shown` characters; how many there are now."""
        import aiohttp

        seen = 0
        with told(self.address):
            try:
                async for part in self._client.tail_job_logs(submission):
                    show(part[max(0, shown - seen) :])
                    seen += len(part)
                    shown = max(shown, seen)
            except (aiohttp.ClientError, RuntimeError) as error:
                raise _Interrupted(shown) from error
        return shown


class _Interrupted(Exception):
    """The stream of a job's output broke off after so many characters."""

    def __init__(self, shown: int) -> None:
        self.shown = shown


def _job(details: JobDetails) -> Job:
    metadata: dict[str, Any] = details.metadata or {}
    return Job(
        id=details.submission_id or details.job_id or "",
        status=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        exit_code=details.driver_exit_code,
        runs=metadata.get("runs", DEFAULT_RUNS),
        by=metadata.get("by", "somebody"),
        started=datetime.fromtimestamp((details.start_time or 0) / 1000),
    )


def exit_status(job: Job, output: str) -> int:
    """What the submitter's exit status is for a job that has ended: the job's own, 130 for one that was stopped.

    Raises:
        ClusterError: the job could not start, or was lost with its node.
    """
    if job.status == "SUCCEEDED":
        return 0
    if job.status == "STOPPED":
        return EXIT_INTERRUPTED
    if BEGUN not in output:
        said = [line for line in (output or job.message).splitlines() if line.strip()]
        why = said[-1].strip()[:500] if said else "it printed nothing"
        raise ClusterError(
            f"job {job.id} could not start on the cluster: {why}. Its nodes need `python` with what requirements.lock names."
        )
    if job.exit_code is None:
        raise ClusterError(
            f"job {job.id} was lost: {job.message or 'Ray does not say how'}. What it has done is kept on the cluster: submit "
            "the sweep again to go on, or fetch it."
        )
    return job.exit_code if job.exit_code >= 0 else 128 - job.exit_code  # as a shell says that a signal has ended it
