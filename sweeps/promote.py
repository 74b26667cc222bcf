"""A trial as a Hydra experiment: `experiment=NAME` composes what the trial was composed of, and says where it comes from."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from lhtx.compose import CONFIGS, compose
from lhtx.errors import ConfigError
from lhtx.files import write_atomically
from sweeps import population
from sweeps.attributes import own_trials
from sweeps.debug import recorded_trial
from sweeps.errors import SweepError
from sweeps.hydra_overrides import override, parse
from sweeps.ledger import Ledger
from sweeps.manifest import session_at
from sweeps.overview import Overview, overview
from sweeps.quota import removed

GROUP = "experiment"
MOST_NAMED = 20
"""How many trials a refusal lists."""
_MARK = "# Promoted from the sweep {}, trial "


def promote(ledger: Ledger, number: int | None, name: str | None, console: Console, configs: Path = CONFIGS) -> Path:
    """Write a trial of a sweep as an experiment.

    Args:
        number: a COMPLETE trial; None takes the best one within the outcome constraints (with several objectives, by the
            first; where configurations ran with several seeds, the first seed of the one with the best mean).
        name: the experiment's; None takes the sweep's.
        configs: the directory of Hydra's groups.

    Returns:
        The file. One that was promoted from the same sweep is replaced.

    Raises:
        SweepError: no trial has a value, the trial is not COMPLETE, it cannot be told as a config, or the name is taken.
        LedgerError: the sweep is missing or damaged.
    """
    seen = overview(ledger)
    if number is None:
        if seen.best is None:
            why = "is within its outcome constraints" if seen.infeasible else "has a value yet"
            raise SweepError(f"No trial of the sweep {ledger.name!r} {why}: name one with --trial.")
        number = seen.best[0]
    trial = recorded_trial(ledger, number)
    if trial.state != TrialState.COMPLETE:
        raise SweepError(f"Trial {number} of the sweep {ledger.name!r} {_ended(trial)}, {_accepted(ledger)}")
    name = name or ledger.name
    if not re.fullmatch(r"[A-Za-z0-9]\w*", name):
        raise SweepError(f"An experiment cannot be named {name!r}: use letters, digits and '_'. Name it with --as.")
    file = configs / GROUP / f"{name}.yaml"
    mark = _MARK.format(ledger.name)
    if file.exists() and mark not in file.read_text():
        raise SweepError(f"{file} exists and is not of this sweep: choose another name with --as.")
    chosen = trial.user_attrs["overrides"]
    text = f"# @package _global_\n{_provenance(seen, trial, mark)}{experiment(chosen)}"
    _check(text, chosen, configs)
    write_atomically(file, text)
    console.print(f"trial {number} of {ledger.name}: {file}", soft_wrap=True)
    if broken := _broken(trial):
        console.print(f"it breaks an outcome constraint: {broken}", soft_wrap=True)
    if gone := removed(ledger, number):
        console.print(gone, soft_wrap=True)
    console.print(f"train it again: python -m lhtx.train experiment={name}", soft_wrap=True)
    return file


def _broken(trial: FrozenTrial) -> str:
    """The outcome constraints that it breaks, and by how much; empty if all hold."""
    return ", ".join(f"{name} by {violation:.4g}" for name, violation in trial.constraints.items() if violation > 0)


def _ended(trial: FrozenTrial) -> str:
    if not trial.state.is_finished():
        return "has not ended"
    verdict = trial.user_attrs.get("verdict", {})
    return f"ended as {verdict.get('verdict', trial.state.name)} ({verdict.get('reason', 'of which nothing is noted')})"


def _accepted(ledger: Ledger) -> str:
    """Which trials can be promoted, the first of them by number."""
    study = ledger.study()
    complete = [trial.number for trial in own_trials(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))]
    more = f" and {len(complete) - MOST_NAMED} more" if len(complete) > MOST_NAMED else ""
    return f"and only COMPLETE ones are promoted: {', '.join(map(str, complete[:MOST_NAMED])) or 'there is none'}{more}."


def experiment(overrides: Sequence[str]) -> str:
    """The body of an experiment that does what `overrides` do.

    Raises:
        SweepError: one of them has no counterpart in a config file.
    """
    bases: list[str] = []
    groups: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for text in overrides:
        parsed = parse(text)
        key, value = parsed.key_or_group, parsed.value()
        if parsed.package is not None or (parsed.is_delete() and not (CONFIGS / key).is_dir()):
            raise SweepError(
                f"the override {text!r} has no counterpart in a config file, so that this trial cannot be promoted."
            )
        if key == GROUP:
            bases = [] if value is None else value if isinstance(value, list) else [value]
        elif (CONFIGS / key).is_dir() and not isinstance(value, Mapping):
            groups[key] = value
        else:
            _merge(values, key.split("."), value)
    defaults = [*bases, "_self_", *({f"override /{group}": option} for group, option in groups.items())]
    return yaml.safe_dump({"defaults": defaults}, sort_keys=False) + (
        f"\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}" if values else ""
    )


def _merge(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set `value` at `path` as an override does: a mapping is merged into what is there."""
    head, *rest = path
    if rest:
        inner = values.get(head)
        values[head] = inner if isinstance(inner, dict) else {}
        _merge(values[head], rest, value)
    elif isinstance(value, Mapping) and isinstance(values.get(head), dict):
        for key, item in value.items():
            _merge(values[head], [key], item)
    else:
        values[head] = dict(value) if isinstance(value, Mapping) else value


def _check(text: str, overrides: Sequence[str], configs: Path) -> None:
    """Raises SweepError unless the experiment composes to what the overrides compose to."""
    try:
        wanted = plain(compose(overrides))
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / GROUP).mkdir()
            (Path(directory) / GROUP / "promoted_draft.yaml").write_text(text)
            places = [f"file://{place}" for place in (directory, configs)]
            found = plain(compose([override("hydra.searchpath", places), f"{GROUP}=promoted_draft"]))
    except ConfigError as error:
        raise SweepError(f"this trial cannot be promoted, as its overrides do not compose any more: {error}") from error
    if different := differences(wanted, found):
        raise SweepError(f"this trial cannot be told as a config file; these would differ: {', '.join(different)}.")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A composed config as plain data, interpolations as they are written: what they lead to depends on the dataset."""
    return OmegaConf.to_container(cfg, resolve=False)  # type: ignore[return-value]


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """The keys at which two configs differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [
            found
            for key in keys
            for found in differences(one.get(key, ...), other.get(key, ...), f"{path}.{key}" if path else str(key))
        ]
    return [] if one == other and type(one) is type(other) else [path]


def _provenance(seen: Overview, trial: FrozenTrial, mark: str) -> str:
    metric = seen.metric
    code = session_at(seen.ledger.manifest(), trial.datetime_start).get("code", {})
    commit = code.get("commit") or "an unknown commit"
    verdict = trial.user_attrs.get("verdict")
    ended = f"complete ({verdict['verdict']} at epoch {verdict['epoch']})" if verdict else "complete"
    changed = " with uncommitted changes" if code.get("diff") else ""
    values = [f"{metric} {trial.values[0]:.6g}"]
    values += [f"{key} {value:.6g}" for key, value in trial.user_attrs.get("metrics", {}).items() if key.startswith("test/")]
    lines = [
        f"{mark}{trial.number}: {', '.join(values)}.",
        f"# {ended}, trained {trial.datetime_start:%Y-%m-%d} at {commit}{changed}.",
    ]
    trials = {each.number: each for each in own_trials(seen.ledger.study().get_trials(deepcopy=False))}
    lines += [f"# {line}" for line in population.told(trials, trial.number)]
    found = next(each for each in seen.configurations if trial.number in each.trials)
    if found.repeated:
        best = "Best by mean over" if found == seen.winner else "Its configuration ran with"
        numbers, spread = ", ".join(map(str, found.trials)), f"standard deviation {found.deviations[0]:.3g}"
        lines.append(f"# {best} {found.seeds} seeds (trials {numbers}): {metric} {found.values[0]:.6g}, {spread}.")
    if broken := _broken(trial):
        lines.append(f"# Breaks an outcome constraint: {broken}.")
    return "\n".join(lines) + "\n"
