"""The server of trial processes on the driver's own node: started first of all, so that it imports while everything else
starts, and asked for the deep validation, so that the driver needs neither torch nor Lightning.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from sweeps.check import check, checked
from sweeps.interruption import Interruption
from sweeps.process import FORK, NodeServer
from sweeps.schema import SearchSpace
from sweeps.validated import Validation

_LOOK_SECONDS = 0.1
_held: Warm | None = None


class Warm:
    """The server, if this system has one, and the `token` by which the sweep's actors find it, or start one on their nodes."""

    def __init__(self, threads: int) -> None:
        self.token = uuid.uuid4().hex[:12]
        self._server = NodeServer(threads, self.token) if FORK else None

    def begin_check(self, space_name: str) -> None:
        """Have a search space validated as soon as the server can."""
        if self._server:
            self._server.ask_for_check(space_name)

    def check(self, space: SearchSpace, interruption: Interruption) -> Validation | None:
        """What the validation has come to; None if it was interrupted.

        Raises: as `sweeps.check.check`.
        """
        if self._server is None:
            return check(space)
        while not interruption.requested:
            if (message := self._server.answer(_LOOK_SECONDS)) is not None:
                return checked(message)
        return None

    def close(self) -> None:
        if self._server:
            self._server.close()


@contextmanager
def warm(space: SearchSpace) -> Iterator[Warm]:
    """The server that this process holds, or a new one while the block lasts."""
    global _held
    if _held is not None:
        yield _held
        return
    _held = Warm(space.resources.cpu)
    try:
        yield _held
    finally:
        held, _held = _held, None
        held.close()
