"""A trial that ran out of memory is run once more with half the batch, where the space holds such a trial.

A rule of `followups.py`: it reads the space and the study's trials, and says what is to be enqueued.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeps.attributes import FOLLOWS, HALVED, RETRIES, FollowUp, rejected
from sweeps.failures import classify, failure_of
from sweeps.space import overrides, violated

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from sweeps.schema import SearchSpace
    from sweeps.stopping import Verdict

BATCH_SIZE = "data.batch_size"


def possible(space: SearchSpace) -> bool:
    """Whether any trial may be run again."""
    return space.resources.on_oom == "retry" and BATCH_SIZE in space.parameters


def concerns(space: SearchSpace, verdict: Verdict, trial: FrozenTrial, searched: bool) -> bool:
    """Whether a trial that ends so may be run again."""
    return space.resources.on_oom == "retry" and classify(verdict.verdict, verdict.reason) == "oom"


def alone(space: SearchSpace) -> bool:
    """Another trial may have had half the batch."""
    return False


def due(space: SearchSpace, trials: Sequence[FrozenTrial]) -> Iterator[FollowUp]:
    """For each trial that ran out of memory, and that nobody has asked for again: the same with half the batch."""
    if space.resources.on_oom != "retry":
        return
    asked = {trial.user_attrs.get(RETRIES) for trial in trials if HALVED in trial.user_attrs or not rejected(trial)}
    for trial in trials:
        if failure_of(trial) != "oom" or trial.number in asked:
            continue
        try:
            parameters = halved(space, trial, trials)
        except ValueError:  # its verdict says why
            continue
        yield FollowUp(parameters, {RETRIES: trial.number, HALVED: True})


def told(space: SearchSpace, trials: Sequence[FrozenTrial], number: int, error: str) -> str:
    """`error`, with which trial `number` has failed; if memory ran out, with what follows from that."""
    if space.resources.on_oom != "retry" or classify("failed", error) != "oom":
        return error
    trial = next(trial for trial in trials if trial.number == number)
    try:
        follows = f"run once more with {BATCH_SIZE}={halved(space, trial, trials)[BATCH_SIZE]}"
    except ValueError as reason:
        follows = f"not run again with half the batch: {reason}"
    first, *more = error.splitlines() or [""]
    return "\n".join([f"{first.rstrip()} ({follows})", *more])


def halved(space: SearchSpace, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """The parameters of `trial` with half its batch.

    Args: trials: all of the study's own.

    Raises:
        ValueError: the space holds no such trial, it is there already, or this one is not to be halved; the message says why.
    """
    numbers = {other.number: other for other in trials}
    source: FrozenTrial | None = trial
    while source is not None:
        if HALVED in source.user_attrs:
            raise ValueError("that has been done")
        source = numbers.get(source.user_attrs.get(RETRIES, -1))
    if any(name in trial.user_attrs for name in FOLLOWS if name != RETRIES):
        raise ValueError("it follows another trial, whose batch it shares")
    size = trial.params.get(BATCH_SIZE)
    if size is None:
        raise ValueError(f"{BATCH_SIZE} is not searched{' in such a trial' if BATCH_SIZE in space.parameters else ''}")
    if isinstance(size, bool) or not isinstance(size, int):
        raise ValueError(f"{BATCH_SIZE} is {size!r}, no whole number")
    try:
        half = space.parameters[BATCH_SIZE].distribution.canonical(size // 2)
    except ValueError as error:
        raise ValueError(f"{size // 2} is not in the space: {str(error).rstrip('.')}") from error
    parameters = _active(space, {**trial.params, BATCH_SIZE: half})
    if broken := violated(space, parameters, lambda: _network_size(overrides(space, parameters))):
        raise ValueError(f"the constraint {broken} forbids it")
    for other in trials:
        if not rejected(other) and parameters in (other.params, other.system_attrs.get("fixed_params")):
            raise ValueError(f"that is trial {other.number}")
    return parameters


def _active(space: SearchSpace, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are active; what half a batch makes active is left to the sampler."""
    chosen: dict[str, Any] = {}
    for key, parameter in space.parameters.items():
        if key in parameters and parameter.active(chosen):
            chosen[key] = parameters[key]
    return chosen


def _network_size(chosen: list[str]) -> int:
    from lhtx.compose import describe

    return describe(chosen).parameters
