"""Ask the process that runs a sweep to end, from another terminal. It knows the lock, and nothing of what is in a sweep."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console

from sweeps.errors import LedgerError
from sweeps.interruption import STOP
from sweeps.ledger import Ledger

WAIT_SECONDS = 0.2


def stop(ledger: Ledger, console: Console, wait: bool = True, pause: Callable[[float], None] = time.sleep) -> None:
    """End the sweep as Ctrl-C does: running epochs have ten seconds to end (Tune waits no longer), else they are trained again.
    A sweep that does not run is left as it is, and one that is stopping already is not hurried.

    Args:
        wait: until it has ended; else return when it has been asked.
        pause: waits so many seconds.

    Raises:
        LedgerError: it is run on another machine, or by another user.
    """
    holder = ledger.holder()
    while holder is not None and holder.pid is None:  # it has only just begun
        pause(WAIT_SECONDS)
        holder = ledger.holder()
    if holder is None:
        console.print(f"{ledger.name} is not running", soft_wrap=True)
        return
    if not holder.is_here:
        raise LedgerError(
            f"The sweep {ledger.name!r} is being run by {holder}, another machine than this one ({os.uname().nodename}): run "
            f"`{ledger.command('stop')}` there."
        )
    try:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(holder.pid, STOP)
    except PermissionError as error:
        raise LedgerError(f"The sweep {ledger.name!r} is being run by {holder}, which belongs to another user.") from error
    if not wait:
        console.print(f"{ledger.name}: asked {holder} to stop", soft_wrap=True)
        return
    said = "running epochs have ten seconds to end, else they are trained again"
    console.print(f"{ledger.name}: {holder} is stopping; {said}", soft_wrap=True)
    while ledger.holder() == holder:
        pause(WAIT_SECONDS)
    console.print(f"{ledger.name} has stopped. Go on with: {ledger.command('resume')}", soft_wrap=True)
