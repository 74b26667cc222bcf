"""Optuna ↔ Tune: Tune's questions (what next?) and events (a result, an end) brought to the sweep's study, nothing more.

Ray's own experiment state is disposable: none of these keeps anything that the study does not hold.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from sweeps.errors import SweepError
from sweeps.interruption import Interruption
from sweeps.study import End, SweepStudy

PAYLOAD = "payload"
"""The key of a Tune result under which a trial's message stands, as JSON: Tune flattens and copies what it can see into."""


class StudySearcher(Searcher):
    """Hands out what the study proposes."""

    def __init__(self, study: SweepStudy) -> None:
        super().__init__()
        self._study = study
        self.error: SweepError | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        try:
            proposal = self._study.propose()
        except SweepError as error:  # Tune would bury it under a traceback of its own
            self.error = error
            return Searcher.FINISHED
        if proposal is None and not self._study.waiting:
            return Searcher.FINISHED
        return proposal  # None: Tune asks again

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The scheduler has heard it, with the trial's number."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is the ledger."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep is resumed from its study, not from Tune's state")


class StudyScheduler(FIFOScheduler):
    """Brings every result to the study, and stops a trial on its verdict. It runs before Tune does anything with a result."""

    def __init__(self, study: SweepStudy) -> None:
        super().__init__()
        self._study = study

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        message = json.loads(result[PAYLOAD])
        verdict = self._study.report(trial.config["number"], message)
        return self.CONTINUE if verdict is None else self.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """A trial has ended by itself, or Tune stops it: with a verdict, which the study has heard, or with the whole sweep."""
        message = json.loads(result.get(PAYLOAD, "{}"))
        if message.get("kind") == "finished":
            self._study.finish(trial.config["number"], message)
        elif message.get("kind") == "failed":
            self._study.fail(trial.config["number"], message)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The actor or its node is lost. A trial whose status is ERROR by now is one that Tune starts again: it goes on."""
        number = trial.config["number"]
        if trial.status == Trial.ERROR:
            self._study.lost(number)
        else:
            error = trial.get_error()
            lines = str(error or "no message").strip().splitlines()
            # Ray's own guard of the memory: its advice comes last, what it was stands in the type or further up.
            memory = any("OutOfMemoryError" in text for text in (type(error).__name__, *lines))
            what = "OutOfMemoryError: " if memory else ""
            self._study.fail(number, {"error": f"its process was lost too often: {what}{lines[-1]}"})


class SweepStopper(Stopper):
    """Ends the whole sweep: interrupted, hopeless, out of time, or with an error of the searcher's."""

    def __init__(self, study: SweepStudy, searcher: StudySearcher, interruption: Interruption, hours: float | None) -> None:
        self._study, self._searcher, self._interruption = study, searcher, interruption
        self._deadline = math.inf if hours is None else time.monotonic() + 3600 * hours
        self.end: End | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.end is None:
            if self._interruption.requested:
                self.end = End.INTERRUPTED
            elif self._searcher.error is not None:
                self.end = End.REFUSED
            elif self._study.hopeless is not None:
                self.end = End.HOPELESS
            elif time.monotonic() > self._deadline:
                self.end = End.BUDGET
        return self.end is not None


class ProgressCallback(Callback):
    """Tells the study which trials Tune has started, and the display that something may have changed."""

    def __init__(self, study: SweepStudy, update: Callable[[], None]) -> None:
        self._study, self._update = study, update

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._study.begin(trial.config["number"])

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._update()
