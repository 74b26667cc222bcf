"""The truth about every trial, told to the Optuna study as it happens: asked, reported, ended, and why.

It must not know Ray: `searcher.py` brings Tune's questions and events here, and `debug` and the tests do so directly.
"""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lhtx.files import write_atomically
from sweeps import proposals
from sweeps.errors import LedgerError
from sweeps.ledger import History, Ledger, read_history
from sweeps.space import SearchSpace, complete_start, overrides, suggest, violated
from sweeps.stopping import Guard, Report, SuccessiveHalving, Verdict, objective_not_finite

SHADOW = "shadow "
"""What stands before a verdict in a history that a guard in shadow mode did not act on."""
SAME_FAILURES = 3
"""If the first so many trials all fail for one reason, the reason is the sweep's and not theirs."""
SAME_BREAKS = 6
"""The same for trials that broke (not finite, dead): single settings do, whole sweeps rarely."""

_STATES = {
    "finished": TrialState.COMPLETE,
    "spent": TrialState.COMPLETE,
    "outranked": TrialState.PRUNED,
    "broken": TrialState.FAIL,
    "failed": TrialState.FAIL,
    "rejected": TrialState.FAIL,
}


class End(Enum):
    """Why a sweep ended before it had all its trials."""

    HOPELESS = "hopeless"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"
    BUDGET = "budget"


def create_study(ledger: Ledger, space: SearchSpace) -> optuna.Study:
    """A new study in the ledger's storage, with the trials to start with enqueued."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=ledger.name,
        storage=ledger.storage,
        direction="maximize" if space.objective.mode == "max" else "minimize",
    )
    study.set_user_attr("metric", space.objective.metric)
    study.set_user_attr("mode", space.objective.mode)
    for start in space.search.start_with:
        study.enqueue_trial(complete_start(space, start))
    return study


class SweepStudy:
    """A sweep's trials, from the first proposal to the last verdict.

    One driver at a time holds it (`Ledger.lock`). Everything that it knows is rebuilt from the study and the histories,
    so a driver may be killed at any instant: a trial that was running is proposed again under its own number.
    """

    def __init__(self, ledger: Ledger, space: SearchSpace, network_size: proposals.NetworkSize) -> None:
        """Args: network_size: the parameter count of a composed list of overrides, for constraints that ask for it."""
        self.ledger, self.space = ledger, space
        self._network_size = network_size
        self.study = ledger.study()
        self._storage = ledger.storage
        mode, stopping = space.objective.mode, space.stopping
        self._sign = 1.0 if mode == "max" else -1.0
        self._halving = (
            SuccessiveHalving(mode, stopping.grace_epochs, stopping.reduction_factor, stopping.tolerance)
            if stopping.scheduler == "asha"
            else None
        )
        guard = stopping.guard
        self._guard = (
            Guard(mode, guard.explode_factor, guard.patience, guard.min_gain, guard.min_peers) if guard.mode != "off" else None
        )
        self.ended: Counter[str] = Counter()
        self.running: dict[int, int] = {}
        """Trials that have been started: number → epochs done."""
        self.best: tuple[int, float] | None = None
        self.epochs_now = 0
        """Epochs reported to this driver, for the display."""
        self._interrupted: deque[FrozenTrial] = deque()
        self._proposed: set[int] = set()
        self._ids: dict[int, int] = {}
        self._best_of: dict[int, float] = {}
        self._histories: dict[int, History] = {}
        self._offsets: dict[int, float] = {}
        self._seconds: dict[int, float] = {}
        self._reasons: list[tuple[str, str]] = []
        self._max_epochs: dict[int, int] = {}
        self._news: deque[tuple[int, Verdict]] = deque()
        self._restore()

    def _restore(self) -> None:
        trials = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
        self.study.sampler = proposals.make_sampler(self.space, len(trials))
        for trial in trials:
            self._ids[trial.number] = trial._trial_id
            verdict = trial.user_attrs.get("verdict")
            if trial.state == TrialState.RUNNING and "overrides" not in trial.user_attrs:
                if verdict is None:
                    self._end(trial.number, Verdict("rejected", "the driver was killed while it was being proposed"))
                    if fixed := trial.system_attrs.get("fixed_params"):  # one of those to start with
                        self.study.enqueue_trial(fixed)
                else:
                    self._close(trial.number, verdict["verdict"])
                continue
            self._replay(trial, verdict)
            if trial.state == TrialState.RUNNING:
                if verdict is None:
                    self._interrupted.append(trial)
                    continue
                # The driver was killed between writing the verdict down and ending the trial.
                History.open(self.ledger.trial(trial.number).history).conclude(f"{verdict['verdict']}: {verdict['reason']}")
                self._close(trial.number, verdict["verdict"])
            if verdict is None:
                raise LedgerError(
                    f"{self.ledger.study_file}: trial {trial.number} is {trial.state.name} without a verdict: "
                    "something else than this sweep has ended it."
                )
            self._count(trial.number, verdict["verdict"])

    def _replay(self, trial: FrozenTrial, verdict: Mapping[str, Any] | None) -> None:
        """Bring halving and guard up to date with what an earlier driver was told of `trial`."""
        history = {row["epoch"]: row for row in read_history(self.ledger.trial(trial.number).history)}
        max_epochs = trial.user_attrs.get("max_epochs", math.inf)
        for epoch, value in sorted(trial.intermediate_values.items()):
            row = history.get(epoch, {"verdict": "unknown"})
            if verdict is None and row["verdict"] and not row["verdict"].startswith(SHADOW):
                return  # the driver was killed while it judged this epoch, which the trial will say again
            metrics = {name: cell for name, cell in row.items() if name != "verdict"}
            report = Report(trial.number, epoch, max_epochs, value, metrics)
            self._note_value(report)
            if objective_not_finite(report):
                return
            if self._guard is not None:
                self._guard.judge(report)
            guarded = verdict is not None and verdict["verdict"] in {"broken", "spent"} and verdict["epoch"] == epoch
            if self._halving is not None and not guarded:  # what the guard ends never reaches its rung
                self._halving.judge(report)

    @property
    def started(self) -> int:
        """Trials that run or ran: those that constraints rejected do not count."""
        return self.ended.total() + len(self._proposed) + len(self._interrupted)

    @property
    def interrupted(self) -> int:
        """Trials that an earlier driver left unfinished and that have not been started again yet."""
        return len(self._interrupted)

    @property
    def target(self) -> int:
        return self.space.search.trials

    @property
    def complete(self) -> bool:
        """Whether every trial that the sweep asked for has ended."""
        return self.ended.total() >= self.target

    def propose(self) -> dict[str, Any] | None:
        """The next trial's assignment (`sweeps.trial.Assignment` as a message); None when the sweep has all it asked for.

        Raises:
            SpaceError: the constraints refused `MAX_REJECTIONS` proposals in a row.
        """
        if self._interrupted:
            trial = self._interrupted.popleft()
            return self._assign(trial.number, trial.user_attrs["overrides"])
        rejections = 0
        while self.started < self.target and rejections < proposals.MAX_REJECTIONS and not self.hopeless:
            trial = self.study.ask()
            self._ids[trial.number] = trial._trial_id
            parameters = suggest(self.space, trial)
            try:
                broken = violated(self.space, parameters, partial(self._network_size, overrides(self.space, parameters)))
            except ValueError as error:  # a combination that does not compose is this trial's failure, not the sweep's
                self._end(trial.number, Verdict("failed", f"{type(error).__name__}: {error}"))
                continue
            if broken is None:
                chosen = proposals.assemble(self.space, parameters, trial.number)
                trial.set_user_attr("overrides", chosen)
                return self._assign(trial.number, chosen)
            self._end(trial.number, Verdict("rejected", f"constraint {broken}"))
            rejections += 1
        if rejections < proposals.MAX_REJECTIONS:
            return None
        raise proposals.too_tight(self.space)

    def _assign(self, number: int, chosen: list[str]) -> dict[str, Any]:
        files = self.ledger.trial(number)
        files.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(files.overrides, "\n".join(chosen) + "\n")
        self._histories[number] = History.open(files.history)
        self._proposed.add(number)
        self._new_attempt(number)
        return {"number": number, "overrides": chosen, "directory": str(files.directory.resolve())}

    def begin(self, number: int) -> None:
        """Trial `number` has been started: until then it is only proposed."""
        self.running[number] = self._histories[number].last_epoch

    def lost(self, number: int) -> None:
        """The process of trial `number` is gone; another attempt goes on from its last checkpoint."""
        self.running.pop(number, None)
        self._new_attempt(number)

    def _new_attempt(self, number: int) -> None:
        rows = read_history(self.ledger.trial(number).history)
        self._seconds[number] = rows[-1]["seconds"] if rows else 0.0
        self._offsets.pop(number, None)

    def report(self, number: int, message: Mapping[str, Any]) -> Verdict | None:
        """Record one epoch of trial `number`; a verdict ends the trial, and the study has been told so."""
        metrics, epoch = message["metrics"], message["epoch"]
        metric = self.space.objective.metric
        trial_id = self._ids[number]
        if number not in self._offsets:
            # The first word of this attempt: an earlier one may have left epochs, and the seconds that they took.
            before = epoch + message["repeated"]
            rows = [row for row in read_history(self.ledger.trial(number).history) if row["epoch"] < before]
            self._offsets[number] = rows[-1]["seconds"] if rows else 0.0
            self._storage.set_trial_user_attr(trial_id, "parameters", message["parameters"])
            self._storage.set_trial_user_attr(trial_id, "max_epochs", message["max_epochs"])
            self._max_epochs[number] = message["max_epochs"]
        seconds = self._seconds[number] = self._offsets[number] + message["seconds"]
        if metric not in metrics:
            reason = f"{metric} was not logged; these were: {', '.join(sorted(metrics))}"
            return self._end(number, Verdict("failed", reason, epoch))
        report = Report(number, epoch, message["max_epochs"], metrics[metric], metrics)
        self._storage.set_trial_intermediate_value(trial_id, epoch, report.value)
        self._note_value(report)
        self.running[number] = epoch
        self.epochs_now += 1

        verdict, shadow = self._judge(report)
        told = verdict.as_text() if verdict else f"{SHADOW}{shadow.as_text()}" if shadow else ""
        self._histories[number].append(epoch, seconds, metrics, told)
        if shadow:
            self._note_shadow(trial_id, shadow)
        return self._end(number, verdict) if verdict else None

    def _judge(self, report: Report) -> tuple[Verdict | None, Verdict | None]:
        """The verdict to act on, and the one that a guard in shadow mode would have acted on."""
        if verdict := objective_not_finite(report):  # whatever the mode: no ranking and no sampler may see such a value
            return verdict, None
        shadow = None
        if self._guard is not None and (verdict := self._guard.judge(report)):
            if self.space.stopping.guard.mode == "act":
                return verdict, None
            shadow = verdict
        return (self._halving.judge(report) if self._halving else None), shadow

    def _note_shadow(self, trial_id: int, verdict: Verdict) -> None:
        """Keep the first of each kind: later epochs only repeat it."""
        earlier = self._storage.get_trial_user_attrs(trial_id).get("shadow", [])
        if all(entry["verdict"] != verdict.verdict for entry in earlier):
            self._storage.set_trial_user_attr(trial_id, "shadow", [*earlier, verdict.as_attribute()])

    def finish(self, number: int, message: Mapping[str, Any]) -> Verdict:
        """Trial `number` ran all its epochs; `message` holds its final metrics."""
        if number not in self._best_of:
            return self._end(number, Verdict("failed", "it ended without a single validation"))
        metrics = {name: value for name, value in message["metrics"].items() if math.isfinite(value)}
        self._storage.set_trial_user_attr(self._ids[number], "metrics", metrics)
        self._seconds[number] = self._offsets.get(number, 0.0) + message["seconds"]
        epoch = self._histories[number].last_epoch
        ran = f"ran all its {epoch} epochs" if epoch == self._max_epochs.get(number) else f"ended by itself after epoch {epoch}"
        return self._end(number, Verdict("finished", ran, epoch))

    def fail(self, number: int, message: Mapping[str, Any]) -> Verdict:
        """Trial `number` raised or was killed; `message` holds the `error`."""
        epoch = self._histories[number].last_epoch if number in self._histories else None
        return self._end(number, Verdict("failed", message["error"], epoch or None))

    def _end(self, number: int, verdict: Verdict) -> Verdict:
        trial_id, history = self._ids[number], self._histories.get(number)
        if verdict.verdict != "rejected":
            self._storage.set_trial_user_attr(trial_id, "epochs", history.last_epoch if history else 0)
            self._storage.set_trial_user_attr(trial_id, "seconds", round(self._seconds.get(number, 0.0), 3))
        self._storage.set_trial_user_attr(trial_id, "verdict", verdict.as_attribute())
        if history:
            history.conclude(verdict.as_text())
        self._close(number, verdict.verdict)
        for memory in (self.running, self._histories, self._offsets, self._seconds, self._max_epochs):
            memory.pop(number, None)
        self._proposed.discard(number)
        self._count(number, verdict.verdict)
        if verdict.verdict != "rejected":
            self._reasons.append(_alike(verdict))
        self._news.append((number, verdict))
        return verdict

    def news(self) -> Iterator[tuple[int, Verdict]]:
        """The trials that have ended since this was last asked, rejected ones too."""
        while self._news:
            yield self._news.popleft()

    def _close(self, number: int, kind: str) -> None:
        state = _STATES[kind]
        value = self._best_of[number] if state == TrialState.COMPLETE else None
        self.study.tell(number, value, state=state)

    def _note_value(self, report: Report) -> None:
        if math.isfinite(report.value):
            better = max if self._sign > 0 else min
            self._best_of[report.number] = better(report.value, self._best_of.get(report.number, report.value))

    def _count(self, number: int, kind: str) -> None:
        if kind == "rejected":
            return
        self.ended[kind] += 1
        if kind in {"finished", "spent"}:
            value = self._best_of[number]
            if self.best is None or self._sign * value > self._sign * self.best[1]:
                self.best = (number, value)

    @property
    def hopeless(self) -> str | None:
        """Why the sweep should stop: the first trials of this driver all ended for one bad reason. None while there is hope."""
        kinds = {kind for kind, _ in self._reasons}
        alike = {reason for _, reason in self._reasons}
        if len(alike) != 1 or not kinds <= {"failed", "broken"}:
            return None
        needed = SAME_FAILURES if kinds == {"failed"} else SAME_BREAKS
        return " ".join(self._reasons[0]) if len(self._reasons) >= needed else None


def _alike(verdict: Verdict) -> tuple[str, str]:
    """The verdict, and its reason without what differs from trial to trial: paths, numbers."""
    first = verdict.reason.splitlines()[0] if verdict.reason else ""
    return verdict.verdict, first.split(":")[0] if verdict.verdict == "broken" else re.sub(r"\S*/\S*|\d+", "…", first)
