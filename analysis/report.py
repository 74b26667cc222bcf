"""All that a report says about a sweep, computed once: a terminal and a page show the same.

Sentences and commands are made here; what they look like is the business of `terminal.py` and `page.py`.
"""

from __future__ import annotations

import io
import math
import shlex
from dataclasses import dataclass
from datetime import datetime

from analysis.importance import Importances, importances
from analysis.load import Sweep, for_parquet
from analysis.selection import Selection, selection
from analysis.statistics import Failure, GuardResult, Headline, Option, failures, guard, headline, options
from analysis.tables import duration
from sweeps.ledger import DEFAULT_ROOT, write_atomically

IMPORTANCE_NOTE = (
    "Importance: how differently a parameter's values are distributed among the best trials than among all of them "
    "(PED-ANOVA), as shares of 100 %. A parameter that is active under a condition only counts where it is active. "
    "Chance: the share that shuffled values reach in one shuffle of twenty: so often an idle parameter passes it by luck."
)


@dataclass(frozen=True)
class Report:
    """A sweep and what its trials amount to."""

    sweep: Sweep
    made: datetime
    headline: Headline
    selection: Selection | None
    importances: list[Importances]
    options: list[Option]
    guard: GuardResult
    failures: list[Failure]

    @property
    def unfinished(self) -> bool:
        """Whether trials are running, were interrupted, or are still to come."""
        return self.headline.counts["running"] > 0 or self.headline.ended < (self.sweep.target or 0)

    def status(self) -> str:
        """The headline in one sentence."""
        counts = self.headline.counts
        named = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        asked = f" of {self.sweep.target}" if self.sweep.target else ""
        rejected = f"; {self.headline.rejected} proposals rejected by constraints" if self.headline.rejected else ""
        return f"{self.headline.trials}{asked} trials: {named or 'none has started'}{rejected}"

    def pace(self) -> str:
        """Times and rates in one sentence."""
        line = self.headline
        rate = (
            f" · {line.trials_per_hour:.{0 if line.trials_per_hour >= 10 else 1}f} trials an hour"
            if line.ended and line.busy_seconds
            else ""
        )
        return f"{duration(line.busy_seconds)}{rate} · {line.epochs} epochs in {duration(line.trial_seconds)} of training"

    def guard_sentences(self) -> list[str]:
        """What stopping early did, and what a guard in shadow mode would have done."""
        found, told = self.guard, []
        if found.stopped:
            kinds = ", ".join(f"{count} {verdict}" for verdict, count in found.stopped.items())
            least = "" if found.budget_known else "at least "
            told.append(
                f"Stopped early: {kinds}; {least}{found.saved_epochs} epochs saved. What those trials would have reached "
                "is not known."
            )
        if found.shadow:
            kinds = ", ".join(f"{count} {verdict}" for verdict, count in found.shadow.items())
            told.append(
                f"In shadow mode the guard would have ended {_trials(sum(found.shadow.values()))} ({kinds}) and saved "
                f"{found.shadow_saved} epochs, {found.shadow_share:.0%} of all that ran."
            )
            if math.isfinite(found.shadow_regret):
                same = found.shadow_regret == 0
                regret = "the same" if same else f"worse by {found.shadow_regret:.3g}"
                told.append(
                    f"Regret: the sweep's best {self.sweep.metric} would have been {regret}. This compares the trials that "
                    "ran; what the sampler would have tried with the epochs saved is not known."
                )
            elif found.shadow_losses:
                told.append("Regret: no finished trial would have been left.")
        return told or ["No trial was stopped early, and a guard in shadow mode, if there was one, saw no reason to."]

    def commands(self) -> list[tuple[str, str]]:
        """What to do next: (command, what it does)."""
        root = self.sweep.ledger.root
        where = "" if root == DEFAULT_ROOT else f" RUNS={shlex.quote(str(root))}"
        name = f"NAME={shlex.quote(self.sweep.name)}"
        told = []
        if self.unfinished:
            told.append((f"make resume {name}{where}", "finish it, if it is not running now"))
        else:
            told.append((f"make extend {name} TRIALS=+10{where}", "ten more trials"))
        if self.failures:
            first = self.failures[0]
            told.append((f"make debug {name} TRIAL={first.numbers[0]}{where}", f"replay a trial that {_ended(first)}"))
        if self.selection:
            best = self.selection.best
            told.append((f"make debug {name} TRIAL={best}{where}", "replay the best trial in this process"))
            overrides = self.sweep.trials.set_index("number").at[best, "overrides"]
            if overrides:
                told.append((f"python -m lhtx.train {shlex.join(overrides)}", "train the best again, by hand"))
        return told


def build(sweep: Sweep) -> Report:
    """Compute everything that a report of `sweep` says."""
    return Report(
        sweep=sweep,
        made=datetime.now().astimezone(),
        headline=headline(sweep),
        selection=selection(sweep),
        importances=importances(sweep),
        options=options(sweep),
        guard=guard(sweep),
        failures=failures(sweep),
    )


def write_results(sweep: Sweep) -> None:
    """Write the trials frame to the ledger's `results.parquet`."""
    buffer = io.BytesIO()
    for_parquet(sweep.trials).to_parquet(buffer, index=False)
    write_atomically(sweep.ledger.results_file, buffer.getvalue())


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"


def _ended(failure: Failure) -> str:
    return "failed" if failure.verdict == "failed" else "broke"
