"""A trial that takes up where another stands: it starts with that one's history, checkpoints and events, copied.

The other one stays as it ended. Whether a trial may be continued is asked in `more.py`; here it is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import resources
from sweeps.attributes import EXPLOITS, FOLLOWS, HALVED, INSTEAD_OF
from sweeps.errors import LedgerError
from sweeps.hydra_overrides import key_of, override
from sweeps.ledger import CONTINUES, EPOCHS, History, Ledger, TrialFiles, read_history
from sweeps.recorded import recorded
from sweeps.schema import SearchSpace

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

MAX_EPOCHS = "trainer.max_epochs"
_OWN = ("error.txt", "metrics.json", "stdout.log", ".running", "overrides.txt", "config.yaml")
"""Files of a trial that a trial which continues it makes itself, or does not have."""


def enqueue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueue what `trial` was to be, if somebody had asked for it and a driver was killed while proposing it."""
    fixed = trial.system_attrs.get("fixed_params")
    if fixed is None or any(other.user_attrs.get(INSTEAD_OF) == trial.number for other in study.get_trials(deepcopy=False)):
        return
    asked = {name: trial.user_attrs[name] for name in (*FOLLOWS, HALVED, EXPLOITS, EPOCHS) if name in trial.user_attrs}
    study.enqueue_trial(fixed, user_attrs={**asked, INSTEAD_OF: trial.number})


def begin(ledger: Ledger, space: SearchSpace, trial: optuna.Trial) -> tuple[list[str], dict[int, tuple[float, ...]]]:
    """Make the directory of `trial`, whole or not at all; its overrides, and the objectives by epoch so far.

    Raises:
        LedgerError: the checkpoint of the trial that it continues cannot be read.
    """
    number, source = trial.number, trial.user_attrs[CONTINUES]
    other = next(each for each in trial.study.get_trials(deepcopy=False) if each.number == source)
    epoch = copy(ledger.trial(source), ledger.trial(number))
    values = {at: values for at, values in recorded(other).items() if at <= epoch}
    return _overrides(other.user_attrs["overrides"], space, trial.user_attrs[EPOCHS]), values


def _overrides(recorded: list[str], space: SearchSpace, epochs: int) -> list[str]:
    """Those of the trial that is continued, its seed among them, with more epochs and what a trial is allotted now."""
    allotted = resources.overrides(space.resources)
    replaced = {MAX_EPOCHS, *map(key_of, allotted)}
    return [*(text for text in recorded if key_of(text) not in replaced), *allotted, override(MAX_EPOCHS, epochs)]


def copy(source: TrialFiles, target: TrialFiles) -> int:
    """Copy what `source` has been through to `target`; how many epochs that is. What an earlier driver left there goes."""
    draft = target.directory.with_name(f".{target.directory.name}")
    for leftover in (draft, target.directory):
        shutil.rmtree(leftover, ignore_errors=True)
    files = TrialFiles(draft)
    shutil.copytree(source.directory, draft, ignore=shutil.ignore_patterns(*_OWN, ".*"))
    epoch = 0
    for checkpoint in sorted(files.checkpoints.glob("*.ckpt")):
        reached = _move(checkpoint, source.directory, target.directory)
        epoch = reached if checkpoint.name == files.last_checkpoint.name else epoch
    history = History.open(files.history)
    history.keep([{**row, "verdict": ""} for row in read_history(files.history) if row["epoch"] <= epoch])
    draft.rename(target.directory)
    return epoch


def last_epoch(files: TrialFiles) -> int:
    """How many epochs the last checkpoint of a trial holds.

    Raises:
        LedgerError: there is none, or it cannot be read.
    """
    return int(_load(files.last_checkpoint)["epoch"]) + 1


def _load(path: Path) -> dict[str, Any]:
    from lhtx.checkpoints import load_checkpoint
    from lhtx.errors import CheckpointError

    try:
        return load_checkpoint(path)
    except CheckpointError as error:
        raise LedgerError(f"the trial cannot be continued: {error}") from error


def _move(path: Path, source: Path, target: Path) -> int:
    """Rewrite the directory that a checkpoint's callbacks remember: without that they would take the first new epoch for the
    best one. The epochs that it holds."""
    import torch

    from lhtx.files import replacing

    checkpoint = _load(path)
    before, after = str(source.resolve()), str(target.resolve())
    checkpoint["callbacks"] = _replaced(checkpoint.get("callbacks", {}), before, after)
    with replacing(path) as temporary:
        torch.save(checkpoint, temporary)
    return int(checkpoint["epoch"]) + 1


def _replaced(value: Any, before: str, after: str) -> Any:
    """`value` with every text in it that starts with `before` starting with `after`."""
    if isinstance(value, str):
        return after + value[len(before) :] if value == before or value.startswith(f"{before}/") else value
    if isinstance(value, Mapping):
        return {_replaced(key, before, after): _replaced(item, before, after) for key, item in value.items()}
    return value
