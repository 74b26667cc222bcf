"""The tables of a report, as text: what stands in which cell. It must not know whether a terminal or a page shows them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.importance import Importances, first_rung
from analysis.load import Sweep
from analysis.statistics import Failure, GuardResult, Option, short_names

NOTHING = "–"
BEST_TRIALS = 10


@dataclass(frozen=True)
class Table:
    """Headers and rows of text. `numeric`: the columns that are set flush right."""

    headers: list[str]
    rows: list[list[str]]
    numeric: set[int] = field(default_factory=set)
    marked: int | None = None
    """A row to set off from the others."""
    searched: set[int] = field(default_factory=set)
    """The columns of searched parameters."""


def text(value: Any) -> str:
    """A value for a reader: four significant digits, a dash for what is not there.

    >>> text(0.123456), text(3), text(1e-5), text(float("nan")), text(None), text(True)
    ('0.1235', '3', '1e-05', '–', '–', 'True')
    """
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(4.26), duration(42.4), duration(150), duration(7300), duration(float("nan"))
    ('4.3 s', '42 s', '2 min 30 s', '2 h 1 min', '–')
    """
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _thousands(count: Any) -> str:
    return NOTHING if pd.isna(count) else f"{int(count):,}".replace(",", "\u202f")


def _epochs(row: pd.Series) -> str:
    if pd.isna(row["epochs"]):
        return NOTHING
    best = "" if pd.isna(row["best_epoch"]) else f" ({row['best_epoch']})"
    return f"{row['epochs']}{best}"


def best_trials(sweep: Sweep, count: int = BEST_TRIALS) -> Table:
    """The COMPLETE trials with the best values."""
    short = short_names(sweep.searched)
    test = [sweep.test_metric] if sweep.test_metric else []
    headers = ["rank", "trial", sweep.metric, *test, *short.values(), "epochs (best)", "network size", "time", "seed"]
    rows = []
    for rank, (_, row) in enumerate(sweep.complete.head(count).iterrows(), start=1):
        cells = [str(rank), str(row["number"]), text(row["value"]), *(text(row[name]) for name in [*test, *short])]
        rows.append([*cells, _epochs(row), _thousands(row["parameters"]), duration(row["seconds"]), text(row["seed"])])
    start = 3 + len(test)
    words = {index for index, name in enumerate(short, start) if sweep.trials[name].dtype == "str"}
    return Table(headers, rows, set(range(len(headers))) - words, marked=0, searched=set(range(start, start + len(short))))


def all_trials(sweep: Sweep) -> Table:
    """Every trial that ran, with its verdict and the reason for it."""
    short = short_names(sweep.searched)
    headers = ["trial", "verdict", sweep.metric, *short.values(), "epochs (best)", "network size", "time", "reason"]
    rows = []
    for _, row in sweep.trials.iterrows():
        reason = row["reason"].splitlines()[0] if row["reason"] else ""
        cells = [str(row["number"]), row["verdict"], text(row["best_seen"]), *(text(row[name]) for name in short)]
        rows.append([*cells, _epochs(row), _thousands(row["parameters"]), duration(row["seconds"]), reason])
    words = {index for index, name in enumerate(short, start=3) if sweep.trials[name].dtype == "str"}
    return Table(headers, rows, set(range(len(headers) - 1)) - words - {1})


def importances(found: Importances) -> Table:
    """Shares of importance, the largest first; those that chance alone could give are said to be so."""
    rows = [
        [
            parameter.parameter,
            f"{parameter.share:.0%}",
            f"{parameter.chance:.0%}" if parameter.chance <= 1 else "> 100%",
            "above chance" if parameter.above_chance else "not above chance",
            "all" if parameter.active == found.trials else f"{parameter.active} of {found.trials}",
        ]
        for parameter in found.parameters
    ]
    return Table(["parameter", "importance", "chance (95 %)", "", "active in"], rows, {1, 2, 4})


def options(sweep: Sweep, found: list[Option]) -> Table:
    """The choices, one row an option. Where trials were pruned, the last column is the median of all at the first rung."""
    rung = first_rung(sweep)
    early = [f"at epoch {rung}"] if rung else []
    names = short_names([option.parameter for option in found])
    headers = ["choice", "trials", "complete", "pruned", "failed", "best", "median", *early]
    rows = []
    for option in found:
        counts = [str(count) for count in (option.trials, option.complete, option.pruned, option.failed)]
        values = [text(option.best), text(option.median), *([text(option.early_median)] if rung else [])]
        rows.append([f"{names[option.parameter]}={option.option}", *counts, *values])
    return Table(headers, rows, set(range(1, len(headers))))


def shadow(sweep: Sweep, found: GuardResult) -> Table:
    """What a guard in shadow mode would have cost the COMPLETE trials that it would have ended."""
    rows = [
        [str(number), verdict, str(epoch), text(loss) if math.isfinite(loss) else "all of it"]
        for number, verdict, epoch, loss in found.shadow_losses
    ]
    return Table(["trial", "would have been", "at epoch", f"{sweep.metric} lost"], rows, {0, 2, 3})


def failures(found: list[Failure]) -> Table:
    """The reasons, the most frequent first."""
    return Table(["verdict", "trials", "reason", "which"], [_failure(failure) for failure in found], {1})


def _failure(failure: Failure) -> list[str]:
    which = ", ".join(map(str, failure.numbers[:8])) + (", …" if len(failure.numbers) > 8 else "")
    reason = failure.reason.strip() or "no reason was recorded"
    return [failure.verdict, str(len(failure.numbers)), reason.splitlines()[0], which]


def sessions(sweep: Sweep) -> Table:
    """When the sweep was run and resumed, by which command, of which code."""
    rows = []
    for session in sweep.manifest.get("sessions", []):
        code = session.get("code", {})
        changed = " with changes" if code.get("diff") else ""
        commit = f"{code['commit'][:12]}{changed}" if code.get("commit") else "no commit"
        versions = ", ".join(f"{name} {version}" for name, version in session.get("versions", {}).items())
        machine = session.get("machine", {})
        where = f"{machine.get('system', NOTHING)}, {machine.get('cpus', '?')} CPUs" if machine else NOTHING
        rows.append([str(session.get("started", NOTHING)), str(session.get("command", NOTHING)), commit, where, versions])
    return Table(["started", "command", "code", "machine", "versions"], rows)
