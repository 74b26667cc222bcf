"""Train a recorded trial again, and compare what it says with what it said then, epoch by epoch and bit by bit; up to rounding
where trials train as one."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from sweeps import manifest, quota
from sweeps.attributes import ALONE
from sweeps.continuation import begin_again
from sweeps.debug import recorded_trial
from sweeps.errors import SweepError
from sweeps.hydra_overrides import key_of, parse, value_of
from sweeps.ledger import CONTINUES, Ledger, TrialFiles, read_history
from sweeps.process import TrialProcess

EXIT_SAME, EXIT_DIFFERS = 0, 1
ROUNDING = 1e-3
"""So much may metrics differ of trials that train as one: rounding depends on who the others are, and training lets it grow."""
_NO_METRIC = ("epoch", "seconds", "verdict")

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Difference:
    """How one metric differs."""

    metric: str
    largest: float
    """The largest absolute difference; infinite where only one of the two has a value, or a finite one."""
    first: int
    """The first epoch at which it differs."""
    relative: float
    """The largest difference to what was recorded, or to 1 where that is smaller."""


def reproduce(ledger: Ledger, number: int, console: Console) -> int:
    """Train trial `number` again in a temporary directory; 0 if its history is the recorded one, 1 if it is not.

    Raises:
        SweepError: the sweep has no such trial, it never ran, or it has no history.
        LedgerError: its history is damaged.
    """
    trial = recorded_trial(ledger, number)
    recorded = read_history(ledger.trial(number).history)
    if not recorded:
        raise SweepError(f"Trial {number} of the sweep {ledger.name!r} has no history: there is nothing to compare with.")
    then = manifest.session_at(ledger.manifest(), trial.datetime_start)
    for line in changed(then, manifest.session([])):
        console.print(Text.assemble(("not as then", "yellow"), f": {line}"), soft_wrap=True)
    if CONTINUES in trial.user_attrs:
        console.print(f"trial {number} continued trial {trial.user_attrs[CONTINUES]}: it is trained again from its beginning")
    last = recorded[-1]["epoch"]
    console.print(f"trial {number} of {ledger.name} is trained again for {last} epochs")
    files = ledger.trial(number)
    if (source := quota.require_start(ledger, trial)) is not None:
        console.print(f"trial {number} is a copy of trial {source}: it starts from {files.start_checkpoint}", soft_wrap=True)
    left = trial.user_attrs.get(ALONE)
    fused = ledger.space().group_size > 1 and left != 0
    if left:
        console.print(
            f"trial {number} trained with others until epoch {left}, and then by itself, where dropout and augmentation draw "
            "other numbers: it is trained again as if it had not left them",
            soft_wrap=True,
        )
    again, error = train(trial.user_attrs["overrides"], number, last, files, fused)
    if error is not None:
        console.print(Text.assemble(("it failed", "red"), f" after {len(again)} of {last} epochs: {error}"), soft_wrap=True)
        return EXIT_DIFFERS
    different = compare(recorded, again)
    if fused and different and max(each.relative for each in different) <= ROUNDING:
        largest = max(different, key=lambda difference: difference.relative)
        console.print(
            f"reproduced over {len(recorded)} epochs, up to the rounding of networks that train as one: at most "
            f"{largest.largest:.2g}, of {largest.metric}"
        )
        return EXIT_SAME
    metrics = {name for row in recorded for name in row} - set(_NO_METRIC)
    if not different:
        console.print(f"reproduced: {len(metrics)} metrics over {len(recorded)} epochs, to the bit")
        return EXIT_SAME
    console.print(
        Text.assemble(("not reproduced", "red"), f": {len(different)} of {len(metrics)} metrics differ (largest difference)"),
        soft_wrap=True,
    )
    for each in sorted(different, key=lambda difference: (difference.first, difference.metric)):
        console.print(f"  {each.metric}: {each.largest:.3g}, from epoch {each.first}", soft_wrap=True)
    return EXIT_DIFFERS


def train(
    overrides: Sequence[str], number: int, epochs: int, files: TrialFiles, fused: bool = False
) -> tuple[list[dict[str, Any]], str | None]:
    """Run a trial for so many epochs, in a process with the threads that it was allotted: a row an epoch, and why it failed.

    Args:
        files: the trial's, where the start of a copy lies.
        fused: as one of those that train as one, of which it is the only one.
    """
    threads = value_of(overrides, "threads")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        begin_again(files, TrialFiles(Path(directory)))
        gpu = any(key_of(text) == "trainer.accelerator" and parse(text).value() != "cpu" for text in overrides)
        process = TrialProcess(threads or manifest.cpus(), gpu)
        try:
            assignment = {"number": number, "overrides": list(overrides), "directory": str(Path(directory).resolve())}
            process.start(assignment, fused=fused)
            while not rows or rows[-1]["epoch"] < epochs:
                message = process.next()
                if message["kind"] == "failed":
                    return rows, message["error"]
                reports = message.get("reports", [message])
                if message["kind"] in {"finished", "over"} or not reports:
                    return rows, "it ended by itself"
                rows.append({"epoch": reports[0]["epoch"], **reports[0]["metrics"]})
        finally:
            process.close()
    return rows, None


def compare(recorded: Rows, again: Rows) -> list[Difference]:
    """The metrics in which two histories differ at all. NaN equals NaN."""
    found: dict[str, Difference] = {}
    by_epoch = {row["epoch"]: row for row in again}
    for row in recorded:
        other = by_epoch.get(row["epoch"], {})
        for name in sorted({*row, *other} - set(_NO_METRIC)):
            apart = _apart(row.get(name), other.get(name))
            if apart:
                before = found.get(name, Difference(name, 0.0, row["epoch"], 0.0))
                relative = apart / max(1.0, abs(row.get(name, 1.0)))
                found[name] = Difference(name, max(before.largest, apart), before.first, max(before.relative, relative))
    return list(found.values())


def _apart(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    apart = abs(one - other)
    return math.inf if math.isnan(apart) else apart


def changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, what of code, versions and machine is not as it was."""
    found = []
    for part, words in (("code", "code"), ("versions", "version of"), ("machine", "machine's")):
        before, after = then.get(part, {}), now.get(part, {})
        for name in before:
            if before[name] != after.get(name):
                big = name in {"diff", "untracked"}
                shown = "differs" if big else f"{before[name]} → {after.get(name)}"
                found.append(f"{words} {name}: {shown}")
    return found
