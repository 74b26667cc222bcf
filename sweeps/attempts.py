"""A trial that is under way: its history, and the seconds that this and earlier attempts at it have taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeps.ledger import History, TrialFiles, read_history


class Attempt:
    """What a driver remembers of a trial from its proposal to its end. A trial whose process is lost gets another attempt."""

    def __init__(self, files: TrialFiles) -> None:
        self.history = History.open(files.history)
        self.max_epochs: int | None = None
        """As its last report said."""
        self.again()

    def again(self) -> None:
        """Another attempt begins, from the trial's last checkpoint."""
        rows = read_history(self.history.path)
        self.seconds: float = rows[-1]["seconds"] if rows else 0.0
        """Of all attempts, until the last epoch that was reported."""
        self._before: float | None = None

    def hear(self, message: Mapping[str, Any]) -> bool:
        """Take the time of a report; whether it is the first word of this attempt."""
        first = self._before is None
        if first:  # an earlier attempt may have left epochs, and the seconds that they took
            begins = message["epoch"] + message["repeated"]
            rows = [row for row in read_history(self.history.path) if row["epoch"] < begins]
            self._before = rows[-1]["seconds"] if rows else 0.0
            self.max_epochs = message["max_epochs"]
        self.end(message["seconds"])
        return first

    def end(self, seconds: float) -> None:
        """Take the time of the end. Args: seconds: of this attempt."""
        self.seconds = (self._before or 0.0) + seconds
