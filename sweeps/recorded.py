"""A trial's objectives by epoch, as the study keeps them: intermediate values, or, of several objectives, for which Optuna
has none, one user attribute an epoch. And what a guard in shadow mode said of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from sweeps.stopping import Verdict

PREFIX = "objectives at epoch "


def record(storage: BaseStorage, trial_id: int, epoch: int, values: Sequence[float]) -> None:
    """Write down the objectives at `epoch`; what stood there before is replaced."""
    if len(values) == 1:
        storage.set_trial_intermediate_value(trial_id, epoch, values[0])
    else:  # as text where JSON has no number
        storage.set_trial_user_attr(trial_id, f"{PREFIX}{epoch}", [repr(float(value)) for value in values])


def note_shadow(storage: BaseStorage, trial_id: int, verdict: Verdict) -> None:
    """Write down what a guard in shadow mode said: the first of each kind, which later epochs only repeat."""
    earlier = storage.get_trial_user_attrs(trial_id).get("shadow", [])
    if all(entry["verdict"] != verdict.verdict for entry in earlier):
        storage.set_trial_user_attr(trial_id, "shadow", [*earlier, verdict.as_attribute()])


def recorded(trial: FrozenTrial) -> dict[int, tuple[float, ...]]:
    """The objectives of `trial` by epoch, in order."""
    found = {epoch: (value,) for epoch, value in trial.intermediate_values.items()}
    for name, values in trial.user_attrs.items():
        if name.startswith(PREFIX):
            found[int(name.removeprefix(PREFIX))] = tuple(map(float, values))
    return dict(sorted(found.items()))
