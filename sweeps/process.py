"""Processes for trials: a server that has imported what a trial needs forks one clean child a trial.

A trial so pays no import (about three seconds of torch and Lightning), cannot see the trial before it, and when it
crashes takes nothing else down. Neither side knows Ray: the server's stdin and stdout carry one JSON message a line.

    client → server   an assignment: {"number", "overrides", "directory"}
    child  → client   {"kind": "started" | "report" | "finished" | "failed", …}
    client → child    {"go_on": bool}, the answer to a report
    server → client   {"kind": "exit", "status", "held"}: the child is gone, the next assignment may come; `held` bytes were
                      more than it was allotted, so that the server has killed it

Where forking a process that has loaded the system's GPU frameworks is unsafe (macOS), a server serves one trial and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from lhtx.files import write_atomically
from sweeps.allotment import MemoryWatch
from sweeps.ledger import TrialFiles
from sweeps.sizes import size_text

FORK = sys.platform == "linux"
GRACE_SECONDS = 10.0
"""How long a trial that was told to stop may take to write its checkpoint before it is killed."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PR_SET_PDEATHSIG = 1


class ServerLost(RuntimeError):
    """The server of a trial's process is gone (killed, or its node is lost): the trial may be run again elsewhere."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the process that serves trials is gone (exit status {status})")
        self.status = status


class TrialProcess:
    """The client: one trial at a time in a process of its own."""

    def __init__(self, threads: int, gpu: bool = False, memory: int | None = None) -> None:
        """
        Args:
            threads: how many a trial's libraries may use.
            gpu: whether it sees the GPUs that this process sees; else it sees none. (Nothing can hide the GPU of a Mac.)
            memory: bytes; a trial that holds more, with all processes that it starts, is killed. Only on Linux.
        """
        self._environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
        if not gpu:
            self._environment["CUDA_VISIBLE_DEVICES"] = ""
        self._memory = memory
        self._server: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._child: int | None = None
        self._state: Literal["idle", "training", "awaiting an answer", "leaving"] = "idle"
        self._kills: int | None = None

    def start(self, assignment: dict[str, Any]) -> None:
        """Begin a trial; one that still runs is ended first."""
        self.end()
        if self._server is None:
            self._buffer = b""
            self._server = subprocess.Popen(
                [sys.executable, "-m", "sweeps.process", "fork" if FORK else "once"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=self._environment,
                start_new_session=True,  # Ctrl-C in the terminal is for the driver alone
            )
        self._kills = memory_kills()
        self._send({**assignment, "memory": self._memory})
        self._state = "training"

    def next(self) -> dict[str, Any]:
        """Let the trial go on to its next message, and return it: a report, or how it ended (`finished`, `failed`)."""
        if self._state == "awaiting an answer":
            self._answer(go_on=True)
        try:
            message = self._receive()
            if message["kind"] == "started":
                message = self._receive()
        except ServerLost as lost:
            if FORK:
                raise
            message = {"kind": "exit", "status": lost.status}  # the server was the trial's own process
        if message["kind"] == "exit":
            return {"kind": "failed", "error": self._describe(message["status"], message.get("held"))}
        return message

    def end(self) -> None:
        """End the running trial, if there is one: between two epochs after its checkpoint, within an epoch at once."""
        deadline = time.monotonic() + (0 if self._state == "training" else GRACE_SECONDS)
        if self._state == "awaiting an answer":
            self._answer(go_on=False)
        with contextlib.suppress(ServerLost):  # then the trial has ended with it, and the next one gets a new server
            while self._state != "idle":
                if self._child is not None and not self._readable(max(0.0, deadline - time.monotonic())):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(self._child, signal.SIGKILL)
                self._receive()

    def close(self) -> None:
        """End the trial and the server."""
        self.end()
        self._leave()

    def _leave(self) -> None:
        server, self._server = self._server, None
        self._state, self._child = "idle", None
        if server is None:
            return
        server.stdin.close()  # the server leaves when its input ends
        try:
            server.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        server.stdout.close()

    def _readable(self, timeout: float) -> bool:
        """Whether a message, or the news that the server is gone, comes within `timeout` seconds."""
        return b"\n" in self._buffer or bool(select.select([self._server.stdout], [], [], timeout)[0])

    def _answer(self, go_on: bool) -> None:
        self._send({"go_on": go_on})
        self._state = "training" if go_on else "leaving"

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._server.stdin.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            raise self._lost() from None

    def _receive(self) -> dict[str, Any]:
        """The next message; what it says of the trial's state is noted."""
        while b"\n" not in self._buffer:
            part = os.read(self._server.stdout.fileno(), 65536)
            if not part:
                raise self._lost()
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        message = json.loads(line)
        match message["kind"]:
            case "started":
                self._child = message["pid"]
            case "report":
                self._state = "awaiting an answer"
            case "finished" | "failed":
                self._state = "leaving"
            case "exit":
                self._state, self._child = "idle", None
                if not FORK:
                    self._leave()
        return message

    def _describe(self, status: int, held: int | None = None) -> str:
        """What an exit status (negative: a signal) of a child that said nothing means. Args: held: bytes, if too many."""
        if held is not None and self._memory is not None:
            return f"killed: it held {size_text(held)} of the {size_text(self._memory)} that it was allotted"
        if status == -signal.SIGKILL:
            before, now = self._kills, memory_kills()
            if before is None or now is None:
                return "killed by SIGKILL: by hand, or by the system when memory ran out"
            return (
                f"killed by SIGKILL: {'the system was out of memory' if now > before else 'by hand, as memory did not run out'}"
            )
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"left with exit status {status} before it had finished"

    def _lost(self) -> ServerLost:
        status = self._server.wait()
        self._leave()
        return ServerLost(status)


def memory_kills(counters: Path = Path("/proc/vmstat")) -> int | None:
    """How many processes this machine has killed since it began because memory ran out; None where it does not tell."""
    try:
        rows = dict(line.split() for line in counters.read_text().splitlines())
    except OSError:
        return None
    return int(rows["oom_kill"]) if "oom_kill" in rows else None


class _Channel:
    """The server's two file descriptors; whoever's turn it is, server or child, reads and writes them unbuffered."""

    def __init__(self) -> None:
        self.input, self.output = os.dup(0), os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(2, 1)  # a library that prints must not speak into the channel
        os.close(null)
        self._buffer = b""

    def send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self.output, data) :]

    def receive(self) -> dict[str, Any] | None:
        """The next message, or None when the client is gone."""
        while b"\n" not in self._buffer:
            part = os.read(self.input, 65536)
            if not part:
                return None
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def client_is_gone(self) -> bool:
        poll = select.poll()
        poll.register(self.input, 0)
        return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))


def _serve(channel: _Channel, fork: bool) -> None:
    from sweeps.trial import preload

    if fork:
        preload()
    while (message := channel.receive()) is not None:
        if "number" not in message:
            continue  # the answer to a report of a child that was killed before it could read it
        if not fork:
            channel.send({"kind": "exit", "status": _run(channel, message)})
            return
        child = os.fork()
        if child == 0:
            os._exit(_child(channel, message))
        status, held = _wait(child, channel, MemoryWatch(child, message.get("memory")))
        channel.send({"kind": "exit", "status": status, "held": held})


def _wait(child: int, channel: _Channel, watch: MemoryWatch) -> tuple[int, int | None]:
    """The exit status of `child` (negative: the signal), and the bytes that it held if they were too many. It is killed with
    all that it started then, and if the client is gone."""
    held = None
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status), held
        held = held or watch.exceeded()
        if held or channel.client_is_gone():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)


def _child(channel: _Channel, assignment: dict[str, Any]) -> int:
    os.setsid()
    # The server may be killed too: then nobody would be left to end this process.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return _run(channel, assignment)


def _run(channel: _Channel, message: dict[str, Any]) -> int:
    from sweeps.trial import Assignment, EpochReport, TrialStopped, run_trial

    import torch

    torch.set_num_interop_threads(int(os.environ[_THREAD_VARIABLES[0]]))
    assignment = Assignment.from_message(message)
    files = TrialFiles(Path(assignment.directory))
    log = os.open(files.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    channel.send({"kind": "started", "pid": os.getpid()})
    running = FileLock(files.directory / ".running")
    running.acquire()  # one that was suspended a moment ago may still be writing the checkpoint from which this one goes on

    def report(epoch: EpochReport) -> bool:
        channel.send(epoch.as_message())
        answer = channel.receive()
        return answer is not None and answer["go_on"]

    start = time.monotonic()
    try:
        metrics = run_trial(assignment, report)
    except TrialStopped:
        return 0
    except BaseException as error:  # noqa: BLE001  whatever a trial raises is its own end, told to the sweep, and nobody else's
        with contextlib.suppress(OSError):  # a full disk: what happened is told to the sweep all the same
            write_atomically(files.error, traceback.format_exc())
            traceback.print_exc()
        channel.send({"kind": "failed", "error": f"{type(error).__name__}: {error}"})
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    channel.send({"kind": "finished", "metrics": metrics, "seconds": time.monotonic() - start})
    return 0


if __name__ == "__main__":
    _serve(_Channel(), fork=sys.argv[1] == "fork")
