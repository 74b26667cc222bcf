"""All that a report says about a sweep, computed once: a terminal and a page show the same.

Sentences and commands are made here; what they look like is the business of `terminal.py` and `page.py`.
"""

from __future__ import annotations

import io
import math
import shlex
from dataclasses import dataclass
from datetime import datetime

from analysis import selection, tables
from analysis.frames import for_parquet
from analysis.front import Front, front
from analysis.importance import Importances, importances
from analysis.load import Sweep
from analysis.statistics import Failure, GuardResult, Headline, Option, failures, guard, headline, options
from analysis.texts import counted, duration, listed
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
    selection: selection.Selection | None
    """Of one objective, if a trial has a value."""
    front: Front | None
    """Of several objectives, if a trial has values."""
    importances: list[Importances]
    options: list[Option]
    guard: GuardResult
    failures: list[Failure]

    @property
    def unfinished(self) -> bool:
        """Whether trials are running, were interrupted, or are still to come."""
        return self.headline.ended < max(self.headline.trials, self.sweep.target or 0)

    @property
    def chosen(self) -> int | None:
        """The best trial; of several objectives, the front's best by the first."""
        if self.selection:
            return self.selection.best
        return self.front.numbers[0] if self.front else None

    @property
    def highlighted(self) -> tuple[int, ...]:
        """The trials that figures set off: the best one, or the front."""
        return self.front.numbers if self.front else (self.selection.best,) if self.selection else ()

    @property
    def ranking(self) -> str:
        """The title of the table of the best trials, or of the front."""
        named = [f"{objective.metric} ({objective.mode})" for objective in self.sweep.objectives]
        if self.sweep.several:
            return f"Pareto front of {listed(named)}{', by means over seeds' if self.sweep.repeated else ''}"
        return f"Best configurations by mean {named[0]}" if self.sweep.repeated else f"Best trials by {named[0]}"

    @property
    def sentences(self) -> tuple[str, ...]:
        """How sure the best trial, or the front, is."""
        found = self.selection or self.front
        return found.sentences if found else ()

    @property
    def no_value(self) -> str:
        """What is said where a table of the best trials would stand, if none has a value."""
        line = self.headline
        if not line.trials:
            return "No trial has run yet."
        yet = " yet" if self.unfinished and not self.hopeless else ""
        if outside := selection.outside(self.sweep):
            return f"No trial is within the outcome constraints{yet}. {outside[0]}"
        return f"No trial has finished with a value{yet}."

    @property
    def nearest(self) -> tables.Table:
        """The trials that come near to the outcome constraints, where none is within them."""
        return tables.nearest(self.sweep) if self.chosen is None else tables.Table([], [])

    @property
    def hopeless(self) -> bool:
        """Whether the sweep stopped itself because its first trials all ended for one bad reason."""
        sessions = self.sweep.manifest.get("sessions", [])
        return not self.sweep.running and bool(sessions) and sessions[-1].get("end") == "hopeless"

    def status(self) -> str:
        """The headline in one sentence."""
        line = self.headline
        named = ", ".join(f"{count} {verdict}" for verdict, count in line.counts.items() if count)
        asked = f" of {self.sweep.target}" if self.sweep.target else ""
        rejected = f"; {self._refused()}" if line.refused else ""
        stopped = "; stopped, since the first trials all ended for one bad reason" if self.hopeless else ""
        return f"{line.trials}{asked} trials: {named or 'none has started'}{rejected}{stopped}"

    def _refused(self) -> str:
        (why, count), *others = self.headline.refused.items()
        return ", ".join([f"{counted(count, 'proposal')} {why}", *(f"{count} {why}" for why, count in others)])

    def again(self) -> str:
        """How retried, continued and repeated trials are counted, and what the sampler knew; empty if there are none."""
        line, told = self.headline, []
        if line.retries:
            told.append(f"{counted(line.retries, 'trial')} retried a failed one, in whose place it counts in all statistics")
        if line.continuations:
            told.append(
                f"{counted(line.continuations, 'trial')} trained another further; statistics of what mattered and of choices "
                "leave such trials out, and the better of the two stands for both among the best"
            )
        if line.repeats:
            told.append(
                f"{counted(line.repeats, 'trial')} ran another's parameters with another seed: a configuration counts once, "
                "in statistics with its first seed"
            )
        for source in self.sweep.manifest.get("from", []):
            told.append(f"{counted(source['trials'], 'trial')} of the sweep {source['sweep']} informed the sampler")
        return f"{'; '.join(told)}." if told else ""

    def pace(self) -> str:
        """Times and rates in one sentence."""
        line = self.headline
        rate = (
            f" · {line.trials_per_hour:.{0 if line.trials_per_hour >= 10 else 1}f} trials an hour"
            if line.ended and line.busy_seconds
            else ""
        )
        budget = f" · budget: {self.sweep.budget}" if self.sweep.budget else ""
        trained = f"{line.epochs} epochs in {duration(line.trial_seconds)} of training"
        sizes = self.sweep.ledger.checkpoint_files().values()
        stored = f" · {counted(len(sizes), 'checkpoint')} of {sum(sizes) / 2**20:.1f} MiB" if sizes else ""
        return f"{duration(line.busy_seconds)}{rate} · {trained}{stored}{budget}"

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
                f"In shadow mode the guard would have ended {counted(sum(found.shadow.values()), 'trial')} ({kinds}) and saved "
                f"{found.shadow_saved} epochs, {found.shadow_share:.0%} of all that ran."
            )
            if math.isfinite(found.shadow_regret):
                same = found.shadow_regret == 0
                regretted = "Regret in the first objective" if self.sweep.several else "Regret"
                regret = "the same" if same else f"worse by {found.shadow_regret:.3g}"
                told.append(
                    f"{regretted}: the sweep's best {self.sweep.metric} would have been {regret}. This compares the trials "
                    "that ran; what the sampler would have tried with the epochs saved is not known."
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
        if self.sweep.running:
            told.append((f"make status {name}{where} ARGS=--watch", "watch it"))
        elif self.unfinished:
            mended = "go on, once what made the first trials fail is mended" if self.hopeless else "finish it"
            told.append((f"make resume {name}{where}", mended))
        elif self.chosen is not None or self.nearest.rows:
            told.append((f"make extend {name} TRIALS=+10{where}", "ten more trials"))
        if not self.unfinished and (near := self.nearest.rows):
            told.append((f"make promote {name} TRIAL={near[0][0]}{where}", "take the nearest one, which misses as shown above"))
            other = shlex.quote(f"{self.sweep.name}2")
            told.append((f"make sweep NAME=SPACE AS={other}{where}", "another sweep, with looser bounds in its search space"))
        if self.failures:
            first = self.failures[0]
            told.append((f"make debug {name} TRIAL={first.numbers[0]}{where}", f"replay a trial that {_ended(first)}"))
            if self.retryable and not self.sweep.running:
                told.append((f"make retry {name}{where}", f"run {counted(self.retryable, 'failed trial')} again"))
        if self.chosen is not None:
            which = f"the front's best by {self.sweep.metric}" if self.front else "the best"
            told.append((f"make debug {name} TRIAL={self.chosen}{where}", f"replay {which} in this process"))
            overrides = self.sweep.trials.set_index("number").at[self.chosen, "overrides"]
            if overrides:
                told.append((f"python -m lhtx.train {shlex.join(overrides)}", f"train {which} again, by hand"))
        return told

    @property
    def retryable(self) -> int:
        """How many failed or broken trials nothing has retried yet."""
        return int(self.sweep.independent["verdict"].isin(["failed", "broken"]).sum())


def build(sweep: Sweep) -> Report:
    """Compute everything that a report of `sweep` says."""
    return Report(
        sweep=sweep,
        made=datetime.now().astimezone(),
        headline=headline(sweep),
        selection=selection.selection(sweep),
        front=front(sweep),
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


def _ended(failure: Failure) -> str:
    return "failed" if failure.verdict == "failed" else "broke"
