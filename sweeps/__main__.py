"""`python -m sweeps …`."""

import atexit
import contextlib
import os
import signal
import sys
import threading
from typing import NoReturn


def _load():
    """The command line. A Ctrl-C while it is being imported raises KeyboardInterrupt, also where Python would swallow it, as it
    does in callbacks of its own."""
    noted = []

    def note(number, frame):
        noted.append(number)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else it is ignored, as in the background
        signal.signal(signal.SIGINT, note)
    from sweeps.cli import main

    signal.signal(signal.SIGINT, before)
    if noted:
        raise KeyboardInterrupt
    return main


def _leave(status: int) -> NoReturn:
    """End this process as Python does, up to the taking down of every module: Ray's and its libraries take a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):  # nobody reads it any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    try:
        _load()()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except SystemExit as end:
        if isinstance(end.code, int) and "ray" in sys.modules:
            _leave(end.code)
        raise
