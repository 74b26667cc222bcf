"""The tables of a report, as text: what stands in which cell. It must not know whether a terminal or a page shows them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import pandas as pd

from analysis.frames import SIZE, Objective, best_rows
from analysis.front import Front
from analysis.importance import Importances, first_rung
from analysis.load import Sweep
from analysis.statistics import Failure, GuardResult, Option, short_names
from analysis.texts import NOTHING, amount, duration, text, thousands

BEST_TRIALS = 10
NEAREST_TRIALS = 5
NEAREST = "Nearest to the outcome constraints: the fewest bounds missed, of these the least in sum."
ORIGINS = ("retries", "continues", "repeats", "replaces")
"""The columns that say which other trial one follows."""


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

    def head(self, count: int) -> Table:
        """The table without the rows after the first `count`."""
        return replace(self, rows=self.rows[:count])

    def only(self, columns: Iterable[int]) -> Table:
        """The table with these columns alone."""
        chosen = list(columns)
        rows = [[row[index] for index in chosen] for row in self.rows]
        numeric, searched = (
            {place for place, index in enumerate(chosen) if index in kind} for kind in (self.numeric, self.searched)
        )
        return Table([self.headers[index] for index in chosen], rows, numeric, self.marked, searched)


def _epochs(row: pd.Series) -> str:
    if pd.isna(row["epochs"]):
        return NOTHING
    best = "" if pd.isna(row["best_epoch"]) else f" ({row['best_epoch']})"
    return f"{row['epochs']}{best}"


def _origin(row: pd.Series) -> str:
    """Which trial it runs again, trains further or takes the place of, if it does."""
    if pd.notna(row["replaces"]):
        return f"replaces {row['replaces']}, from {row['exploits']} at epoch {row['exploits_epoch']}"
    return ", ".join(f"{word} {row[word]}" for word in ORIGINS if pd.notna(row[word]))


def _origins(trials: pd.DataFrame) -> list[str]:
    """The header of the column that tells it, where there is something to tell."""
    return ["origin"] if trials[list(ORIGINS)].notna().any(axis=None) else []


def _seeds(sweep: Sweep) -> list[str]:
    """The header of the column that tells over how many seeds a value is the mean, where there are such."""
    return ["seeds"] if sweep.repeated else []


def _over_seeds(sweep: Sweep) -> Callable[[pd.Series, Objective | str], str]:
    """How a mean stands in a cell: with its standard deviation, where there are several seeds."""
    spread = sweep.configurations.set_index("number") if sweep.repeated else pd.DataFrame()

    def cell(row: pd.Series, what: Objective | str) -> str:
        column = what if isinstance(what, str) else what.column
        shown = text(row[column]) if isinstance(what, str) else amount(what, row[column])
        deviation = spread.at[row["number"], f"{column}.std"] if len(spread) else math.nan
        return f"{shown} ± {deviation:.2g}" if math.isfinite(deviation) and deviation > 0 else shown

    return cell


def best_trials(sweep: Sweep, count: int = BEST_TRIALS) -> Table:
    """The COMPLETE trials with the best values, each configuration once; of several seeds, mean ± standard deviation."""
    short = short_names(sweep.searched)
    test = [sweep.test_metric] if sweep.test_metric else []
    shown = sweep.ranked.head(count)
    origin, seeds, cell = _origins(shown), _seeds(sweep), _over_seeds(sweep)
    facts = ["epochs (best)", "network size", "time", "seed"]
    headers = ["rank", "trial", *origin, *seeds, sweep.metric, *test, *short.values(), *facts]
    rows = []
    for rank, (_, row) in enumerate(shown.iterrows(), start=1):
        cells = [str(rank), str(row["number"]), *(_origin(row) for _ in origin), *(str(row["seeds"]) for _ in seeds)]
        cells += [*(cell(row, name) for name in ["value", *test]), *(text(row[name]) for name in short)]
        rows.append([*cells, _epochs(row), thousands(row["parameters"]), duration(row["seconds"]), text(row["seed"])])
    start = 3 + len(origin) + len(seeds) + len(test)
    return _table(sweep, headers, rows, start, words={2} if origin else set(), marked=0)


def nearest(sweep: Sweep, count: int = NEAREST_TRIALS) -> Table:
    """The COMPLETE trials outside an outcome constraint, by how far they miss; with no row if none is outside."""
    missed = {
        trial.number: [by for by in trial.constraints.values() if by > 0] for trial in sweep.study.get_trials(deepcopy=False)
    }
    outside = sweep.complete[sweep.complete["violated"] != ""].set_index("number", drop=False)
    numbers = sorted(outside.index, key=lambda number: (len(missed[number]), sum(missed[number]), number))
    chosen = [outside.loc[number] for number in numbers[:count]]
    rows = [[str(row["number"]), text(row["value"]), row["violated"]] for row in chosen]
    return Table(["trial", sweep.metric, "misses"], rows, {0, 1})


def ranking(sweep: Sweep, found: Front | None) -> Table:
    """The best trials, or with several objectives the front; with no row if no trial has a value."""
    if sweep.several:
        return front(sweep, found) if found else Table([], [])
    return best_trials(sweep)


def front(sweep: Sweep, found: Front) -> Table:
    """The trials of a Pareto front: every objective, what it is on test data, and what made the trial. None is set off."""
    short = short_names(sweep.searched)
    tests = [column for objective in sweep.objectives if (column := sweep.tested(objective))]
    size = [] if any(objective.metric == SIZE for objective in sweep.objectives) else ["network size"]
    origin, seeds, cell = _origins(found.trials), _seeds(sweep), _over_seeds(sweep)
    values = [objective.metric for objective in sweep.objectives]
    headers = ["trial", *origin, *seeds, *values, *tests, *short.values(), "epochs (best)", *size, "time", "seed"]
    rows = []
    for _, row in found.trials.iterrows():
        cells = [str(row["number"]), *(_origin(row) for _ in origin), *(str(row["seeds"]) for _ in seeds)]
        cells += [cell(row, what) for what in [*sweep.objectives, *tests]]
        cells += [*(text(row[name]) for name in short), _epochs(row), *(thousands(row["parameters"]) for _ in size)]
        rows.append([*cells, duration(row["seconds"]), text(row["seed"])])
    start = 1 + len(origin) + len(seeds) + len(values) + len(tests)
    return _table(sweep, headers, rows, start, words={1} if origin else set())


def all_trials(sweep: Sweep) -> Table:
    """Every trial that ran, with its verdict and the reason for it, at its best epoch by the (first) objective."""
    short = short_names(sweep.searched)
    origin, others = _origins(sweep.trials), sweep.objectives[1:]
    at_best = best_rows(sweep.curves).reindex(sweep.trials["number"])
    metrics = [objective.metric for objective in sweep.objectives]
    outside = ["outside"] if (sweep.trials["violated"] != "").any() else []
    facts = ["epochs (best)", "network size", "time", *outside, "reason"]
    headers = ["trial", "verdict", *origin, *metrics, *short.values(), *facts]
    rows = []
    for _, row in sweep.trials.iterrows():
        reason = row["reason"].splitlines()[0] if row["reason"] else ""
        cells = [str(row["number"]), row["verdict"], *(_origin(row) for _ in origin), text(row["best_seen"])]
        cells += [amount(objective, at_best.at[row["number"], objective.column]) for objective in others]
        cells += [text(row[name]) for name in short]
        cells += [_epochs(row), thousands(row["parameters"]), duration(row["seconds"])]
        rows.append([*cells, *(row["violated"] for _ in outside), reason])
    words = {1, *range(2, 2 + len(origin)), len(headers) - 1, *(len(headers) - 2 for _ in outside)}
    return _table(sweep, headers, rows, 2 + len(origin) + len(metrics), words)


def _table(
    sweep: Sweep, headers: list[str], rows: list[list[str]], start: int, words: set[int], marked: int | None = None
) -> Table:
    """Args: start: the first column of searched parameters; words: the columns flush left, but for those of parameters."""
    words = words | {index for index, name in enumerate(sweep.searched, start) if sweep.trials[name].dtype == "str"}
    searched = set(range(start, start + len(sweep.searched)))
    return Table(headers, rows, set(range(len(headers))) - words, marked, searched)


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


def options(sweep: Sweep, found: list[Option], front: Front | None = None) -> Table:
    """The choices, one row an option. Where trials were pruned, the last column is the median of all at the first rung.

    Args: front: of several objectives; then there is no best, but how many of an option's trials are on the front, and the
        median of each objective.
    """
    rung = first_rung(sweep)
    metrics = [objective.metric for objective in sweep.objectives]
    early = [f"{f'{sweep.metric} ' if sweep.several else ''}at epoch {rung}"] if rung else []
    names = short_names([option.parameter for option in found])
    counted = ["trials", "complete"] if sweep.several else ["trials", "complete", "pruned", "failed"]
    headers = ["choice", *counted, *(["front", *metrics] if sweep.several else ["best", "median"]), *early]
    origins, rows = sweep.origins, []
    on_front = {origins[number] for number in front.numbers} if front else set()
    for option in found:
        counts = (option.trials, option.complete, option.pruned, option.failed)[: len(counted)]
        cells = [str(count) for count in counts]
        chosen = on_front & {origins[number] for number in option.numbers}
        cells.append(str(len(chosen)) if sweep.several else text(option.best))
        cells += [amount(objective, median) for objective, median in zip(sweep.objectives, option.medians, strict=True)]
        cells += [text(option.early_median)] if rung else []
        rows.append([f"{names[option.parameter]}={option.option}", *cells])
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
