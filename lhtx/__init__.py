"""The training core. As a command, `python -m lhtx.…`, it tells an interruption in one line, also while it still imports."""

import sys
from types import TracebackType


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print("\ninterrupted", file=sys.stderr)
    raise SystemExit(130)


if sys.argv[:1] == ["-m"]:  # Python's name for a command whose package it still imports; a library leaves such hooks alone
    sys.excepthook = _tell
