"""Trials that train as one network, in one process: each reports, ends and leaves its files by itself (`lhtx.fused`).

Like `trial.py` it knows neither Ray nor Optuna; which trials there are, and which of them end, is said by the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from lhtx.callbacks.logged_metrics import KEY as LOGGED_METRICS
from lhtx.epoch_report import EpochReport
from lhtx.errors import CheckpointError, ConfigError
from lhtx.fused import FusedTrainer, Result
from sweeps.ledger import RUNNING, TrialFiles
from sweeps.trial import Assignment, SweepPaths, SweepReport, report_message, trial_config

Exchange = Callable[[dict[str, Any]], Mapping[str, Any]]
"""A message to the sweep → its answer."""


class FusedTrials:
    """A group of trials, from its first members to its last. A member whose sweep lets it go leaves its last checkpoint, as a
    trial of its own does, and another may take its place."""

    def __init__(self, group: Sequence[Assignment], exchange: Exchange) -> None:
        """Args: group: the first members.

        Raises: as `lhtx.fused.FusedTrainer` does.
        """
        self._exchange = exchange
        self._trials: dict[int, Assignment] = dict(enumerate(group))
        """By the trainer's number."""
        self._running: dict[int, FileLock] = {}
        """Of the trials that are members, by their number: nobody else writes there meanwhile."""
        self._left: list[int] = []
        """Trials that end with this epoch, or have: they are let go once their checkpoints are written."""
        self._unfit: list[dict[str, Any]] = []
        self._places = SweepPaths(())
        for assignment in group:
            self._enter(assignment)
        configs = [trial_config(assignment) for assignment in group]
        self._trainer = FusedTrainer(configs, self._report, self._finished, [self._places, ReportState()])

    def train(self) -> None:
        """Train until all members, those that join included, have ended."""
        self._trainer.fit()
        while self._unfit:  # nobody has heard of them
            self._tell([], [])
            self._trainer.fit()
        self._let_go()

    def _enter(self, assignment: Assignment) -> None:
        """Take a trial over: wait until no earlier process of it writes any more."""
        files = TrialFiles(Path(assignment.directory))
        lock = FileLock(files.directory / RUNNING)
        lock.acquire()
        self._running[assignment.number] = lock
        self._places.add(assignment.places)
        if assignment != (first := self._trials[0]):
            with files.log.open("a") as log:
                print(f"trial {assignment.number} trains with others: see the log of trial {first.number}", file=log)

    def _join(self, assignment: Assignment) -> None:
        self._enter(assignment)
        try:
            self._trials[self._trainer.add(trial_config(assignment))] = assignment
        except (CheckpointError, ConfigError) as error:
            self._left.append(assignment.number)
            self._unfit.append({"number": assignment.number, "error": str(error)})

    def _report(self, reports: Mapping[int, EpochReport]) -> Collection[int]:
        return self._tell([report_message(self._trials[place].number, report) for place, report in reports.items()], [])

    def _finished(self, results: Mapping[int, Result]) -> None:
        finished = [{"number": self._trials[place].number, **asdict(result)} for place, result in results.items()]
        self._left += [each["number"] for each in finished]
        self._tell([], finished)

    def _tell(self, reports: list[dict[str, Any]], finished: list[dict[str, Any]]) -> list[int]:
        """Send what there is to say, and do what the answer says; the members that end."""
        self._let_go()
        unfit, self._unfit = self._unfit, []
        answer = self._exchange({"kind": "group", "reports": reports, "finished": finished, "unfit": unfit})
        stop = answer.get("stop", ()) if answer["go_on"] else [*self._running]
        self._left += stop
        for each in answer.get("join", ()):
            self._join(Assignment.from_message(each))
        return [place for place, assignment in self._trials.items() if assignment.number in stop]

    def _let_go(self) -> None:
        """Those that have left have written their last checkpoints by now."""
        for number in self._left:
            if lock := self._running.pop(number, None):
                lock.release()
        self._left = []


class ReportState(Callback):
    """Lets a member's checkpoints hold what `SweepReport` keeps there: in a process of its own the trial then begins, as after
    any other interruption, by saying what it goes on from."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        parameters = sum(parameter.numel() for parameter in pl_module.parameters())
        epoch, metrics = checkpoint["epoch"] + 1, checkpoint.get(LOGGED_METRICS, {})
        report = EpochReport(epoch, trainer.max_epochs, parameters, 0.0, metrics)
        checkpoint["callbacks"][SweepReport.__qualname__] = asdict(report)
