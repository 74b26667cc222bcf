"""What `list` and `status` print: overviews as lines, once or until a sweep ends. It changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sweeps.errors import LedgerError
from sweeps.ledger import Ledger
from sweeps.overview import Overview, Running, overview, overviews
from sweeps.quota import Stock

WATCH_SECONDS = 1.0
BAR = 20
COLOURS = {"running": "cyan", "interrupted": "yellow", "complete": "green", "failed": "red", "unreadable": "red"}


def show_list(root: Path, console: Console) -> None:
    """One line a sweep, the latest last."""
    found = overviews(root)
    if root.exists() and not root.is_dir():
        raise LedgerError(f"{root} is no directory: name the one that sweeps live in, with RUNS=….")
    if not found:
        console.print(f"no sweep in {root}/ yet: start one with `make sweep NAME=…`", soft_wrap=True)
        return
    rows = [("sweep", "state", "trials", "best", "last trial", "ends")]
    problems = []
    for name, seen in found:
        if isinstance(seen, Overview):
            best = f"{seen.best[1]:.4g} ({seen.best[0]})" if seen.best else "–"
            last = f"{seen.last:%Y-%m-%d %H:%M}" if seen.last else "–"
            rows.append((name, seen.state, f"{seen.ended.total()}/{seen.target}", best, last, seen.ends()))
        else:
            rows.append((name, "unreadable", "–", "–", "–", "–"))
            problems.append(str(seen))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for index, row in enumerate(rows):
        line = Text("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        line.stylize("bold" if index == 0 else COLOURS[row[1]], widths[0] + 2, widths[0] + 2 + widths[1])
        console.print(line, soft_wrap=True)
    for problem in problems:
        console.print(Text.assemble(("unreadable", "red"), f": {problem}"), soft_wrap=True)


def show_status(ledger: Ledger, console: Console, watch: bool = False, pause: Callable[[float], None] = time.sleep) -> None:
    """How the sweep stands; with `watch` again and again until nobody runs it any more.

    In a terminal the lines are drawn anew; elsewhere each change of the first ones is a line of its own.

    Args: pause: waits so many seconds before the sweep is looked at again.

    Raises:
        LedgerError: there is no such sweep, or it cannot be read.
    """
    seen = overview(ledger)
    if not watch:
        console.print(_text(seen), soft_wrap=True)
        return
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            live.update(_text(seen), refresh=True)
            while seen.state == "running":
                pause(WATCH_SECONDS)
                live.update(_text(seen := overview(ledger)), refresh=True)
        return
    said = None
    while seen.state == "running":
        if (line := _line(seen)) != said:
            console.print(line, soft_wrap=True)
            said = line
        pause(WATCH_SECONDS)
        seen = overview(ledger)
    console.print(_text(seen), soft_wrap=True)


def _line(seen: Overview) -> str:
    return f"[{seen.ended.total()}/{seen.target}] {seen.ends()} · {seen.best_text()}"


def _text(seen: Overview) -> Text:
    text = Text.assemble(
        (seen.ledger.name, "bold"),
        ": ",
        (seen.state, COLOURS[seen.state]),
        f" ({seen.holder})" if seen.holder else "",
        f", {seen.ended.total()} of {seen.target} trials ended\n",
        f"  {seen.ends()}\n",
        f"  {seen.best_text()}",
        f", {seen.ledger.trial(seen.best[0]).directory}" if seen.best else "",
    )
    if seen.budget:
        text.append(f"\n  budget: {seen.budget}")
    if stock := Stock.of(seen.ledger):
        text.append(f"\n  {stock}")
    if seen.left is not None:
        text.append(f"\n  about {seen.left} left")
    for trial in seen.running:
        text.append(f"\n  {_progress(trial, 'runs' if seen.state == 'running' else 'was interrupted')}")
    if seen.state == "interrupted":
        text.append(f"\n  go on with: {seen.more or seen.ledger.command('resume')}")
    elif seen.state == "failed":
        text.append(f"\n  why: {seen.ledger.command('report')}; once it is mended: {seen.ledger.command('resume')}")
    return text


def _progress(trial: Running, what: str) -> str:
    value = "  " + " / ".join(f"{value:.4g}" for value in trial.values) if trial.values else ""
    if trial.max_epochs is None:
        return f"trial {trial.number} {what}: epoch {trial.epoch}{value}"
    done = round(BAR * min(1.0, trial.epoch / trial.max_epochs))
    return f"trial {trial.number} {what}: {'█' * done}{'░' * (BAR - done)} epoch {trial.epoch}/{trial.max_epochs}{value}"
