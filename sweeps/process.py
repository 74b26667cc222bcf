"""Processes for trials: the client of a server that has imported what a trial needs and forks one clean child a trial.

A trial so pays no import (about three seconds of torch and Lightning), cannot see the trial before it, and when it
crashes takes nothing else down. All clients of a node share one server: what it has imported is in memory once. Neither side
knows Ray: a connection carries one JSON message a line.

    client → server   {"group": [{"number", "overrides", "directory"}, …], "fused", "environment", "memory"}: a trial, or
                      those that train as one
    child  → client   {"kind": "started" | "report" | "finished" | "failed", …}; of fused ones {"kind": "group", "reports",
                      "finished", "unfit"}, and "over" when all of them have left
    client → child    {"go_on": bool}, the answer to a report or to a group's message, which may also say which of the trials
                      "stop" and which "join"
    server → client   {"kind": "exit", "status", "held"}: the child is gone, the next assignment may come; `held` bytes were
                      more than it was allotted, so that the server has killed it

A client that is gone takes its child with it, the server all of its children, and the last client the server.
Where forking a process that has loaded the system's GPU frameworks is unsafe (macOS), a server serves one trial and ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sweeps.channel import Channel, paired, remove, shared
from sweeps.sizes import size_text

FORK = sys.platform == "linux"
GRACE_SECONDS = 10.0
"""How long a trial that was told to stop may take to write its checkpoint before it is killed."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_MODULE = ["-m", "sweeps.process_server"]
LEAVE: Mapping[str, Any] = {"go_on": False}
"""The answer that ends a process, once it has written its checkpoints."""


class ServerLost(RuntimeError):
    """The server of a trial's process is gone (killed, or its node is lost): the trial may be run again elsewhere."""

    def __init__(self, status: int | None) -> None:
        """Args: status: its exit status, where that is known."""
        super().__init__("the process that serves trials is gone" + ("" if status is None else f" (exit status {status})"))
        self.status = status


class NodeServer:
    """Holds the server that the trials of this node share, from its start on: it is ready when the first of them comes."""

    def __init__(self, threads: int, token: str) -> None:
        """Args: threads: of each trial. token: tells the servers of different sweeps from each other."""
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        self._environment = environment
        self._name = f"{token}-{threads}"
        self._channel, self._process = shared(self._name, [*_MODULE, "fork"], environment, outlives=False)

    def ask_for_check(self, space_name: str) -> None:
        """Begin the deep validation of a search space (`sweeps.check`)."""
        self._channel.send({"space": space_name, "environment": self._environment})

    def answer(self, timeout: float) -> dict[str, Any] | None:
        """What it has found, or None if that takes longer than `timeout` seconds.

        Raises:
            ServerLost: the process that validates was killed.
        """
        if not self._channel.readable(timeout):
            return None
        message = self._channel.receive()
        if message is None:
            raise ServerLost(self._process.wait())
        if message["kind"] == "exit":
            raise ServerLost(message["status"])
        return message

    def close(self) -> None:
        """End the server, which may still be importing, and all that it has forked."""
        self._channel.close()
        self._process.kill()
        self._process.wait()
        remove(self._name)


class TrialProcess:
    """The client: one trial at a time in a process of its own."""

    def __init__(self, threads: int, gpu: bool = False, memory: int | None = None, server: str | None = None) -> None:
        """
        Args:
            threads: how many a trial's libraries may use.
            gpu: whether it sees the GPUs that this process sees; else it sees none. (Nothing can hide the GPU of a Mac.)
            memory: bytes; a trial that holds more, with all processes that it starts, is killed. Only on Linux.
            server: the name of the server that others of this node use too; one of its own if not given.
        """
        self._environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        if not gpu:
            self._environment["CUDA_VISIBLE_DEVICES"] = ""
        self._memory = memory
        self._shared = server and f"{server}-{threads}"
        self._own: str | None = None
        self._channel: Channel | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._child: int | None = None
        self._server_pid: int | None = None
        self._state: Literal["idle", "training", "awaiting an answer", "leaving"] = "idle"
        self._kills: int | None = None
        self._changes: dict[str, Any] = {}

    def start(self, *group: dict[str, Any], fused: bool = False) -> None:
        """Begin a trial, or several; what still runs is ended first. Args: fused: they train as one, be it only one."""
        self.end()
        self.connect()
        self._kills = memory_kills()
        self._send({"group": group, "fused": fused, "memory": self._memory, "environment": self._environment})
        self._state, self._changes = "training", {}

    def change(self, stop: Sequence[int], join: Sequence[dict[str, Any]]) -> None:
        """Say with the next answer which trials of the group end, and which ones join it."""
        self._changes = {"stop": stop, "join": join}

    def connect(self) -> None:
        """Find or start the server, which is held from then on: a trial that starts later finds it ready."""
        if self._channel is None:
            if not FORK:
                self._channel, self._server = paired([*_MODULE, "once"], self._environment)
            elif self._shared:
                self._channel, self._server = shared(self._shared, [*_MODULE, "fork"], self._environment)
            else:
                self._own = uuid.uuid4().hex[:12]
                self._channel, self._server = shared(self._own, [*_MODULE, "fork"], self._environment, outlives=False)

    def next(self) -> dict[str, Any]:
        """Let the trial go on to its next message, and return it: a report, or how it ended (`finished`, `failed`); of fused
        ones `group`, and at last `over`."""
        if self._state == "awaiting an answer":
            self._answer({"go_on": True, **self._changes})
            self._changes = {}
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
            self._answer(LEAVE)
        with contextlib.suppress(ServerLost):  # then the trial has ended with it, and the next one gets a new server
            while self._state != "idle":
                if self._child is not None and not self._channel.readable(max(0.0, deadline - time.monotonic())):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(self._child, signal.SIGKILL)
                self._receive()

    def close(self) -> None:
        """End the trial, and the server unless others use it."""
        self.end()
        self._leave()

    def _leave(self) -> int | None:
        """Its exit status, if the server was this process's child."""
        channel, self._channel = self._channel, None
        server, self._server = self._server, None
        self._state, self._child = "idle", None
        if channel is not None:
            channel.close()  # a server leaves when its last client has gone
        if server is None:
            return None
        try:
            return server.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            return server.wait()
        finally:
            if self._own:
                remove(self._own)

    def _answer(self, answer: Mapping[str, Any]) -> None:
        self._send(answer)
        self._state = "training" if answer["go_on"] else "leaving"

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self._channel.send(message)
        except OSError:
            raise ServerLost(self._leave()) from None

    def _receive(self) -> dict[str, Any]:
        """The next message; what it says of the trial's state is noted."""
        message = self._channel.receive()
        if message is None:
            raise ServerLost(self._leave())
        match message["kind"]:
            case "started":
                self._child, self._server_pid = message["pid"], message["server"]
            case "report" | "group":
                self._state = "awaiting an answer"
            case "finished" | "failed" | "over":
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


def memory_kills(counters: Path = Path("/proc/vmstat")) -> int | None:
    """How many processes this machine has killed since it began because memory ran out; None where it does not tell."""
    try:
        rows = dict(line.split() for line in counters.read_text().splitlines())
    except OSError:
        return None
    return int(rows["oom_kill"]) if "oom_kill" in rows else None
