"""TensorBoard over what runs have logged, on this machine's loopback only: `python -m lhtx.tensorboard [DIRECTORY]`.

Finds and starts; TensorBoard does the rest. Knows nothing of runs or sweeps but that they leave event files.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lhtx.errors import ConfigError

EVENTS = "events.out.tfevents.*"
HOST = "127.0.0.1"


def command(directory: Path, port: int) -> list[str]:
    """What starts TensorBoard over `directory`. Raises ConfigError where there is nothing to show, or for a senseless port."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port is {port}; expected 0 (any that is free) to 65535")
    if not directory.is_dir():
        raise ConfigError(f"there is no directory {directory}; expected one with runs in it, such as logs or runs/NAME")
    if next(directory.rglob(EVENTS), None) is None:
        raise ConfigError(
            f"{directory} holds nothing for TensorBoard: no file {EVENTS}. Runs with logger=tensorboard, the default of "
            "lhtx.train, leave them; those with logger=none or logger=csv do not"
        )
    return [sys.executable, "-m", "tensorboard.main", "--logdir", str(directory), "--host", HOST, "--port", str(port)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Becomes TensorBoard, until Ctrl-C; exit status 2: refused."""
    parser = argparse.ArgumentParser(
        prog="python -m lhtx.tensorboard", description=f"TensorBoard over the runs below a directory, on {HOST} only."
    )
    parser.add_argument("directory", nargs="?", type=Path, default=Path("logs"), help="with runs in it (logs)")
    parser.add_argument("--port", type=int, default=6006, help="0 is any that is free (6006)")
    options = parser.parse_args(arguments)
    try:
        line = command(options.directory, options.port)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    os.execv(line[0], line)


if __name__ == "__main__":
    sys.exit(main())
