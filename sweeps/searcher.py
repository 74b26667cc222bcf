"""Optuna ↔ Tune: Tune's questions (what next?) and events (a result, an end) brought to the sweep's study, nothing more.

Ray's own experiment state is disposable: none of these keeps anything that the study does not hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from sweeps.errors import SweepError
from sweeps.groups import Groups
from sweeps.interruption import Interruption
from sweeps.study import End, SweepStudy
from sweeps.trainable import PAYLOAD


class StudySearcher(Searcher):
    """Hands out what the study proposes."""

    def __init__(self, study: SweepStudy, groups: Groups, server: str | None = None) -> None:
        """Args: server: what every trial is told of the server that the slots of its node share."""
        super().__init__()
        self._study, self._groups, self._server = study, groups, server

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        try:
            group = self._groups.form(trial_id)
        except (SweepError, OSError) as error:  # Tune would bury it under a traceback of its own
            self._study.error = error
            return Searcher.FINISHED
        if group:
            return {"group": group, "fused": self._groups.fused(trial_id), "server": self._server}
        # None: Tune asks again.
        return None if self._study.waiting or self._groups.may_come_back else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The scheduler has heard it, with the trial's number."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is the ledger."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep is resumed from its study, not from Tune's state")


class StudyScheduler(FIFOScheduler):
    """Brings every result to the study, and stops a trial on its verdict. It runs before Tune does anything with a result."""

    def __init__(self, study: SweepStudy, groups: Groups, lost: Callable[[int], None] = lambda number: None) -> None:
        """Args: lost: is told of a trial whose actor is gone, before it begins elsewhere."""
        super().__init__()
        self._study, self._groups, self._lost = study, groups, lost
        self._leaving: dict[int, ray.ObjectRef] = {}
        study.leaving = self._is_leaving

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        message = json.loads(result[PAYLOAD])
        if message["kind"] == "group":
            change = self._tell(self._groups.hear, trial.trial_id, message)
            if change:
                trial.temporary_state.ray_actor.change.remote(change.stop, change.join)
            return self.CONTINUE if self._study.error is None else self.STOP
        number = self._number(trial)
        verdict = self._tell(self._study.report, number, message)
        if verdict is not None and verdict.verdict == "waiting":
            self._leaving[number] = trial.temporary_state.ray_actor.leave.remote()
        if verdict is not None:
            self._groups.end(trial.trial_id)
        return self.CONTINUE if verdict is None and self._study.error is None else self.STOP

    def _number(self, trial: Trial) -> int:
        """Of a trial that has a process of its own."""
        return trial.config["group"][0]["number"]

    def _is_leaving(self, number: int) -> bool:
        """Whether a suspended trial may still be writing its last checkpoint. One whose actor is lost writes no more."""
        leaves = self._leaving.get(number)
        return leaves is not None and not ray.wait([leaves], timeout=0)[0]

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """A process has ended by itself, or Tune stops it: on a verdict that the study has heard, or with the whole sweep."""
        message = json.loads(result.get(PAYLOAD, "{}"))
        if message.get("kind") == "finished":
            self._tell(self._study.finish, self._number(trial), message)
        self._tell(self._groups.end, trial.trial_id, message.get("error"))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The actor or its node is lost. A trial whose status is ERROR by now is one that Tune starts again: it goes on."""
        group = self._groups.members(trial.trial_id)
        for assignment in group:
            self._lost(assignment["number"])
        if trial.status == Trial.ERROR:
            trial.config["group"] = group  # those that have ended meanwhile are left out, those that have joined are in
            for assignment in group:
                self._study.lost(assignment["number"])
        else:
            error = trial.get_error()
            lines = str(error or _written(trial) or "no message").strip().splitlines()
            # Ray's own guard of the memory: its advice comes last, what it was stands in the type or further up.
            memory = any("OutOfMemoryError" in text for text in (type(error).__name__, *lines))
            what = "OutOfMemoryError: " if memory else ""
            self._tell(self._groups.end, trial.trial_id, f"its process was lost too often: {what}{lines[-1]}")

    def _tell(self, what: Callable[[Any, Any], Any], whom: Any, message: Any) -> Any:
        """Bring a message to the study. Once that cannot be written any more, nothing is brought to it, and the sweep ends."""
        if self._study.error is None:
            try:
                return what(whom, message)
            except (SweepError, OSError) as error:
                self._study.error = error
        return None


def _written(trial: Trial) -> str:
    """What Tune has written down of a trial's errors, where it does not hold the last one itself."""
    file = trial.error_file if trial.storage else None
    return Path(file).read_text() if file and Path(file).exists() else ""


class SweepStopper(Stopper):
    """Ends the whole sweep: interrupted, hopeless, its budget spent, or with an error that it cannot go on with."""

    def __init__(self, study: SweepStudy, interruption: Interruption) -> None:
        self._study, self._interruption = study, interruption
        self.end: End | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes its stopper down with its own state, and a study cannot be, with all that listens to it."""
        return {}

    def stop_all(self) -> bool:
        try:
            self._study.account.beat()
        except OSError as error:
            self._study.error = self._study.error or error
        if self.end is None:
            if self._interruption.requested:
                self.end = End.INTERRUPTED
            elif self._study.error is not None:
                self.end = End.REFUSED
            elif self._study.hopeless is not None:
                self.end = End.HOPELESS
            elif self._study.account.spent:
                self.end = End.BUDGET
        return self.end is not None


class ProgressCallback(Callback):
    """Tells the study which trials Tune has started, and the display that something may have changed."""

    def __init__(self, study: SweepStudy, update: Callable[[], None]) -> None:
        self._study, self._update = study, update

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        for assignment in trial.config["group"]:
            self._study.begin(assignment["number"])

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._update()
