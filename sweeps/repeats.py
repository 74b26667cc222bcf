"""`search.repeats`: which trials are still to be run over with another seed, so that a configuration is judged by its mean.

A rule of `followups.py`: it knows the space and the study's trials, and neither files nor how trials run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from optuna.trial import FrozenTrial, TrialState

from sweeps.attributes import CONTINUES, FOLLOWS, INSTEAD_OF, KILLED, REPEATS, RETRIES, FollowUp, rejected
from sweeps.outcomes import outcome
from sweeps.schema import SearchSpace
from sweeps.settings import Tried, count
from sweeps.stopping import Verdict
from sweeps.winners import configurations, top


def possible(space: SearchSpace) -> bool:
    """Whether the space asks for repeats."""
    return space.search.repeats is not None


def concerns(space: SearchSpace, verdict: Verdict, trial: FrozenTrial, searched: bool) -> bool:
    """Every end of a first seed may be the one that `top` waits for; a single configuration's repeats wait for its own."""
    wanted = space.search.repeats
    if wanted is None or not _repeatable(trial):
        return False
    return searched if wanted.top is not None else verdict.verdict in {"finished", "spent"}


def alone(space: SearchSpace) -> bool:
    """A configuration's repeats follow from its first seed, unless they are those of the best."""
    return space.search.repeats is None or space.search.repeats.top is None


def due(space: SearchSpace, trials: Sequence[FrozenTrial]) -> Iterator[FollowUp]:
    """The repeats that do not exist yet. Args: trials: all of the study's own, waiting ones too."""
    if space.search.repeats is None:
        return
    asked = _asked(trials)
    for source in _sources(space, trials):
        for _ in range(space.search.repeats.seeds - 1 - asked[source.number]):
            yield FollowUp(source.params, {REPEATS: source.number})


def _asked(trials: Sequence[FrozenTrial]) -> Counter[int]:
    """How many repeats each trial was given. One whose driver was killed while proposing it counts, not the one that stands
    for it; one that failed counts, not the one that retries it."""
    first = [trial for trial in trials if not {RETRIES, INSTEAD_OF} & trial.user_attrs.keys()]
    return Counter(trial.user_attrs[REPEATS] for trial in first if REPEATS in trial.user_attrs)


def _sources(space: SearchSpace, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that are to be repeated: finished, and within the outcome constraints."""
    wanted = space.search.repeats.top if space.search.repeats else None
    if wanted is not None and not _searched(space, trials):
        return []
    finished = {trial.number: trial for trial in trials if trial.state == TrialState.COMPLETE and _repeatable(trial)}
    feasible = [each for each in map(outcome, finished.values()) if each.feasible]
    if wanted is None:
        return [finished[each.number] for each in feasible]
    return [finished[each.number] for each in top(configurations(feasible), space.modes, wanted)]


def _repeatable(trial: FrozenTrial) -> bool:
    """Whether it may be a configuration's first seed: a continuation has epochs that no other seed had."""
    return REPEATS not in trial.user_attrs and CONTINUES not in trial.user_attrs


def _searched(space: SearchSpace, trials: Sequence[FrozenTrial]) -> bool:
    """Whether all trials that may be sources have ended, retries too: as many as the space asks for, or as it has."""
    others = [trial for trial in trials if _repeatable(trial)]
    if not all(trial.state.is_finished() for trial in others):
        return False
    ran = sum(not rejected(trial) and not any(name in trial.user_attrs for name in FOLLOWS) for trial in others)
    return ran >= space.search.trials or _exhausted(space, others)


def _exhausted(space: SearchSpace, trials: Sequence[FrozenTrial]) -> bool:
    """Whether every setting of the space has been tried."""
    if count(space.parameters) is None:  # the usual case, in which no trial need be looked at
        return False
    tried = Tried(space)
    for trial in trials:
        if trial.user_attrs.get("verdict", {}).get("reason") != KILLED:  # its setting never ran, and may come again
            tried.add(trial.params, trial.number)
    return tried.exhausted
