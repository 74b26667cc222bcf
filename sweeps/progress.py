"""What a person sees while a sweep runs: trials done, running, pruned, failed; the best so far; epochs a second; time left.

A live panel in a terminal, one line a finished trial elsewhere. It reads the sweep's study and changes nothing.
"""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeps.study import SweepStudy

REFRESH_SECONDS = 0.5


class Progress:
    """Use as a context manager round the sweep; `update()` is cheap and may be called at any rate."""

    def __init__(self, study: SweepStudy, console: Console, concurrency: int) -> None:
        self._study, self._console = study, console
        self._concurrency = concurrency
        self._start = time.monotonic()
        self._ended_before = study.ended.total()
        self._last = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def update(self) -> None:
        """Show what has changed."""
        now = time.monotonic()
        if self._live and now - self._last >= REFRESH_SECONDS:
            self._last = now
            self._live.update(self._panel(), refresh=True)
        for number, verdict in self._study.news():
            if isinstance(verdict, str):
                what, _, more = verdict.partition(":")
                self._console.print(Text.assemble(f"trial {number} ", (what, "yellow"), f":{more}"), soft_wrap=True)
                continue
            if verdict.verdict == "rejected":
                continue
            bad = verdict.verdict in {"failed", "broken"}
            if bad or not self._live:
                self._console.print(
                    Text.assemble(
                        f"[{self._study.ended.total()}/{self._study.target}] trial {number} ",
                        (verdict.verdict, "red" if bad else "yellow" if verdict.verdict == "outranked" else "green"),
                        f": {verdict.reason.splitlines()[0]}",
                        "" if self._live else f" · {self._best()} · {self._speed()}",
                    ),
                    soft_wrap=True,
                )

    def _panel(self) -> Group:
        study = self._study
        table = Table.grid(padding=(0, 2))
        ended = study.ended
        table.add_row(
            ProgressBar(total=study.target, completed=ended.total(), width=30),
            f"{ended.total()}/{study.target} trials",
            Text(f"{ended['finished'] + ended['spent']} finished", style="green"),
            Text(f"{ended['outranked']} pruned", style="yellow"),
            Text(f"{ended['failed'] + ended['broken']} failed", style="red"),
            f"{len(study.running)} running",
        )
        running = ", ".join(f"{number} (epoch {epoch})" for number, epoch in sorted(study.running.items()))
        used = [Text(f"budget: {study.account}", style="dim")] if str(study.account) else []
        lines = [Text(f"{self._best()} · {self._speed()}"), *used, Text(f"running: {running or 'none yet'}", style="dim")]
        return Group(table, *lines)

    def _best(self) -> str:
        winner, metric = self._study.found.winner, self._study.space.objective.metric
        if winner is None:
            return "none within the outcome constraints yet" if self._study.found.infeasible else "no trial has finished yet"
        return f"best {metric} {winner.values[0]:.4g}{winner.by()} (trial {winner.number})"

    def _speed(self) -> str:
        elapsed = time.monotonic() - self._start
        speed = f"{self._study.epochs_now / elapsed:.1f} epochs/s" if elapsed > 1 else "starting"
        ended = self._study.ended.total() - self._ended_before
        if ended < self._concurrency:
            return speed
        left = (self._study.target - self._study.ended.total()) * elapsed / ended
        return f"{speed} · about {timedelta(seconds=round(left))} left"
