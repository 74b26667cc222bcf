"""Ctrl-C, SIGTERM, a closed terminal, `sweeps stop`: noted, so that a sweep can end cleanly whatever it is doing just then."""

from __future__ import annotations

import os
import signal
from types import TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP = signal.SIGUSR2
"""What `sweeps stop` sends: as often as it comes, it only asks for a clean end. (SIGUSR1 is taken: Tune has its own answer.)"""
NOTICE = b"\nstopping cleanly: an epoch that runs has ten seconds to end; once more stops at once\n"


class Interruption:
    """While it is entered, the first signal is noted in `requested`, and a second one of `SIGNALS` raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Interruption:
        self._before = {number: signal.signal(number, self._note) for number in (*SIGNALS, STOP)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if not self.requested:
            os.write(2, NOTICE)  # nothing that may hold a lock is safe in a signal handler
        self.requested = True
        for each in SIGNALS:
            signal.signal(each, signal.default_int_handler)
