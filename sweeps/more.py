"""Ask an existing sweep for more: trials, hours, its failures again, a trial trained further. Each then brings it to its end.

What is asked for is written while this process holds the sweep, before any trial starts. Killed at any instant, the sweep
has been asked for all of it or for a part that the same command completes. The same retries or continuation asked for twice
are asked for once; `extend` by `+10` is ten more each time, so that after a kill `resume` goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from optuna.trial import FrozenTrial
from rich.console import Console

from sweeps import population, quota
from sweeps.attributes import CONTINUES, EPOCHS, REPEATS, REPLACES, RETRIES, own_trials, rejected
from sweeps.continuation import MAX_EPOCHS, last_epoch
from sweeps.edits import keep
from sweeps.errors import SweepError, suggestions
from sweeps.failures import FAILURES, failure_of
from sweeps.ledger import Ledger
from sweeps.runner import EXIT_DONE, EXIT_STOPPED, go_on, network_size
from sweeps.space import SearchSpace
from sweeps.study import SweepStudy

CONTINUABLE = ("finished", "spent", "outranked")
"""Verdicts of trials that can be trained further; one that failed or broke can be retried."""


def extend(
    name: str,
    trials: str | None,
    hours: str | None,
    root: Path,
    console: Console,
    *,
    epochs: str | None = None,
    cost: str | None = None,
) -> int:
    """Give a sweep more trials, or more of its budget (`+10`: ten more; `50`: fifty in all), also after its end; the exit
    status.

    Raises:
        SweepError: nothing, or no more than there is, was asked for; or trials of a space whose settings have all been tried.
    """
    budgets = {"hours": hours, "epochs": epochs, "cost": cost}
    if trials is None and not any(budgets.values()):
        raise SweepError("extend: say by how much, with --trials +10, --hours +1, --epochs +100 or --cost +5.")
    ledger = Ledger(name, root).require()

    def ask(space: SearchSpace) -> SearchSpace:
        said, search, budget = [], space.search, space.budget
        if trials is not None:
            if space.stopping.scheduler == "pbt":
                raise SweepError(f"--trials {trials}: {population.FIXED}")
            target = int(_more("--trials", trials, search.trials, int, f"the sweep {name!r} has {search.trials} trials"))
            if SweepStudy(ledger, space, network_size).exhausted:
                raise SweepError(
                    f"--trials {trials}: every setting of the sweep {name!r} has been tried, so that no more trials can run. "
                    "Search a larger space as another sweep."
                )
            said.append(f"{search.trials} → {target} trials")
            search = search.model_copy(update={"trials": target})
        for limit, text in budgets.items():
            if text is None:
                continue
            now = getattr(budget, limit)
            if now is None:
                raise SweepError(f"--{limit} {text}: the sweep {name!r} has no budget of {limit}: there is nothing to extend.")
            number = int if limit == "epochs" else float
            more = _more(f"--{limit}", text, now, number, f"the sweep {name!r} has a budget of {now:g} {limit}")
            said.append(f"{now:g} → {more:g} {limit}")
            budget = budget.model_copy(update={limit: more})
        space = replace(space, search=search, budget=budget)
        keep(ledger, space)
        console.print(f"{name}: {', '.join(said)}.")
        return space

    return go_on(ledger, console, ask)


def _more(option: str, text: str, now: float, number: Callable[[str], float], has: str) -> float:
    """What `text` (`+N`: so many more; `N`: so many in all) makes of `now`."""
    try:
        target = now + number(text) if text.startswith("+") else number(text)
    except ValueError:
        raise SweepError(f"{option} {text!r}: expected +N for N more, or N for N in all.") from None
    if not math.isfinite(target):
        raise SweepError(f"{option} {text!r}: expected +N for N more, or N for N in all.")
    if not target > now:
        raise SweepError(f"{option} {text}: {has} already, and only more can be asked for.")
    return target


def retry(name: str, only: str | None, root: Path, console: Console) -> int:
    """Run the failed trials of a sweep again, each as a new trial with the same parameters and a seed of its own; the exit
    status, which is 1 if they all failed again.

    A trial that has been retried is not retried again; a retry that failed too, is. For a continuation that failed, the
    command that asks for it again is named.

    Args: only: this kind of failure alone.

    Raises:
        SweepError: there is no such kind.
    """
    if only is not None and only not in FAILURES:
        raise SweepError(f"--only {only!r}: there is no such kind of failure. {suggestions(only, list(FAILURES))}")
    ledger = Ledger(name, root).require()
    sources: set[int] = set()

    def ask(space: SearchSpace) -> SearchSpace:
        study = ledger.study()
        failed = retryable(own_trials(study.get_trials(deepcopy=False)), only)
        for trial in failed:
            study.enqueue_trial(trial.params, user_attrs={RETRIES: trial.number, **_repeated(trial)})
        kinds = ", ".join(f"{trial.number} ({failure_of(trial)})" for trial in failed)
        trials = own_trials(study.get_trials(deepcopy=False))
        continuations = _failed_continuations(trials, only)
        none = f"no {'failed' if only is None else only} trial to retry{' but continuations' if continuations else ''}"
        what = f"{len(failed)} trials are run again: {kinds}" if failed else none
        console.print(f"{name}: {what}.", soft_wrap=True)
        for trial in continuations:
            console.print(f"trial {trial.number} {_continuation(ledger, trial)}", soft_wrap=True)
        if copies := [trial.number for trial in trials if REPLACES in trial.user_attrs and failure_of(trial)]:
            console.print(f"{name}: not run again, as the population went on without them: {', '.join(map(str, copies))}.")
        sources.update(
            trial.user_attrs[RETRIES] for trial in trials if RETRIES in trial.user_attrs and not trial.state.is_finished()
        )
        return space

    status = go_on(ledger, console, ask)
    return _judged(status, ledger, lambda trial: trial.user_attrs.get(RETRIES) in sources, console)


def retryable(trials: Sequence[FrozenTrial], only: str | None = None) -> list[FrozenTrial]:
    """Those of a study's trials that failed (in this way) and that no other trial retries."""
    retried = {trial.user_attrs.get(RETRIES) for trial in trials if not rejected(trial)}
    kinds = set(FAILURES) if only is None else {only}
    return [
        trial
        for trial in trials
        if failure_of(trial) in kinds and trial.number not in retried and not {CONTINUES, REPLACES} & trial.user_attrs.keys()
    ]


def _repeated(trial: FrozenTrial) -> dict[str, int]:
    """What a retry has in common with `trial`: a failed repeat that is run again repeats the same trial."""
    return {REPEATS: trial.user_attrs[REPEATS]} if REPEATS in trial.user_attrs else {}


def _failed_continuations(trials: Sequence[FrozenTrial], only: str | None) -> list[FrozenTrial]:
    """The latest of each continuation that was asked for, where that failed (in this way)."""
    latest = {
        (trial.user_attrs[CONTINUES], trial.user_attrs[EPOCHS]): trial
        for trial in trials
        if CONTINUES in trial.user_attrs and not rejected(trial)
    }
    return [trial for trial in latest.values() if (kind := failure_of(trial)) and only in {None, kind}]


def _continuation(ledger: Ledger, trial: FrozenTrial) -> str:
    """What a continuation that failed was, and how it is asked for again."""
    source, epochs = trial.user_attrs[CONTINUES], trial.user_attrs[EPOCHS]
    again = f"{ledger.command('continue')} TRIAL={source} EPOCHS={epochs}"
    return f"trained trial {source} further and failed ({failure_of(trial)}); ask for that again with `{again}`"


def _judged(status: int, ledger: Ledger, asked: Callable[[FrozenTrial], bool], console: Console) -> int:
    """`status`, the sweep's; but a sweep that is done has not done what was asked of it if all trials `asked` for failed."""
    trials = [trial for trial in own_trials(ledger.study().get_trials(deepcopy=False)) if asked(trial) and not rejected(trial)]
    if status != EXIT_DONE or not trials or not all(map(failure_of, trials)):
        return status
    told = ", ".join(f"{trial.number} ({failure_of(trial)})" for trial in trials)
    console.print(f"{ledger.name}: all trials that were asked for failed: {told}", soft_wrap=True)
    return EXIT_STOPPED


def continue_trial(name: str, number: int, epochs: str, root: Path, console: Console) -> int:
    """Train a trial that has ended further, from its last checkpoint, as a new trial (`+50`: fifty epochs more; `50`: until
    epoch 50); the exit status, which is 1 if that failed.

    Raises:
        SweepError: the trial cannot be continued, or not to so few epochs.
        LedgerError: its last checkpoint is missing or damaged.
    """
    ledger = Ledger(name, root).require()
    targets: set[int] = set()

    def ask(space: SearchSpace) -> SearchSpace:
        study = ledger.study()
        trials = {trial.number: trial for trial in own_trials(study.get_trials(deepcopy=False))}
        trial = _continuable(ledger, space, trials, number)
        quota.require_last(ledger, number)
        done = last_epoch(ledger.trial(number))
        target = int(_more("--epochs", epochs, done, int, f"trial {number} of the sweep {name!r} has {done} epochs"))
        targets.add(target)
        for other in trials.values():
            same = other.user_attrs.get(CONTINUES) == number and other.user_attrs[EPOCHS] == target
            if same and not failure_of(other) and not rejected(other):
                console.print(f"trial {other.number} continues trial {number} to epoch {target} already.")
                return space
        study.enqueue_trial(trial.params, user_attrs={CONTINUES: number, EPOCHS: target})
        console.print(f"{name}: trial {number} is trained further as a new trial, from epoch {done} to {target}.")
        return space

    status = go_on(ledger, console, ask)

    def asked(trial: FrozenTrial) -> bool:
        return trial.user_attrs.get(CONTINUES) == number and trial.user_attrs[EPOCHS] in targets

    return _judged(status, ledger, asked, console)


def _continuable(ledger: Ledger, space: SearchSpace, trials: dict[int, FrozenTrial], number: int) -> FrozenTrial:
    ended = {key: trial.user_attrs.get("verdict", {}).get("verdict") for key, trial in trials.items()}
    can = [key for key, verdict in ended.items() if verdict in CONTINUABLE]
    if number not in can:
        why = (
            "does not exist"
            if number not in trials
            else f"has {'not ended' if ended[number] is None else f'ended as {ended[number]}'}"
        )
        hint = ""
        if ended.get(number) in {"failed", "broken"}:
            continued = CONTINUES in trials[number].user_attrs
            run_again = f"one that failed is run again by `{ledger.command('retry')}`"
            hint = f"; it {_continuation(ledger, trials[number])}" if continued else f"; {run_again}"
        known = ", ".join(map(str, can)) or "none"
        raise SweepError(f"--trial {number}: it {why}{hint}. Trials of {ledger.name!r} that can be trained further: {known}.")
    if MAX_EPOCHS in space.parameters:
        raise SweepError(
            f"--trial {number}: the sweep {ledger.name!r} searches {MAX_EPOCHS}, so that more epochs are another point of its "
            "space and no continuation."
        )
    return trials[number]
