"""A trial that takes up where another stands: it starts with that one's history, checkpoints and events, copied.

The other one stays as it ended. Whether a trial may be continued is asked in `more.py`; here it is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from lhtx.files import REMOVED
from sweeps import resources
from sweeps.attributes import COPIED, EXPLOITS, FOLLOWS, HALVED, INSTEAD_OF
from sweeps.errors import LedgerError
from sweeps.hydra_overrides import key_of, override
from sweeps.ledger import CONTINUES, EPOCHS, RUNNING, History, Ledger, TrialFiles, read_history
from sweeps.population import OWN_HYPERPARAMETERS
from sweeps.proposals import assemble
from sweeps.recorded import recorded
from sweeps.relocation import relocated
from sweeps.schema import SearchSpace

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

MAX_EPOCHS = "trainer.max_epochs"
_OWN = ("error.txt", "metrics.json", "stdout.log", RUNNING, "overrides.txt", "config.yaml", "*.hparams", REMOVED)
"""Files of a trial that a trial which continues it makes itself, or does not have."""


def enqueue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueue what `trial` was to be, if somebody had asked for it and a driver was killed while proposing it."""
    fixed = trial.system_attrs.get("fixed_params")
    if fixed is None or any(other.user_attrs.get(INSTEAD_OF) == trial.number for other in study.get_trials(deepcopy=False)):
        return
    asked = {name: trial.user_attrs[name] for name in (*FOLLOWS, HALVED, EXPLOITS, EPOCHS) if name in trial.user_attrs}
    study.enqueue_trial(fixed, user_attrs={**asked, INSTEAD_OF: trial.number})


def begin(ledger: Ledger, space: SearchSpace, trial: optuna.Trial) -> tuple[list[str], dict[int, tuple[float, ...]]]:
    """Make the directory of `trial`, whole or not at all; its overrides, and the objectives by epoch so far: none of a copy,
    whose own epochs are yet to come.

    Raises:
        LedgerError: the checkpoint of the trial that it continues, or is a copy of, cannot be read.
    """
    if EXPLOITS in trial.user_attrs:
        inherit(ledger.trial(trial.user_attrs[EXPLOITS]), ledger.trial(trial.number), trial.user_attrs[EPOCHS])
        trial.set_user_attr(COPIED, [trial.user_attrs[EPOCHS], 0.0])
        return [*assemble(space, trial.params, trial.number), OWN_HYPERPARAMETERS], {}
    number, source = trial.number, trial.user_attrs[CONTINUES]
    other = next(each for each in trial.study.get_trials(deepcopy=False) if each.number == source)
    epoch = copy(ledger.trial(source), ledger.trial(number))
    if rows := read_history(ledger.trial(number).history):
        trial.set_user_attr(COPIED, [rows[-1]["epoch"], rows[-1]["seconds"]])
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


def inherit(source: TrialFiles, target: TrialFiles, epoch: int) -> None:
    """Let `target` start from the last checkpoint of `source`, which it keeps as `TrialFiles.start_checkpoint`. Whatever lies
    there goes: it is an earlier driver's.

    Raises:
        LedgerError: there is none, it cannot be read, or it holds more epochs than `epoch`.
    """
    import torch

    from lhtx.restoring import as_start

    checkpoint = _load(source.last_checkpoint)
    if (reached := int(checkpoint["epoch"]) + 1) > epoch:
        raise LedgerError(f"{source.last_checkpoint} holds {reached} epochs, and {epoch} are to be copied")
    draft = target.directory.with_name(f".{target.directory.name}")
    for leftover in (draft, target.directory):
        shutil.rmtree(leftover, ignore_errors=True)
    files = TrialFiles(draft)
    files.checkpoints.mkdir(parents=True)
    torch.save(as_start(checkpoint), files.start_checkpoint)
    begin_again(files, files)
    if source.config.exists():  # beside a checkpoint lies the config of the run that wrote it; this trial writes its own
        shutil.copy(source.config, files.config)
    draft.rename(target.directory)


def begin_again(source: TrialFiles, target: TrialFiles) -> bool:
    """Let `target` begin where `source` began: with its start checkpoint, if it is a copy, else with nothing; which it is."""
    if not source.start_checkpoint.exists():
        return False
    target.checkpoints.mkdir(parents=True, exist_ok=True)
    shutil.copy(source.start_checkpoint, target.last_checkpoint)
    if source != target and source.config.exists():
        shutil.copy(source.config, target.config)
    return True


def awaited(ledger: Ledger, trials: Sequence[FrozenTrial]) -> tuple[FrozenTrial, bool] | None:
    """The trial of whose last checkpoint the next one is to be a copy, if that is not there yet; and whether its process still
    is, to write it. None if the next trial can start.

    Args: trials: all of the study's own.
    """
    copies = [trial for trial in trials if trial.state.name == "WAITING"][:1]
    if not copies or EXPLOITS not in copies[0].user_attrs:
        return None
    donor = next(trial for trial in trials if trial.number == copies[0].user_attrs[EXPLOITS])
    files = ledger.trial(donor.number)
    lock = FileLock(files.directory / RUNNING)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return donor, True
    lock.release()
    if donor.state.is_finished():  # what it has left is all that there will be
        return None
    try:
        written = last_epoch(files)
    except LedgerError:
        written = 0
    return (donor, False) if written < copies[0].user_attrs[EPOCHS] else None


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
    checkpoint["callbacks"] = relocated(checkpoint.get("callbacks", {}), before, after)
    with replacing(path) as temporary:
        torch.save(checkpoint, temporary)
    return int(checkpoint["epoch"]) + 1
