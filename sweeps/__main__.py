"""`python -m sweeps …`."""

import signal
import sys


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


if __name__ == "__main__":
    try:
        _load()()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
