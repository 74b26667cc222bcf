"""A study as the driver has it that holds its sweep: every trial in memory, where the samplers read it; what is written goes to
where the study lives, in as few transactions as there are steps of a trial.

It knows no sweeps. Nobody else may write to the study meanwhile (`Ledger.lock`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from sweeps.errors import StorageError
from sweeps.tables import Changes


class Home(Protocol):
    """Where a study lives."""

    def trials(self, study_id: int) -> list[FrozenTrial]:
        """All of a study's trials, in the order of their numbers."""
        ...

    def add(self, study_id: int, trial: FrozenTrial) -> int:
        """Make a new trial with all that `trial` holds; its id there."""
        ...

    def write(self, trial_id: int, changes: Changes) -> None:
        """Write what has changed of a trial, all of it or, in their order, the first ones."""
        ...


class HeldStorage(InMemoryStorage):
    """One study. A trial's id is its number here, whatever it is where the study lives."""

    def __init__(self, home: Any, name: str) -> None:
        """Args: home: the storage (a `Home`) that holds the study `name`."""
        super().__init__()
        self._home = home
        self._there = home.get_study_id_from_name(name)
        self._here = self.create_new_study(home.get_study_directions(self._there), name)
        study = self._studies[self._here]
        study.user_attrs = home.get_study_user_attrs(self._there)
        study.system_attrs = home.get_study_system_attrs(self._there)
        self._ids: list[int | None] = []
        """By number, the trial's id where the study lives; None until it is there."""
        self._pending: dict[int, Changes] = {}
        self._depth = 0
        self._open: dict[int, None] = {}
        for number, trial in enumerate(home.trials(self._there)):
            if trial.number != number:
                raise StorageError(f"the study {name!r} has no trial {number}, but trial {trial.number}: trials were removed.")
            self._take(trial)

    def _take(self, trial: FrozenTrial) -> None:
        """Hold a trial that is there."""
        trial, study = copy.copy(trial), self._studies[self._here]
        self._ids.append(trial._trial_id)
        self._max_trial_id = trial._trial_id = trial.number
        self._trial_id_to_study_id_and_number[trial.number] = (self._here, trial.number)
        study.trials.append(trial)
        study.param_distribution.update(trial.distributions)
        self._update_cache(trial.number, self._here)
        self._note_state(trial.number)

    def open(self) -> list[FrozenTrial]:
        """The trials that have not ended, waiting ones too; found without a look at the others."""
        return [self._get_trial(number) for number in self._open]

    def _note_state(self, number: int) -> None:
        if self._get_trial(number).state.is_finished():
            self._open.pop(number, None)
        else:
            self._open[number] = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is said of trials in this block is written at its end, of each trial in one transaction.

        An error ends the block with nothing written, as a kill before its end would: whoever holds the study gives it up.
        """
        self._depth += 1
        try:
            yield
            if self._depth == 1:
                for number, changes in list(self._pending.items()):
                    self._write(number, changes)
                    del self._pending[number]
        except BaseException:
            self._pending.clear()
            raise
        finally:
            self._depth -= 1

    def _write(self, number: int, changes: Changes) -> None:
        trial_id = self._ids[number]
        if trial_id is None:
            self._ids[number] = self._home.add(self._there, self._get_trial(number))
        else:
            self._home.write(trial_id, changes)

    @contextmanager
    def _changing(self, number: int) -> Iterator[Changes]:
        with self.together():
            yield self._pending.setdefault(number, Changes())

    # What Optuna writes

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        number = super().create_new_trial(study_id, template_trial)
        self._ids.append(None)
        self._note_state(number)
        with self._changing(number):
            return number

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        with self._changing(trial_id) as changes:
            changes.set("param", param_name, (param_value_internal, distribution))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        if not super().set_trial_state_values(trial_id, state, values):
            return False
        trial = self._get_trial(trial_id)
        self._note_state(trial_id)
        with self._changing(trial_id) as changes:
            changes.set("state", state, (values, trial.datetime_complete if state.is_finished() else trial.datetime_start))
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        with self._changing(trial_id) as changes:
            changes.set("report", step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_user_attr(trial_id, key, value := _as_stored(value))
        with self._changing(trial_id) as changes:
            changes.set("user", key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_system_attr(trial_id, key, value := _as_stored(value))
        with self._changing(trial_id) as changes:
            changes.set("system", key, value)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        super().set_study_user_attr(study_id, key, _as_stored(value))
        self._home.set_study_user_attr(self._there, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        super().set_study_system_attr(study_id, key, _as_stored(value))
        self._home.set_study_system_attr(self._there, key, value)

    def delete_study(self, study_id: int) -> None:
        raise NotImplementedError("a study that a driver holds is not deleted")


def held(study: optuna.Study, home: Any) -> tuple[optuna.Study, HeldStorage]:
    """The same study, held by this process, and its storage. Args: home: its storage."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it tells of a new study, in memory
    storage = HeldStorage(home, study.study_name)
    return optuna.load_study(study_name=study.study_name, storage=storage), storage


def _as_stored(value: Any) -> Any:
    """As the next driver will read it."""
    return json.loads(json.dumps(value))
