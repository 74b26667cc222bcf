"""The server of `sweeps.process`: it has imported what a trial needs and forks a clean child for each thing it is asked to do,
for any number of clients at a time, one thing each. It leaves when its last client is gone.

    python -m sweeps.process_server fork NAME [outlives]     the connections arrive at the socket that is its standard input
    python -m sweeps.process_server once                     its standard input is a connection: one trial, in this process

It must never use CUDA itself, nor start a thread: neither survives a fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from lhtx.files import write_atomically
from sweeps.allotment import LOOK_SECONDS, MemoryWatch
from sweeps.channel import Channel, data_directory, may_leave

_PR_SET_PDEATHSIG = 1


@dataclass
class _Client:
    channel: Channel
    child: int | None = None
    """The process that does what this client has asked for; the connection is its own meanwhile."""
    watch: MemoryWatch = field(default_factory=lambda: MemoryWatch(0, None))
    held: int | None = None
    gone: bool = False


class _Server:
    def __init__(self, name: str, listener: socket.socket) -> None:
        self._name, self._listener = name, listener
        self._clients: list[_Client] = []
        self._woken, waker = os.pipe()
        for descriptor in (self._woken, waker):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # a child's end wakes `poll`

    def serve(self) -> None:
        self._accept()
        while self._clients or not may_leave(self._name, self._listener):
            poll = select.poll()
            poll.register(self._listener, select.POLLIN)
            poll.register(self._woken, select.POLLIN)
            for client in self._clients:
                if not client.gone:
                    poll.register(client.channel, 0 if client.child else select.POLLIN)  # 0: only that it is gone
            watched = any(client.child for client in self._clients)
            events = dict(poll.poll(1000 * LOOK_SECONDS if watched or not self._clients else None))
            if self._woken in events:
                os.read(self._woken, 65536)
            if self._listener.fileno() in events:
                self._accept()
            for client in list(self._clients):
                self._attend(client, events.get(client.channel.fileno(), 0))

    def _accept(self) -> None:
        self._clients.append(_Client(Channel(self._listener.accept()[0])))

    def _attend(self, client: _Client, event: int) -> None:
        if client.child:
            client.gone = client.gone or bool(event & (select.POLLHUP | select.POLLERR))
            client.held = client.held or client.watch.exceeded()
            if client.gone or client.held:
                with contextlib.suppress(ProcessLookupError):  # it may not have its group yet: the next time, then
                    os.killpg(client.child, signal.SIGKILL)
            pid, status = os.waitpid(client.child, os.WNOHANG)
            if not pid:
                return
            self._answer(client, os.waitstatus_to_exitcode(status))
            event |= select.POLLIN if client.channel.pending else 0
        while event and client.child is None and not client.gone:
            message = client.channel.receive()
            if message is None:
                client.gone = True
            elif "go_on" not in message:  # else the answer to a report of a child that was killed before it could read it
                self._fork(client, message)
            event = client.channel.pending
        if client.gone:
            client.channel.close()
            self._clients.remove(client)

    def _fork(self, client: _Client, message: dict[str, Any]) -> None:
        if message.get("group"):  # their configs differ in values
            merge_configs(message["group"][0]["overrides"])
        try:
            child = os.fork()
        except OSError as error:  # no memory, or too many processes: the end of this one trial
            client.channel.send({"kind": "failed", "error": f"no process could be made for it: {error}"})
            self._answer(client, 1)
            return
        if child == 0:
            code = 1
            try:
                self._become(client)
                os.environ.clear()
                os.environ.update(message["environment"])
                os.environ.setdefault("LHTX_SHARED_DATA", str(data_directory(self._name)))
                code = run(client.channel, message)
            except BaseException:  # noqa: BLE001  this process must not go on as a second server
                traceback.print_exc()
            os._exit(code)
        client.child, client.held, client.watch = child, None, MemoryWatch(child, message.get("memory"))

    def _become(self, client: _Client) -> None:
        """Make this process the child that serves one client: nothing of the server is left to it."""
        server = os.getppid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:
            os._exit(1)  # it was killed before it could take this process with it
        os.setsid()
        self._listener.close()
        for other in self._clients:
            if other is not client:
                other.channel.close()

    def _answer(self, client: _Client, status: int) -> None:
        """The child is gone."""
        client.child = None
        try:
            client.channel.send({"kind": "exit", "status": status, "held": client.held})
        except OSError:
            client.gone = True


def merge_configs(overrides: list[str]) -> None:
    """Merge the files of a trial's config once here, where all that differ from it in values alone find that done."""
    from lhtx.compose import CONFIGS
    from lhtx.composition import merge

    with contextlib.suppress(Exception):  # whatever it is, it ends the trial, which composes them too, and not the server
        merge(overrides, "train", CONFIGS)


def run(channel: Channel, message: dict[str, Any]) -> int:
    """Do what a client asks for, in this process; the exit status."""
    if "space" in message:
        from sweeps.check import answer

        channel.send(answer(message["space"]))
        return 0
    return _train(channel, message)


def _train(channel: Channel, message: dict[str, Any]) -> int:
    import torch

    from sweeps.ledger import RUNNING, TrialFiles
    from sweeps.process import LEAVE, THREAD_VARIABLES
    from sweeps.trial import Assignment, ChannelListener, TrialStopped, run_trial

    torch.set_num_interop_threads(int(os.environ[THREAD_VARIABLES[0]]))
    group = [Assignment.from_message(each) for each in message["group"]]
    assignment = group[0]
    files = TrialFiles(Path(assignment.directory))
    log = os.open(files.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    channel.send({"kind": "started", "pid": os.getpid(), "server": os.getppid()})
    if message["fused"]:
        from sweeps.fused_trials import FusedTrials
    else:
        running = FileLock(files.directory / RUNNING)
        running.acquire()  # one suspended a moment ago may still be writing the checkpoint from which this one goes on

    def exchange(told: dict[str, Any]) -> dict[str, Any]:
        channel.send(told)
        return channel.receive() or LEAVE

    start = time.monotonic()
    try:
        if message["fused"]:
            FusedTrials(group, exchange).train()
            channel.send({"kind": "over"})
            return 0
        metrics = run_trial(assignment, ChannelListener(channel, assignment.number))
    except TrialStopped:
        return 0
    except BaseException as error:  # noqa: BLE001  whatever a trial raises is its own end, told to the sweep, and nobody else's
        with contextlib.suppress(OSError):  # a full disk: what happened is told to the sweep all the same
            if not message["fused"]:  # else nobody can say whose it is
                write_atomically(files.error, traceback.format_exc())
            traceback.print_exc()
        channel.send({"kind": "failed", "error": f"{type(error).__name__}: {error}"})
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    number = assignment.number
    channel.send({"kind": "finished", "number": number, "metrics": metrics, "seconds": time.monotonic() - start})
    return 0


def main(mode: str, name: str = "", outlives: str = "") -> None:
    """Serve until there is nobody left to serve."""
    if outlives and os.fork():
        os._exit(0)  # the starter need not wait for this server, nor does it end with the starter's children
    if not outlives and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # also while it still imports
    connection = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if mode == "once":
        channel = Channel(connection)
        if (message := channel.receive()) is not None:
            channel.send({"kind": "exit", "status": run(channel, message)})
        return
    gc.disable()  # imports leave next to no garbage, and looking for it is a third of their time
    from sweeps.light_imports import import_torchmetrics

    import_torchmetrics()
    from sweeps.trial import preload

    preload()
    gc.freeze()  # else a child's first collection writes to every page that it shares with this process
    gc.enable()
    _Server(name, connection).serve()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # nothing is left to tidy up, and taking torch down takes a third of a second


if __name__ == "__main__":
    main(*sys.argv[1:])
