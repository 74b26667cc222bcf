"""`search.from`: finished trials of other sweeps, which the sampler of a new one learns from.

They are checked before anything expensive starts, and copied into the new study, so that the other sweep may be deleted then.
They are no trials of the new sweep (`attributes.own_trials`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import outcomes
from sweeps.attributes import CONTINUES, FROM, own_trials
from sweeps.errors import LedgerError, Problem, SpaceError
from sweeps.hydra_overrides import key_of
from sweeps.ledger import Ledger
from sweeps.samplers import LEAST_SOURCES
from sweeps.schema import SearchSpace

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

MOST_TOLD = 8
"""How many kinds of difference, or of misfit, are told of one sweep."""


@dataclass(frozen=True)
class Source:
    """What is taken over from another sweep."""

    ledger: Ledger
    trials: tuple[FrozenTrial, ...]
    """As the new study is to hold them, in their order."""
    left_out: Counter[str]
    """Why other finished trials of it do not fit → how many."""
    differences: tuple[str, ...]
    """What its trials had in common, and those of the new sweep have not: their values may mean something else."""
    commit: str | None
    """That it was last run at."""

    def record(self) -> dict[str, Any]:
        """What the new sweep's manifest keeps of it."""
        held = [[trial.user_attrs[FROM]["trial"], trial.params, trial.values] for trial in self.trials]
        return {
            "sweep": self.ledger.name,
            "directory": str(self.ledger.directory.resolve()),
            "trials": len(self.trials),
            "left_out": dict(self.left_out),
            "commit": self.commit,
            "sha256": hashlib.sha256(json.dumps(held).encode()).hexdigest(),
        }

    def told(self) -> list[str]:
        """What a person should know of it, a line each."""
        said = [f"from {self.ledger.name}: {len(self.trials)} finished trials inform the sampler"]
        if self.left_out:
            said[0] += f"; left out: {_counted(self.left_out)}"
        if self.differences:
            more = f"; and {len(self.differences) - MOST_TOLD} more" if len(self.differences) > MOST_TOLD else ""
            shown = "; ".join(self.differences[:MOST_TOLD])
            said.append(
                f"note: its trials ran with something else, so that their values may mean something else: {shown}{more}"
            )
        return said


def sources(space: SearchSpace, root: Path, new: Ledger | None = None) -> list[Source]:
    """What each sweep that `space` names under `search.from` has for it.

    Args:
        root: the directory of all sweeps, where a name is looked up; a text with a `/` is the path of a sweep's directory.
        new: the sweep that is to learn, if it has a name already.

    Raises:
        SpaceError: one of them is missing, cannot be read, has other objectives, or no trial that fits; with why.
    """
    found, problems = [], []
    for index, name in enumerate(space.search.sources):
        try:
            if _same(new, name, root):
                raise ValueError("a sweep cannot learn from itself")
            found.append(_source(space, name, root))
        except (LedgerError, ValueError) as error:
            problems.append(Problem(space.where(("search", "from", index)), f"search.from.{index}: {error}"))
    taken = len(trials(found))
    if not problems and found and space.search.sampler == "cmaes" and taken < LEAST_SOURCES:
        what = f"cmaes starts from {LEAST_SOURCES} trials of other sweeps or more, and of these {taken} fit: use tpe"
        problems.append(Problem(space.where(("search", "from")), f"search.from: {what}"))
    if problems:
        raise SpaceError(problems)
    return found


def _same(new: Ledger | None, name: str, root: Path) -> bool:
    """Whether a name under `search.from` is that of the sweep itself."""
    there = Path(name) if "/" in name else root / name
    return new is not None and there.resolve() == new.directory.resolve()


def _source(space: SearchSpace, name: str, root: Path) -> Source:
    from sqlalchemy.exc import DatabaseError

    path = Path(name)
    if "/" in name and not Ledger(path.name, path.parent).exists():
        raise LedgerError(f"{name} is no sweep's directory")
    ledger = (Ledger(path.name, path.parent) if "/" in name else Ledger(name, root)).require()
    study = ledger.study()
    _check_objectives(space, study, ledger.name)
    try:
        trials = own_trials(study.get_trials(deepcopy=False))
    except DatabaseError as error:
        raise LedgerError(f"the trials of the sweep {ledger.name!r} cannot be read ({error.orig})") from error
    finished = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if not finished:
        raise ValueError(f"the sweep {ledger.name!r} has no finished trial to learn from")
    taken, left_out = [], Counter[str]()
    for trial in finished:
        try:
            taken.append(_taken(space, ledger, trial))
        except ValueError as error:
            left_out[str(error)] += 1
    if not taken:
        raise ValueError(f"no finished trial of the sweep {ledger.name!r} fits this space: {_counted(left_out)}")
    plain, sessions = ledger.plain_space(), ledger.manifest().get("sessions", [])
    commit = (sessions[-1].get("code") or {}).get("commit") if sessions else None
    return Source(ledger, tuple(taken), left_out, tuple(_differences(space, plain)), commit)


def _check_objectives(space: SearchSpace, study: optuna.Study, name: str) -> None:
    noted = study.user_attrs
    there = noted.get("objectives") or [{"metric": noted.get("metric"), "mode": noted.get("mode")}]
    here = [objective.model_dump() for objective in space.objectives]
    if there != here:
        shown = [", ".join(f"{each['metric']} ({each['mode']})" for each in side) for side in (there, here)]
        raise ValueError(f"the sweep {name!r} optimises {shown[0]}, and this space {shown[1]}: their values cannot be compared")


def _taken(space: SearchSpace, ledger: Ledger, trial: FrozenTrial) -> FrozenTrial:
    """`trial` as the new study is to hold it.

    Raises:
        ValueError: it does not fit.
    """
    from optuna.samplers import NSGAIISampler
    from optuna.trial import TrialState, create_trial

    if CONTINUES in trial.user_attrs:
        raise ValueError("was trained further, for more epochs than the others")
    chosen = _setting(space, trial)
    try:
        violations = outcomes.of_trial(space, trial, ledger.trial(trial.number).history) if space.outcome_constraints else None
    except LedgerError:
        raise ValueError("has no record of what an outcome constraint asks for") from None
    return create_trial(
        state=TrialState.COMPLETE,
        values=trial.values,
        params=chosen,
        distributions={key: space.parameters[key].distribution.to_optuna() for key in chosen},
        user_attrs={FROM: {"sweep": ledger.name, "trial": trial.number}},
        system_attrs={NSGAIISampler._get_generation_key(): 0},  # a genetic algorithm breeds from generations
        constraints=violations,
    )


def _setting(space: SearchSpace, trial: FrozenTrial) -> dict[str, Any]:
    """The parameters of the space that are active in `trial`, with its values.

    Raises:
        ValueError: one is missing, of another kind, or has a value that the space does not hold.
    """
    from optuna.distributions import CategoricalDistribution, check_distribution_compatibility

    chosen: dict[str, Any] = {}
    for key, parameter in space.parameters.items():
        if not parameter.active(chosen):
            continue
        if key not in trial.params:
            raise ValueError(f"{key} is missing")
        here, there = parameter.distribution.to_optuna(), trial.distributions[key]
        try:
            check_distribution_compatibility(there, here)
        except ValueError:
            choices = [isinstance(each, CategoricalDistribution) for each in (there, here)]
            raise ValueError(f"{key} has {'other choices' if all(choices) else 'another distribution'}") from None
        try:
            chosen[key] = parameter.distribution.canonical(trial.params[key])
        except ValueError:
            raise ValueError(f"{key} is out of range") from None
    return chosen


def _differences(space: SearchSpace, there: dict[str, Any]) -> list[str]:
    """In which fixed overrides the two spaces differ, and what only the other one has searched."""
    here = {key_of(text): text for text in space.trial}
    fixed = {key_of(text): text for text in there.get("trial") or []}
    searched = set(there.get("space") or {})
    found = []
    for key in dict.fromkeys([*fixed, *here]):
        if fixed.get(key) != here.get(key) and key not in searched:
            found.append(f"{fixed.get(key, f'no {key}')} there, {here.get(key, f'no {key}')} here")
    for key in sorted(searched - set(space.parameters)):
        found.append(f"{key} searched there, {here.get(key, 'not')} here")
    return found


def _counted(reasons: Counter[str]) -> str:
    shown = [f"{count} ({why})" for why, count in reasons.most_common(MOST_TOLD)]
    return ", ".join(shown) + (", …" if len(reasons) > MOST_TOLD else "")


def trials(found: Sequence[Source]) -> list[FrozenTrial]:
    """All that is to be added to the new study."""
    return [trial for source in found for trial in source.trials]


def recorded(found: Sequence[Source]) -> dict[str, Any]:
    """What the new sweep's manifest keeps of them; nothing where there are none."""
    return {"from": [source.record() for source in found]} if found else {}
