"""Which Ray a sweep runs on: the one that RAY_ADDRESS names, one that runs on this machine, or one of its own."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from rich.console import Console

from sweeps import resources, workers
from sweeps.errors import SweepError
from sweeps.schema import SearchSpace

OWN = "local"
"""The RAY_ADDRESS with which a sweep starts a Ray of its own whatever runs."""
_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a trial's paths mean what they mean by hand
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger keeps the results
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Tune's own state is disposable
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "PL_DISABLE_FORK": "1",  # as Tune sets it for its workers
}
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Read when Ray is imported: 0 lets a Ray that is started here listen on the loopback alone, also on Linux. Without a token, as
it is, it would run code for everybody who reaches its ports."""
_ANSWER_SECONDS = 2.0
_joined = False


class RayError(SweepError):
    """A Ray that runs cannot be joined."""


def joined() -> bool:
    """Whether the Ray that this process uses was there before, so that it may have, or get, further nodes."""
    return _joined


def for_tune() -> AbstractContextManager[None]:
    """What Tune is to run in."""
    return nullcontext() if _joined else workers.as_they_are()


@contextmanager
def connected(space: SearchSpace, console: Console) -> Iterator[list[resources.Node]]:
    """A Ray that is running: this process's, one that it joins and leaves running, or a new one. Yields what each node has.

    Raises:
        RayError: the one that RAY_ADDRESS names, or that runs here, cannot be joined.
    """
    global _joined
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield _nodes()
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    named = os.environ.get("RAY_ADDRESS") or None
    address = None if named == OWN else named or running(console)
    if address is None or address.startswith("127."):  # else Ray would take another address of this machine
        _import_for_loopback()
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        _joined = address is not None
        if address is None:
            workers.start(space)
        else:
            _join(address, named is not None)
        signal.signal(signal.SIGTERM, terminated)  # Ray has put its own there, which would end this process in the middle
        yield _nodes()
    finally:
        workers.shut_down()


def running(console: Console) -> str | None:
    """The address of this user's Ray on this machine, if there is one that answers; without importing Ray.

    It is where `ray.init()` looks too: in the file that `ray start --head` has written.
    """
    # As ray._common.utils.get_ray_address_file.
    system = os.environ.get("RAY_TMPDIR") or (os.environ.get("TMPDIR") if sys.platform == "linux" else None)
    file = Path(system or ("/tmp" if os.name == "posix" else tempfile.gettempdir()), "ray", "ray_current_cluster")
    own = f"this sweep starts a Ray of its own. RAY_ADDRESS={OWN} does so without looking"
    try:
        address, owner = file.read_text().strip(), file.stat().st_uid
    except (FileNotFoundError, PermissionError):  # another user's may not be ours to read
        return None
    if owner != os.getuid():
        console.print(f"the Ray at {address} is another user's ({file}): {own}", style="dim", soft_wrap=True)
        return None
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError):
        console.print(f"{file} names a Ray at {address!r}, where none answers: {own}", style="dim", soft_wrap=True)
        return None
    console.print(
        f"joining the Ray that runs at {address}, which goes on afterwards; RAY_ADDRESS={OWN} starts one for this sweep alone",
        soft_wrap=True,
    )
    return address


def _join(address: str, named: bool) -> None:
    """Args: named: by RAY_ADDRESS."""
    import ray

    try:
        # Ray looks for the token of a cluster that it finds by itself, not for that of one that is named.
        ray.init(address=address if named else None, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        found = "which RAY_ADDRESS names" if named else "which runs on this machine"
        instead = f"RAY_ADDRESS={OWN} starts one for this sweep alone"
        raise RayError(f"the Ray at {address}, {found}, cannot be joined: {_said(error)} {instead}.") from error


def _said(error: BaseException) -> str:
    """What Ray has said, on one line that ends as a sentence, without the way of an error through its code."""
    text = re.sub(r"Traceback \(most.*?\w+(?:Error|Exception): ", "", " ".join(str(error.__cause__ or error).split()))
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _import_for_loopback() -> None:
    """Import Ray so that one that is started here listens on the loopback alone."""
    chosen = _LOOPBACK in os.environ
    os.environ.setdefault(_LOOPBACK, "0")
    import ray  # noqa: F401

    if not chosen:
        del os.environ[_LOOPBACK]


def _nodes() -> list[resources.Node]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
