"""The truth about every trial, told to the Optuna study as it happens: asked, reported, ended, and why.

It must not know Ray: `searcher.py` brings Tune's questions and events here, and `debug` and the tests do so directly.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lhtx.files import write_atomically
from sweeps import continuation, followups, memory, outcomes, proposals
from sweeps.attempts import Attempt
from sweeps.attributes import ALLOTTED, ALONE, CONTINUES, EXPLOITS, KILLED, RETRIES, FollowUp, asked_again, follows, own_trials
from sweeps.ends import STATES
from sweeps.ends import End as End
from sweeps.errors import LedgerError
from sweeps.failures import alike, as_attribute, hopeless
from sweeps.found import Found
from sweeps.held import held
from sweeps.judges import Judges
from sweeps.ledger import SHADOW, History, Ledger
from sweeps.recorded import note_shadow, record
from sweeps.replay import replayed
from sweeps.space import SearchSpace, suggest
from sweeps.stopping import Verdict
from sweeps.usage import Account


class SweepStudy:
    """A sweep's trials, from the first proposal to the last verdict.

    One driver at a time holds it (`Ledger.lock`). Everything that it knows is rebuilt from the study and the histories,
    so a driver may be killed at any instant: a trial that was running is proposed again under its own number.
    """

    def __init__(self, ledger: Ledger, space: SearchSpace, network_size: proposals.NetworkSize) -> None:
        """Args: network_size: the parameter count of a composed list of overrides, for constraints that ask for it."""
        self.ledger, self.space = ledger, space
        self.study, self._storage = held(ledger.study(), ledger.storage)
        self._judges = Judges(space)
        self._proposer = proposals.Proposer(space, network_size, self.study)
        self.ended: Counter[str] = Counter()
        self.running: dict[int, int] = {}
        """Trials that have been started: number → epochs done."""
        self.error: Exception | None = None  # what the driver cannot go on with
        self.epochs_now = 0  # reported to this driver, for the display
        self._interrupted: deque[FrozenTrial] = deque()
        self._waiting: set[int] = set()
        """Trials that the scheduler has suspended: in no process, and not at their end."""
        self._proposed: set[int] = set()
        self._ids: dict[int, int] = {}
        self.found, self.open_trials = Found(space.modes), self._storage.open
        self._attempts: dict[int, Attempt] = {}
        self._reasons: list[tuple[str, str]] = []
        self.on_end: list[Callable[[int, Verdict], None]] = []
        """Each is called after a trial's end has been written down."""
        self.leaving: Callable[[int], bool] = lambda number: False
        """Whether a trial that was suspended may not have left its process yet."""
        self._news: deque[tuple[int, Verdict | str]] = deque()
        self._restore()

    def _restore(self) -> None:
        for trial in self.trials():
            if trial.state == TrialState.WAITING:
                continue
            self._ids[trial.number] = trial._trial_id
            verdict = trial.user_attrs.get("verdict")
            if trial.state == TrialState.RUNNING and "overrides" not in trial.user_attrs:
                if verdict is None:
                    continuation.enqueue_again(self.study, trial)
                    self._end(trial.number, Verdict("rejected", KILLED))
                    continue
                self._close(trial.number, verdict["verdict"])
            if verdict is None or verdict["reason"] != KILLED:
                self._proposer.remember(trial.params, trial.number)
            if trial.state == TrialState.RUNNING and "overrides" not in trial.user_attrs:
                continue
            if "overrides" in trial.user_attrs:
                self._judges.enter(trial.number, trial.user_attrs)
            for report in replayed(self.ledger, self._judges, trial, verdict):
                self.found.note(report.number, report.values)
                self._judges.replay(report, verdict)
            if trial.state == TrialState.RUNNING:
                if verdict is None:
                    self._suspend_or_interrupt(trial)
                    continue
                # The driver was killed between writing the verdict down and ending the trial.
                History.open(self.ledger.trial(trial.number).history).conclude(f"{verdict['verdict']}: {verdict['reason']}")
                self._close(trial.number, verdict["verdict"])
            if verdict is None:
                raise LedgerError(
                    f"{self.ledger.study_place}: trial {trial.number} is {trial.state.name} without a verdict: "
                    "something else than this sweep has ended it."
                )
            self._judges.end(trial.number)
            self._count(trial.number, verdict["verdict"])
        self._asked_again = asked_again(trials := self.trials())
        self.account = Account(self.ledger, self.space.budget, self.space.resources, trials)
        self._end_overtaken()
        self._enqueue(followups.due(self.space, self.trials()))

    def trials(self) -> list[FrozenTrial]:
        """All of the sweep's own trials, waiting ones too."""
        return own_trials(self.study.get_trials(deepcopy=False))

    def trial(self, number: int) -> FrozenTrial:
        """A trial that has been proposed, as the study has it now."""
        return self._storage.get_trial(self._ids[number])

    def _enqueue(self, due: Iterable[FollowUp]) -> list[FollowUp]:
        """Enqueue the trials that follow from those that have ended."""
        for each in (found := list(due)):
            self.study.enqueue_trial(dict(each.parameters), user_attrs=dict(each.attributes))
            self._asked_again += 1
        return found

    def _suspend_or_interrupt(self, trial: FrozenTrial) -> None:
        """Take up a trial that had not ended when an earlier driver was killed."""
        if trial.number not in self._judges.scheduler.waiting:
            self._interrupted.append(trial)
            return
        self._waiting.add(trial.number)
        self._attempts[trial.number] = Attempt(self.ledger.trial(trial.number))

    @property
    def started(self) -> int:
        """Trials that run or ran: those that constraints rejected do not count."""
        return self.ended.total() + len(self._proposed) + len(self._interrupted) + len(self._waiting)

    @property
    def interrupted(self) -> int:
        """Trials that have a checkpoint and are in no process: those that an earlier driver left unfinished and that have not
        been started again yet, and the suspended ones."""
        return len(self._interrupted) + len(self._waiting)

    @property
    def waiting(self) -> bool:
        """Whether there may be more to propose once those that run have come further: suspended trials, or those to be."""
        running = self._proposed - self._judges.scheduler.released - self._judges.exempted
        follow = self._proposed and followups.possible(self.space)
        return bool(self._waiting or follow or (self._judges.scheduler.suspends and running))

    @property
    def target(self) -> int:
        """How many trials are to end: those of the search space, and those that retry or continue another."""
        return self.space.search.trials + self._asked_again

    @property
    def complete(self) -> bool:
        """Whether every trial that the sweep asked for, or that the space has, has ended."""
        ended = self.ended.total()
        return ended >= self.target or (ended == self.started and self.exhausted)

    @property
    def exhausted(self) -> bool:
        """Whether no setting of the space is left to be tried."""
        return self._proposer.exhausted

    def propose(self, order: int = 0) -> dict[str, Any] | None:
        """The next trial's assignment (`sweeps.trial.Assignment` as a message); None when the sweep has all it asked for, or
        (`waiting`) must hear from the running trials first.

        Args: order: of batches, which a new trial's first epoch takes (`proposals.assemble`).

        Raises:
            SpaceError: the constraints refused `MAX_REJECTIONS` proposals in a row.
        """
        if self._interrupted:
            trial = self._interrupted.popleft()
            return self._assign(trial.number, trial.user_attrs["overrides"])
        while self.started < self.target and not self.hopeless:
            if self._judges.synchronous and (awaited := continuation.awaited(self.ledger, self.trials())):
                return self._go_back(*awaited)
            with self._storage.together():
                if not (trial := self._proposer.ask()):
                    break
                self._ids[trial.number] = trial._trial_id
                parameters = suggest(self.space, trial)
                refused = self._proposer.refused(parameters, again=follows(trial))
                self._proposer.remember(parameters, trial.number)
                goes_on = {CONTINUES, EXPLOITS} & trial.user_attrs.keys()
                chosen = [] if refused or goes_on else self._proposer.choose(trial, parameters, order, self.account.allotted)
            if refused:
                self._asked_again -= refused.verdict == "rejected" and follows(trial)
                self._end(trial.number, refused)
                continue
            if goes_on:
                if assignment := self._continue(trial):
                    return assignment
                continue
            self._judges.enter(trial.number, trial.user_attrs)
            return self._assign(trial.number, chosen)
        return self._release()

    def _continue(self, trial: optuna.Trial) -> dict[str, Any] | None:
        """Start a trial from the checkpoint of another, which it trains further or is a copy of; None if that is damaged."""
        try:
            chosen, values = continuation.begin(self.ledger, self.space, trial)
        except LedgerError as error:
            self._end(trial.number, Verdict("failed", str(error)))
            return None
        with self._storage.together():
            for epoch, objectives in values.items():
                record(self._storage, trial._trial_id, epoch, objectives)
                self.found.note(trial.number, objectives)
            trial.set_user_attr("overrides", chosen)
        self._judges.enter(trial.number, trial.user_attrs)
        return self._assign(trial.number, chosen)

    def _release(self) -> dict[str, Any] | None:
        """Let the best suspended trial go on, once all others have come as far or have ended."""
        if not self._waiting or self.hopeless:
            return None
        ready = self._judges.ready(self._proposed | self._waiting)
        if self._end_overtaken():
            return self.propose()  # copies that take their places come first
        if not ready:
            return None
        number = ready[0]
        self._judges.scheduler.release(number)
        self._waiting.remove(number)
        return self._assign(number, self._storage.get_trial_user_attrs(self._ids[number])["overrides"])

    def _go_back(self, donor: FrozenTrial, leaving: bool) -> dict[str, Any] | None:
        """Wait for a suspended trial's checkpoint; one that was killed before it had written that trains the epoch again."""
        if leaving or self.leaving(donor.number) or donor.number not in self._waiting:
            return None
        self._waiting.remove(donor.number)
        return self._assign(donor.number, donor.user_attrs["overrides"])

    def _suspend(self, number: int) -> None:
        """Trial `number` leaves its process, and keeps its last checkpoint."""
        self._waiting.add(number)
        self._proposed.discard(number)
        self.running.pop(number, None)
        self._attempts[number].again()

    def _end_overtaken(self) -> bool:
        ended = [self._end(number, verdict) for number, verdict in list(self._judges.scheduler.overtaken())]
        return bool(ended)

    def _assign(self, number: int, chosen: list[str]) -> dict[str, Any]:
        files = self.ledger.trial(number)
        files.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(files.overrides, "\n".join(chosen) + "\n")
        attempt = self._attempts[number] = Attempt(files)
        notes = self.trial(number).user_attrs
        if notes.get(ALLOTTED) != self.account.allotted:
            self._storage.set_trial_user_attr(self._ids[number], ALLOTTED, self.account.allotted)
        self.account.enter(number, notes, attempt)
        self._proposed.add(number)
        return {"number": number, "overrides": chosen, "directory": str(files.directory.resolve())}

    def begin(self, number: int) -> None:
        """Trial `number` has been started: until then it is only proposed."""
        self.running[number] = self._attempts[number].history.last_epoch

    def lost(self, number: int) -> None:
        """The process of trial `number` is gone; another attempt goes on from its last checkpoint."""
        self.running.pop(number, None)
        self._attempts[number].again()
        self._news.append((number, "lost its process: it goes on from its last checkpoint in another"))

    def put_back(self, number: int, error: str) -> None:
        """Trial `number` has left the process that it shared with others, unfinished: it is proposed again, to go on alone."""
        self._storage.set_trial_user_attr(self._ids[number], ALONE, self.epochs(number))
        self.running.pop(number, None)
        self._proposed.discard(number)
        self._interrupted.append(self.trial(number))
        self._news.append((number, f"leaves its group, and goes on by itself: {''.join(error.splitlines()[:1])}"))

    def epochs(self, number: int) -> int:
        """How many epochs of a trial that has been proposed the study knows."""
        return self._attempts[number].history.last_epoch

    def report(self, number: int, message: Mapping[str, Any]) -> Verdict | None:
        """Record one epoch of trial `number`; a verdict takes it out of its process, and the study has been told so."""
        metrics, epoch = message["metrics"], message["epoch"]
        trial_id = self._ids[number]
        attempt = self._attempts[number]
        with self._storage.together():
            if attempt.hear(message):
                self._storage.set_trial_user_attr(trial_id, "parameters", message["parameters"])
                self._storage.set_trial_user_attr(trial_id, "max_epochs", message["max_epochs"])
            if message["repeated"] and epoch <= self._judges.inherited.get(number, 0):
                return None  # what its start checkpoint holds: the epochs of another
            if not (missing := self._judges.missing(metrics)):
                report = self._judges.report(number, epoch, message["max_epochs"], message["parameters"], metrics)
                record(self._storage, trial_id, epoch, report.values)
        if missing:
            reason = f"{' and '.join(missing)} was not logged; these were: {', '.join(sorted(metrics))}"
            return self._end(number, Verdict("failed", reason, epoch))
        self.found.note(report.number, report.values)
        self.running[number] = epoch
        self.epochs_now += 1

        verdict, shadow = self._judges.judge(report)
        suspended = verdict is not None and verdict.verdict == "waiting"
        acted = None if suspended else verdict
        told = acted.as_text() if acted else f"{SHADOW}{shadow.as_text()}" if shadow else ""
        attempt.history.append(epoch, attempt.seconds, metrics, told)
        self.account.note(number, attempt)
        if shadow:
            note_shadow(self._storage, trial_id, shadow)
        if acted:
            self._end(number, acted)
        elif suspended:
            self._suspend(number)
        self._end_overtaken()
        return verdict

    def finish(self, number: int, message: Mapping[str, Any]) -> Verdict:
        """Trial `number` ran all its epochs; `message` holds its final metrics."""
        if number not in self.found:
            return self._end(number, Verdict("failed", "it ended without a single validation"))
        metrics = {name: value for name, value in message["metrics"].items() if math.isfinite(value)}
        attempt = self._attempts[number]
        attempt.end(message["seconds"])
        epoch = attempt.history.last_epoch
        ran = f"ran all its {epoch} epochs" if epoch == attempt.max_epochs else f"ended by itself after epoch {epoch}"
        return self._end(number, Verdict("finished", ran, epoch), {"metrics": metrics})

    def fail(self, number: int, message: Mapping[str, Any]) -> Verdict:
        """Trial `number` raised or was killed; `message` holds the `error`."""
        attempt = self._attempts.get(number)
        epoch = attempt.history.last_epoch if attempt else 0
        error = memory.told(self.space, self.trials(), number, message["error"])
        return self._end(number, Verdict("failed", error, epoch or None))

    def _end(self, number: int, verdict: Verdict, notes: Mapping[str, Any] | None = None) -> Verdict:
        trial_id, attempt = self._ids[number], self._attempts.pop(number, None)
        said = dict(notes or {})
        with self._storage.together():
            verdict = outcomes.bound(self.space, self._storage, trial_id, self.ledger.trial(number).history, verdict)
            if verdict.verdict != "rejected":
                said["epochs"] = attempt.history.last_epoch if attempt else 0
                said["seconds"] = round(attempt.seconds, 3) if attempt else 0.0
            for name, value in (said | {"verdict": as_attribute(verdict)}).items():
                self._storage.set_trial_user_attr(trial_id, name, value)
        if attempt:
            attempt.history.conclude(verdict.as_text())
            self.account.note(number, attempt)
        self._close(number, verdict.verdict)
        self.running.pop(number, None)
        self._proposed.discard(number)
        self._waiting.discard(number)
        self._judges.end(number)
        self._count(number, verdict.verdict)
        self._news.append((number, verdict))
        searched = self.ended.total() >= self.space.search.trials or self.exhausted
        asked = self._enqueue(followups.after(self.space, verdict, self.trial(number), searched, self.trials))
        if verdict.verdict != "rejected" and not any(each.attributes.get(RETRIES) == number for each in asked):
            self._reasons.append(alike(verdict))  # one that is run again has its say when that has ended
        for tell in self.on_end:
            tell(number, verdict)
        return verdict

    def news(self) -> Iterator[tuple[int, Verdict | str]]:
        """The trials that have ended since this was last asked, rejected ones too; and, in words, what has become of trials
        that go on."""
        while self._news:
            yield self._news.popleft()

    def _close(self, number: int, kind: str) -> None:
        state = STATES[kind]
        values = self.found[number] if state == TrialState.COMPLETE else None
        self.study.tell(number, values, state=state)

    def _count(self, number: int, kind: str) -> None:
        if kind == "rejected":
            return
        self.ended[kind] += 1
        if kind in {"finished", "spent"}:
            self.found.complete(outcomes.outcome(self.trial(number)))

    @property
    def best(self) -> tuple[int, float] | None:
        """The trial that stands for the best configuration (`Found.winner`), and its first objective."""
        return self.found.best

    @property
    def front(self) -> dict[int, tuple[float, ...]]:
        """The COMPLETE trials that no other one dominates, and their values."""
        return self.found.front

    @property
    def front_text(self) -> str:
        """The same in words."""
        return self.found.told(self._judges.metrics)

    @property
    def hopeless(self) -> str | None:
        """Why the sweep should stop: the first trials of this driver all ended for one bad reason. None while there is hope."""
        return hopeless(self._reasons)
