"""A study that knows less than the trials' directories say, as an older copy of it does that was put back after a loss.

What the study has not heard of must neither be lost nor be taken for another trial's. After a kill there is nothing to do here:
a study is told of everything before a directory is.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from sweeps.constraints import SIZE
from sweeps.ledger import Ledger, read_history
from sweeps.recorded import record, recorded
from sweeps.schema import SearchSpace

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def settle(ledger: Ledger, space: SearchSpace, console: Console) -> None:
    """Move away the directories of trials that have no row in the study, whose numbers other trials will get; and tell the
    study of the epochs that unfinished trials have in their histories alone. Says what it does.

    Raises:
        LedgerError: the study or a history cannot be read.
        OSError: a directory cannot be moved.
    """
    trials = ledger.study().get_trials(deepcopy=False)
    if moved := _move(ledger, {trial.number for trial in trials if trial.state.name != "WAITING"}):
        _say(
            console,
            f": {ledger.study_place} knows nothing of the trials {', '.join(map(str, moved))}, as an older copy of it would: "
            f"their directories are in {ledger.orphans_directory} now, and other trials get their numbers",
        )
    if told := [trial.number for trial in trials if _catch_up(ledger, space, trial)]:
        listed = ", ".join(map(str, told))
        _say(console, f": what {ledger.study_place} lacked of the trials {listed} was taken from their histories")


def _say(console: Console, text: str) -> None:
    console.print(Text.assemble(("older study", "yellow"), text), soft_wrap=True)


def _move(ledger: Ledger, known: Iterable[int]) -> list[int]:
    """One rename each: after a kill the rest follows."""
    known, moved = set(known), []
    for path in sorted(ledger.trials_directory.glob("[0-9]*")):
        if path.name.isdigit() and int(path.name) not in known:
            ledger.orphans_directory.mkdir(exist_ok=True)
            path.rename(_free(ledger.orphans_directory / path.name))
            moved.append(int(path.name))
    return moved


def _free(path: Path) -> Path:
    """`path`, or with a number behind it if something of that name was moved there before."""
    number, found = 1, path
    while found.exists():
        number, found = number + 1, path.with_name(f"{path.name}-{number + 1}")
    return found


def _catch_up(ledger: Ledger, space: SearchSpace, trial: FrozenTrial) -> bool:
    """Whether a trial's history had epochs that came after all that the study has of it. Its last checkpoint may be as far: the
    trial would go on behind them, and they would be missing for good."""
    if trial.state.is_finished() or "overrides" not in trial.user_attrs or "verdict" in trial.user_attrs:
        return False
    last, found = max(recorded(trial), default=0), False
    for row in read_history(ledger.trial(trial.number).history):
        sizes = {SIZE: float(trial.user_attrs["parameters"])} if "parameters" in trial.user_attrs else {}
        values = [{**row, **sizes}.get(objective.metric) for objective in space.objectives]
        if row["epoch"] > last and None not in values:
            record(ledger.storage, trial._trial_id, row["epoch"], values)
            found = True
    return found
