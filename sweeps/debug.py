"""One trial in this process, without Ray and without a study: to step through it, or to see trial N of a sweep again."""

from __future__ import annotations

import pdb
import sys
import traceback
from datetime import datetime
from pathlib import Path

from optuna.trial import FrozenTrial
from rich.console import Console

from lhtx.errors import USER_ERRORS
from sweeps.attributes import own_trials
from sweeps.continuation import begin_again
from sweeps.errors import SweepError
from sweeps.ledger import Ledger, TrialFiles
from sweeps.proposals import draw
from sweeps.quota import require_start
from sweeps.runner import network_size
from sweeps.space import load_space

DEBUG_ROOT = Path("logs/debug")


def recorded_trial(ledger: Ledger, number: int) -> FrozenTrial:
    """Trial `number`, as the study holds it; its overrides are among its user attributes.

    Raises:
        SweepError: the sweep has no such trial, or it never ran.
    """
    trials = {trial.number: trial for trial in own_trials(ledger.study().get_trials(deepcopy=False))}
    ran = sorted(number for number, trial in trials.items() if "overrides" in trial.user_attrs)
    if number not in ran:
        verdict = trials[number].user_attrs.get("verdict", {"reason": "it waits for its turn"}) if number in trials else None
        why = f"was never run ({verdict['reason']})" if verdict else "does not exist"
        known = f"{ran[0]} to {ran[-1]}" if ran else "none"
        raise SweepError(f"Trial {number} of the sweep {ledger.name!r} {why}. Trials that ran: {known}.")
    return trials[number]


def debug(name: str, trial: int | None, extra: list[str], root: Path, console: Console) -> int:
    """Run a trial drawn from a space, or a recorded one, with `extra` overrides on top; the exit status."""
    if trial is None:
        chosen, label = draw(load_space(name), 0, network_size), Path(name).stem
    else:
        found = recorded_trial(ledger := Ledger(name, root).require(), trial)
        require_start(ledger, found)
        chosen, label = list(found.user_attrs["overrides"]), f"{name}-{trial:04d}"
    chosen += extra
    console.print("overrides:", *chosen, sep="\n  ", markup=False, soft_wrap=True)
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    files = TrialFiles(DEBUG_ROOT / f"{label}_{stamp}")
    files.directory.mkdir(parents=True)

    if trial is not None and begin_again(ledger.trial(trial), files):
        console.print("it is a copy of another trial, and starts from that one's checkpoint as it did then")

    from lhtx.epoch_report import EpochReport
    from sweeps.trial import Assignment, Listener, run_trial

    class Reader(Listener):
        def hear(self, report: EpochReport) -> None:
            shown = {name: value for name, value in report.metrics.items() if name.startswith(("train/", "val/"))}
            line = "  ".join(f"{name}={value:.4g}" for name, value in sorted(shown.items()))
            console.print(f"epoch {report.epoch}/{report.max_epochs}  {line}", soft_wrap=True)

    try:
        metrics = run_trial(Assignment(trial or 0, tuple(chosen), str(files.directory.resolve())), Reader())
    except USER_ERRORS:
        raise  # the user's own input: one message, no debugger
    except Exception:  # noqa: BLE001  whatever the trial raises is what this command is for
        traceback.print_exc()
        if not sys.stdin.isatty():
            return 1
        pdb.post_mortem(sys.exc_info()[2])
        return 1
    for key, value in sorted(metrics.items()):
        console.print(f"{key} = {value!r}")
    console.print(f"outputs: {files.directory}")
    return 0
