"""Everything at once: schedulers, guard, repeats, warm starts, constraints, budgets, quotas, retries, continuations and kills,
combined at random. Whatever the combination, the sweep comes to its end, and everyone who reads it says the same of it."""

from __future__ import annotations

import io
import math
import random
import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from analysis.front import front as analysed_front
from analysis.load import load
from sweeps import more, promote, quota, runner, usage, warm_start
from sweeps.attributes import (
    CONTINUES,
    EPOCHS,
    EXEMPT,
    EXPLOITS,
    FROM,
    REPEATS,
    REPLACES,
    RETRIES,
    asked_again,
    follows,
    own_trials,
    rejected,
)
from sweeps.creation import create_ledger
from sweeps.ends import STATES
from sweeps.errors import SweepError
from sweeps.failures import failure_of
from sweeps.ledger import Ledger, read_history, recorded
from sweeps.located_yaml import dump
from sweeps.overview import overview
from sweeps.space import load_space
from sweeps.study import SweepStudy

SIZE = 7
"""Parameters of every network."""
LR, BATCH = "model.optimizer.lr", "data.batch_size"
SCHEDULERS = {
    "fifo": {},
    "asha": {"grace_epochs": 1, "reduction_factor": 2},
    "hyperband": {"grace_epochs": 1, "reduction_factor": 2},
    "median": {"grace_epochs": 1, "min_trials": 1},
    "constant": {"cutoff_epochs": 2, "top_k": 2},
    "pbt": {"interval_epochs": 1, "quantile": 0.5, "perturb": [LR], "resample_probability": 0.5},
}


@st.composite
def plans(draw) -> dict[str, Any]:
    """A search space, as plain data."""
    scheduler = draw(st.sampled_from([*SCHEDULERS]))
    pbt, several = scheduler == "pbt", draw(st.booleans())
    finite = not pbt and draw(st.booleans())
    space: dict[str, Any] = {LR: {"choice": [0.1, 0.2]} if finite else {"log_uniform": [1e-4, 1e-1]}}
    if draw(st.booleans()):
        space[BATCH] = {"power_of_two": [16, 64]}
    search: dict[str, Any] = {"trials": draw(st.integers(2, 6)), "seed": draw(st.integers(0, 9)), "sampler": "random"}
    if not pbt:
        search["sampler"] = draw(st.sampled_from(["random", "tpe", "nsgaii", *(["grid"] if finite else [])]))
        if draw(st.booleans()):
            search["repeats"] = {"seeds": draw(st.integers(2, 3)), **draw(st.sampled_from([{}, {"top": 1}, {"top": 2}]))}
    if draw(st.booleans()):
        search["start_with"] = [{LR: 0.1}]
    guard = draw(
        st.sampled_from([{"mode": "off"}, *({"mode": mode, "patience": 2, "min_gain": 0.3} for mode in ("act", "shadow"))])
    )
    plan: dict[str, Any] = {
        "description": "A test's space.",
        "trial": ["experiment=vimh", "trainer.max_epochs=4"],
        "objective": {"metric": "val/a", "mode": draw(st.sampled_from(["max", "min"]))},
        "space": space,
        "search": search,
        "stopping": {
            "scheduler": scheduler,
            **SCHEDULERS[scheduler],
            "guard": guard,
        },
        "resources": {"on_oom": draw(st.sampled_from(["retry", "fail"]))},
        "budget": {"prices": {"cpu": 2}, **({"epochs": draw(st.integers(3, 20))} if draw(st.booleans()) else {})},
    }
    if several:
        other = draw(st.sampled_from(["val/b", "parameters"]))
        plan["objective"] = [plan["objective"], {"metric": other, "mode": "min"}]
    if draw(st.booleans()):
        plan["outcome_constraints"] = [{"metric": "val/b", "max": draw(st.sampled_from([0.2, 0.7]))}]
    if draw(st.booleans()):
        plan["keep_checkpoints"] = draw(st.sampled_from(["best 1", "best 2, last 1", "last 1"]))
    if draw(st.booleans()) and BATCH in space:
        plan["constraints"] = [f"{BATCH} != 32"]
    if not pbt and draw(st.booleans()):
        plan["fuse"] = draw(st.integers(2, 3))
    return plan


COMMANDS = st.lists(
    st.tuples(
        st.sampled_from(["resume", "trials", "epochs", "retry", "continue", "edit"]),
        st.none() | st.integers(0, 120),  # writes until the driver is killed
        st.none() | st.integers(0, 20),  # steps until it is interrupted
    ),
    min_size=1,
    max_size=5,
)


@dataclass
class Sweep:
    """One sweep's life."""

    root: Path
    plan: dict[str, Any]
    rng: random.Random
    fuse: Any
    simulation: SimpleNamespace
    frozen: dict[int, tuple] = field(default_factory=dict)

    def make(self, name: str = "together") -> Ledger:
        file = self.root / f"{name}.yaml"
        file.write_text(dump(self.plan))
        ledger, space = Ledger(name, self.root / "runs"), load_space(file)
        create_ledger(ledger, space, warm_start.sources(space, ledger.root))
        return ledger

    def take_over(self) -> None:
        """Run another sweep of the same space, whose finished trials this one's sampler learns from."""
        own_plan, search = self.plan, {"trials": 3, "sampler": "random", "seed": self.plan["search"]["seed"]}
        self.plan = {**own_plan, "search": search, "stopping": {"scheduler": "fifo"}, "budget": {}}
        source = self.make("source")
        self.command(source, "resume")
        self.plan, self.frozen = own_plan, {}
        if finished(own(source)):
            self.plan = {**own_plan, "search": {**own_plan["search"], "from": ["source"]}}

    def command(self, ledger: Ledger, kind: str, writes: int | None = None, steps: int | None = None) -> str:
        """Give a command to a driver, which may be killed or interrupted; what it printed."""
        console = Console(file=io.StringIO(), width=300, force_terminal=False, highlight=False, markup=False)
        ledger = Ledger(ledger.name, ledger.root)  # another process
        tune, wrapped = self.simulation.tune(str(self.plan["search"]["seed"]), self.rng, steps), quota._enforce
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "_work", tune)
            patch.setattr(quota, "_enforce", lambda *arguments: self._enforce(wrapped, *arguments))
            self.fuse.light(writes)
            try:
                status = self._give(ledger, kind, console)
            except self.simulation.killed:
                return "killed"
            except SweepError as error:
                if kind not in {"trials", "continue"}:
                    raise
                return f"refused: {error}"
            finally:
                self.fuse.light(None)
        self.check_end(ledger, tune.study, status, console.file.getvalue())
        return console.file.getvalue()

    def _give(self, ledger: Ledger, kind: str, console: Console) -> int:
        name, root, options = ledger.name, ledger.root, {"trials": None, "hours": None}
        if kind == "edit":
            space = ledger.plain_space()
            space["search"]["trials"] += self.plan["stopping"]["scheduler"] != "pbt"
            space["keep_checkpoints"] = self.rng.choice(["best 1", "best 3, last 2"])
            if "repeats" in space["search"]:
                space["search"]["repeats"]["seeds"] = 3
            if "fuse" in space:
                space["fuse"] = self.rng.randint(2, 4)
            ledger.space_file.write_text(dump(space))
        if kind == "trials":
            return more.extend(name, **options | {"trials": "+1"}, root=root, console=console)
        if kind == "epochs" and "epochs" in self.plan["budget"]:
            return more.extend(name, **options, root=root, console=console, epochs="+9")
        if kind == "retry":
            return more.retry(name, None, root, console)
        if kind == "continue":
            ended = [trial.number for trial in own(ledger) if trial.state.name in {"COMPLETE", "PRUNED"}]
            return more.continue_trial(name, self.rng.choice(ended or [0]), f"+{self.rng.randint(1, 2)}", root, console)
        return runner.resume(name, root, console)

    def _enforce(self, enforce, ledger: Ledger, space, trials, present):
        before = quota.checkpoints(ledger)
        left = enforce(ledger, space, trials, present)
        after, wanted = quota.checkpoints(ledger), space.outputs.keep_checkpoints
        ended = {trial.number for trial in own(ledger) if trial.state.is_finished()}
        for number in before.keys() - ended:
            assert after[number] == before[number], "a checkpoint of a trial that has not ended is gone"
        best = self.simulation.winner(space.modes, own(ledger))
        if wanted.best and best and len(space.modes) == 1 and "best.ckpt" in before.get(best[0], ()):
            assert "best.ckpt" in after[best[0]], "the winner's checkpoint is gone"
        return left

    def check_end(self, ledger: Ledger, study: SweepStudy | None, status: int, printed: str) -> None:
        """What is true whenever no driver runs, and what the driver has said."""
        trials = own(ledger)
        self.nothing_has_changed(ledger, trials)
        seen = overview(ledger)
        counts = Counter(trial.user_attrs["verdict"]["verdict"] for trial in trials if ran(trial) and trial.state.is_finished())
        assert seen.ended == counts
        assert seen.target == ledger.space().search.trials + asked_again(trials)
        assert counts.total() <= seen.target
        if study is None:
            return
        assert study.ended == counts
        assert study.target == seen.target
        assert study.complete == (seen.ended.total() >= seen.target or seen.exhausted)
        assert study.exhausted or not seen.exhausted
        assert study.found.winner == seen.winner
        assert study.found.infeasible == seen.infeasible
        if study.complete and seen.configurations:
            assert status in {runner.EXIT_DONE, runner.EXIT_STOPPED}  # stopped: all that a retry asked for failed again
        said = re.search(r": (\d+) of (\d+) trials ended", printed)
        assert said
        assert (int(said[1]), int(said[2])) == (counts.total(), seen.target)
        if len(study.space.objectives) == 1 and (told := re.search(r"^best .*: trial (\d+)", printed, re.MULTILINE)):
            assert int(told[1]) == seen.winner.number

    def nothing_has_changed(self, ledger: Ledger, trials) -> None:
        now = {trial.number: (shown(trial), history(ledger, trial.number)) for trial in trials if trial.state.is_finished()}
        now |= {trial.number: (shown(trial), "") for trial in ledger.study().get_trials() if FROM in trial.user_attrs}
        for number, before in self.frozen.items():
            assert now[number] == before, f"trial {number} had ended"
        self.frozen = now


def own(ledger: Ledger):
    return own_trials(Ledger(ledger.name, ledger.root).study().get_trials())


def ran(trial) -> bool:
    return "verdict" in trial.user_attrs and not rejected(trial)


def shown(trial) -> str:
    """All that the study holds of a trial, as text, in which NaN equals NaN."""
    return repr((trial.state, trial.values, trial.params, sorted(trial.user_attrs.items()), trial.intermediate_values))


def history(ledger: Ledger, number: int) -> str:
    path = ledger.trial(number).history
    return path.read_text() if path.exists() else ""


def finished(trials) -> list:
    return [trial for trial in trials if trial.state.name == "COMPLETE"]


def check_trial(ledger: Ledger, space, trial) -> None:
    """One that has ended: study and history say the same, and its end follows from them."""
    rows, verdict = read_history(ledger.trial(trial.number).history), trial.user_attrs["verdict"]
    metrics = [objective.metric for objective in space.objectives]
    assert trial.state == STATES[verdict["verdict"]]
    by_history = {row["epoch"]: tuple(row.get(metric, float(SIZE)) for metric in metrics) for row in rows}
    told = recorded(trial)
    if "lost too often" in verdict["reason"]:  # maybe before it said an epoch again that a killed driver had not written down
        told.pop(max(by_history, default=trial.user_attrs.get(EPOCHS, 0)) + 1, None)
    assert repr(told) == repr(by_history)
    begun = trial.user_attrs[EPOCHS] if EXPLOITS in trial.user_attrs else 0
    assert [row["epoch"] for row in rows] == list(range(begun + 1, begun + len(rows) + 1))
    assert all(row["verdict"] == "" or row["verdict"].startswith("shadow ") for row in rows[:-1])
    if rows and trial.user_attrs["epochs"]:
        assert trial.user_attrs["epochs"] == rows[-1]["epoch"]
        assert rows[-1]["verdict"] == f"{verdict['verdict']}: {verdict['reason']}"
    if trial.state.name == "COMPLETE":
        sign = 1 if space.modes[0] == "max" else -1
        best = max((row for row in rows if math.isfinite(row["val/a"])), key=lambda row: (sign * row["val/a"], -row["epoch"]))
        assert tuple(trial.values) == by_history[best["epoch"]]
        bound = {f"val/b <= {each.max:.12g}": best["val/b"] - each.max for each in space.outcome_constraints}
        assert trial.constraints == bound
    if set(EXEMPT) & trial.user_attrs.keys():
        assert verdict["verdict"] in {"finished", "failed"} or verdict["reason"].startswith("not finite"), verdict


def check_follow_ups(space, trials) -> None:
    """Each that was asked for, or that the space asks for, is there once."""
    alive = [trial for trial in trials if not rejected(trial)]
    retried = Counter(trial.user_attrs[RETRIES] for trial in alive if RETRIES in trial.user_attrs)
    copied = Counter(trial.user_attrs[REPLACES] for trial in alive if REPLACES in trial.user_attrs)
    repeated = Counter(
        trial.user_attrs[REPEATS] for trial in alive if REPEATS in trial.user_attrs and RETRIES not in trial.user_attrs
    )
    further = Counter(
        (trial.user_attrs[CONTINUES], trial.user_attrs[EPOCHS])
        for trial in alive
        if CONTINUES in trial.user_attrs and not failure_of(trial)
    )
    assert all(count == 1 for asked in (retried, copied, further) for count in asked.values())
    assert set(copied) == {trial.number for trial in alive if "donor" in trial.user_attrs["verdict"]["numbers"]}
    for trial in alive:
        if failure_of(trial) == "oom" and space.resources.on_oom == "retry":
            said = trial.user_attrs["verdict"]["reason"]
            assert ("(run once more" in said) != ("(not run again" in said)
            assert trial.number in retried or "(run once more" not in said
    if space.search.repeats:
        sources = [trial for trial in finished(trials) if not {CONTINUES, REPEATS} & trial.user_attrs.keys()]
        feasible = {trial.number for trial in sources if all(each <= 0 for each in trial.constraints.values())}
        assert set(repeated) <= feasible
        all_of_them, top = space.search.repeats.seeds - 1, space.search.repeats.top or len(feasible)
        assert max(repeated.values(), default=0) <= all_of_them
        # Fewer have those that were among the best before more seeds, and more trials, were asked for.
        assert list(repeated.values()).count(all_of_them) >= min(len(feasible), top)
    else:
        assert not repeated
    fresh = [frozenset(trial.params.items()) for trial in alive if not follows(trial)]
    assert len(fresh) == len(set(fresh)), "a setting ran twice"


def check_readers(simulation: SimpleNamespace, ledger: Ledger, space, trials, root: Path) -> None:
    """Status, analysis and promotion agree on the winner and the counts."""
    seen, sweep, best = overview(ledger), load(ledger.name, ledger.root), simulation.winner(space.modes, trials)
    assert seen.winner is None if best is None else seen.best == pytest.approx(best)
    assert dict(Counter(sweep.trials["verdict"])) == dict(seen.ended)
    assert (sweep.target, sweep.problems) == (seen.target, ())
    rivals = sweep.rivals
    assert (rivals["number"].iloc[0] if len(rivals) else None) == (best and best[0])
    if best:
        assert sweep.ranked["value"].iloc[0] == pytest.approx(best[1])
    assert len(sweep.rejected) == sum(map(rejected, trials))
    if len(space.objectives) > 1:
        found = analysed_front(sweep)
        told, wanted = found.numbers if found else (), simulation.pareto(space.modes, trials)
        assert {sweep.origins[number] for number in told} == {sweep.origins[number] for number in wanted}
    console = Console(file=io.StringIO(), width=300)
    configs = root / "configs"
    (configs / "experiment").mkdir(parents=True, exist_ok=True)
    if best:
        file = promote.promote(ledger, None, None, console, configs)
        assert f"trial {best[0]}: " in file.read_text()
    else:
        with pytest.raises(SweepError, match="No trial of the sweep"):
            promote.promote(ledger, None, None, console, configs)


def check_budget(ledger: Ledger, trials) -> None:
    """What was used is the sum over the histories, each epoch counted where it was trained."""
    epochs = seconds = 0.0
    for trial in trials:
        rows = read_history(ledger.trial(trial.number).history)
        copied = trial.user_attrs[CONTINUES] if CONTINUES in trial.user_attrs and rows else None
        start = trial.user_attrs.get("copied", [0, 0.0])
        if copied is not None:
            source = {row["epoch"]: row["seconds"] for row in read_history(ledger.trial(copied).history)}
            assert source[start[0]] == start[1]
        rows = [row for row in rows if row["epoch"] > start[0]]
        took = trial.user_attrs.get("seconds", 0.0)
        assert took - (rows[-1]["seconds"] if rows else took) in {0.0, 1.0}  # an epoch that lacked a metric took its time, too
        epochs, seconds = epochs + len(rows), seconds + max(0.0, took - start[1])
    used = usage.account(ledger, trials).used
    assert used.epochs == epochs
    assert used.cost == pytest.approx(seconds * 2 / 3600)


def live(simulation: SimpleNamespace, plan: dict[str, Any], commands, seed: int, warm: bool) -> None:
    """A sweep's whole life: commands, kills and interruptions, then as many resumes as it needs."""
    with simulation.platform() as fuse, tempfile.TemporaryDirectory() as directory:
        sweep = Sweep(Path(directory), plan, random.Random(seed), fuse, simulation)
        if warm:
            sweep.take_over()
        ledger = sweep.make()
        for kind, writes, steps in commands:
            sweep.command(ledger, kind, writes, steps)
        for _ in range(60):
            sweep.command(ledger, "resume")
            seen = overview(ledger)
            if seen.state in {"complete", "failed"} and (seen.exhausted or seen.ended.total() >= seen.target):
                break
            if seen.more:
                sweep.command(ledger, "epochs")
        else:
            pytest.fail("the sweep never ends")
        space, trials = ledger.space(), own(ledger)
        assert all(trial.state.is_finished() for trial in trials)
        for trial in filter(ran, trials):
            check_trial(ledger, space, trial)
        check_follow_ups(space, trials)
        check_budget(ledger, trials)
        check_readers(simulation, ledger, space, trials, Path(directory))


TOGETHER = given(plan=plans(), commands=COMMANDS, seed=st.integers(0, 2**16), warm=st.booleans())


@settings(max_examples=9)
@TOGETHER
def test_whatever_is_combined_works_together(simulation, plan, commands, seed, warm):
    live(simulation, plan, commands, seed, warm)


@pytest.mark.slow
@settings(max_examples=150)
@TOGETHER
def test_whatever_is_combined_works_together_at_length(simulation, plan, commands, seed, warm):
    live(simulation, plan, commands, seed, warm)
