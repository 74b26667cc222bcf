"""Ray's part of a sweep, and that of its trials' processes, played without either: a driver meets kills, lost processes, late
checkpoints and failures by chance, and what a trial comes to follows from its setting, seed and epoch alone."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from optuna.storages.journal import BaseJournalBackend
from rich.console import Console

from sweeps import edits, hparams, manifest, more, promote, quota, runner, usage
from sweeps import ledger as ledger_module
from sweeps import storage as storage_module
from sweeps import study as study_module
from sweeps.attributes import REPEATS
from sweeps.ends import End
from sweeps.groups import Groups
from sweeps.ledger import History, TrialFiles
from sweeps.schema import FIRST_ORDER
from sweeps.study import SweepStudy

SIZE = 7
"""Parameters of every network."""
LR, BATCH = "model.optimizer.lr", "data.batch_size"


class Killed(BaseException):
    """What stands for SIGKILL: nothing in the driver may catch it."""


@dataclass
class Fuse:
    """Kills the driver before a write. What is written in its last breath, by a `finally`, is not: it is dead."""

    left: int | None = None
    dead: bool = False

    def light(self, writes: int | None) -> None:
        self.left, self.dead = writes, False

    def burn(self) -> None:
        if self.left is not None and not self.dead:
            self.left -= 1
            self.dead = self.left < 0
        if self.dead:
            raise Killed


class Memory(BaseJournalBackend):
    """A study's journal, kept in memory: the file holds its name alone."""

    entries: ClassVar[dict[str, list[str]]] = {}
    fuse: ClassVar[Fuse] = Fuse()

    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.write_text(f"{len(self.entries)}")
            self.entries[file.read_text()] = []
        self._entries = self.entries[file.read_text()]

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        return map(json.loads, self._entries[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.fuse.burn()
        self._entries.extend(map(json.dumps, logs))


@contextmanager
def platform() -> Iterator[Fuse]:
    """The sweeps' own code, but for Ray, the disk below the study, and what looks at the machine."""
    fuse = Memory.fuse = Fuse()
    Memory.entries = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEPS_STORAGE", "journal")
        patch.setattr(storage_module, "Journal", Memory)
        for owner, name in [
            *((module, "write_atomically") for module in (ledger_module, study_module, edits, quota, usage)),
            (History, "_csv"),
        ]:
            patch.setattr(owner, name, burning(fuse, getattr(owner, name)))
        patch.setattr(hparams, "write", lambda *arguments: None)
        patch.setattr(promote, "_check", lambda *arguments: None)
        patch.setattr(manifest, "session", lambda command: {"started": "2026-01-01T00:00:00+00:00", "command": ""})
        for module in (runner, more):
            patch.setattr(module, "network_size", lambda overrides: SIZE)
        yield fuse
        fuse.light(None)


def burning(fuse: Fuse, write):
    def burn(*arguments, **keywords):
        fuse.burn()
        return write(*arguments, **keywords)

    return burn


@dataclass
class Course:
    """What a trial comes to, by its setting and seed."""

    world: str
    overrides: list[str]
    epochs: int = field(init=False)
    first_order: int = field(init=False)

    def __post_init__(self) -> None:
        given = dict(text.split("=", 1) for text in self.overrides)
        self.epochs, seed = int(given["trainer.max_epochs"]), given["seed"]
        self.first_order = int(given.get(FIRST_ORDER, 0))
        self.setting = f"{self.world} {[given.get(key) for key in (LR, BATCH)]}"
        rng = random.Random(f"{self.setting} {seed}")
        oom = int(given.get(BATCH, 0)) >= 64 and rng.random() < 0.7
        kind = "oom" if oom else rng.choice([*["none"] * 10, "error", "lost", "nan", "missing", "early", "nan loss"])
        self.at = {kind: rng.randint(1, self.epochs)} if kind != "none" else {}
        self.noise, self.seed = rng.random() < 0.2, seed

    def metrics(self, epoch: int) -> dict[str, float]:
        rng = random.Random(f"{self.setting} {self.seed} {epoch}")
        value = math.nan if self.at.get("nan") == epoch else round(rng.random(), 1)  # so that there are ties
        other = math.nan if self.at.get("nan loss") == epoch else round(rng.random(), 1)
        found = {"val/a": value, "val/b": other, "train/loss": 1.0, "grad/evidence": 0.5 if self.noise else -0.5}
        return {name: cell for name, cell in found.items() if name != "val/a" or self.at.get("missing") != epoch}

    def fails(self, epoch: int) -> str | None:
        errors = {"oom": "MemoryError: ", "error": "ValueError: no", "lost": "killed by SIGKILL"}
        return next((text for kind, text in errors.items() if self.at.get(kind) == epoch), None)


class Member:
    """A trial in a process: it goes on from its last checkpoint, of which it says first what it holds."""

    def __init__(self, world: str, study: SweepStudy, assignment: dict[str, Any]) -> None:
        self.number = assignment["number"]
        assert study.trial(self.number).user_attrs["overrides"] == assignment["overrides"], "it was not proposed so"
        self.course = Course(world, assignment["overrides"])
        self.files = study.ledger.trial(self.number)
        self.begun = self.epoch = held(self.files)
        self.repeats = self.epoch > 0

    @property
    def order(self) -> int:
        """Of batches, of its next epoch."""
        return self.course.first_order + self.epoch

    @property
    def following(self) -> int:
        """The epoch that it reports next."""
        return self.epoch + (not self.repeats)

    @property
    def done(self) -> bool:
        return not self.repeats and (self.epoch >= self.course.epochs or self.course.at.get("early", math.inf) <= self.epoch)

    @property
    def error(self) -> str | None:
        """What its next epoch ends with."""
        return None if self.repeats else self.course.fails(self.following)

    def report(self) -> dict[str, Any]:
        message = {"number": self.number, "epoch": self.following, "max_epochs": self.course.epochs, "parameters": SIZE}
        message |= {"metrics": self.course.metrics(self.following), "seconds": float(self.following - self.begun)}
        return {**message, "repeated": self.repeats}

    def result(self) -> dict[str, Any]:
        return {"number": self.number, "metrics": {"test/a": 0.5}, "seconds": float(self.epoch - self.begun)}

    def reported(self, written: bool) -> None:
        """Args: written: whether the checkpoint of this epoch will be."""
        self.repeats, self.epoch = False, self.following
        if written:
            self.save()

    def save(self) -> None:
        self.files.checkpoints.mkdir(parents=True, exist_ok=True)
        for name in ("best", "last"):
            torch.save({"state_dict": {}, "epoch": self.epoch - 1}, self.files.checkpoints / f"{name}.ckpt")


def held(files: TrialFiles) -> int:
    last = files.last_checkpoint
    return torch.load(last, weights_only=True)["epoch"] + 1 if last.exists() else 0


@dataclass
class Process:
    """That of a trial, or of several that train as one; with what Tune's scheduler tells study and groups of it."""

    world: str
    rng: random.Random
    study: SweepStudy
    groups: Groups
    name: str
    group: list[dict[str, Any]]
    members: dict[int, Member] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    """Trials that are no members any more, and whose files it holds until its next message."""
    unfit: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fused = self.groups.fused(self.name)

    def start(self) -> None:
        self.members, self.left, self.unfit = {}, set(), []
        for assignment in self.group:
            self.study.begin(assignment["number"])
            self._enter(assignment)

    def _enter(self, assignment: dict[str, Any]) -> None:
        number = assignment["number"]
        assert number not in self.members | dict.fromkeys(self.left), "it would wait for itself"
        assert number in self.study.running, "nobody has said that it runs"
        self.members[number] = Member(self.world, self.study, assignment)

    def step(self) -> bool:
        """What comes next; whether there is more."""
        self.left = set()
        return self._together() if self.fused else self._alone()

    def lose(self) -> bool:
        """It is gone; whether it is started again."""
        self.group, self.left = self.groups.members(self.name), set()
        if self.rng.random() < 0.2:
            self.groups.end(self.name, "its process was lost too often: no message")
            return False
        for assignment in self.group:
            self.study.lost(assignment["number"])
        return True

    def _alone(self) -> bool:
        (member,) = self.members.values()
        if member.done:
            self.study.finish(member.number, member.result())
        elif member.error:
            self.groups.end(self.name, member.error)
        else:
            verdict = self.study.report(member.number, member.report())
            member.reported(self._writes())
            if verdict is None:
                return True
        self.groups.end(self.name)
        return False

    def _together(self) -> bool:
        members = [*self.members.values()]
        if repeating := [member for member in members if member.repeats]:
            self._tell(repeating, [])
        elif done := [member for member in members if member.done]:
            for member in done:
                del self.members[member.number]
            self._tell([], done)
        elif members:
            level = [member for member in members if member.order == min(member.order for member in members)]
            error = next((member.error for member in level if member.error), None)
            if error or self.rng.random() < 0.02:
                self.groups.end(self.name, error or "ConfigError: these networks cannot train as one")
                return False
            self._tell(level, [])
        elif self.unfit:
            self._tell([], [])
        else:
            self.groups.end(self.name)
            return False
        return True

    def _tell(self, reports: list[Member], finished: list[Member]) -> None:
        message = {"reports": [member.report() for member in reports], "finished": [member.result() for member in finished]}
        change = self.groups.hear(self.name, {**message, "unfit": self.unfit})
        self.unfit, self.left = [], {*change.stop, *(member.number for member in finished)}
        for member in reports:
            member.reported(self._writes())
        for number in change.stop:
            del self.members[number]
        for assignment in change.join:
            self._enter(assignment)
            if self.rng.random() < 0.1:
                number = assignment["number"]
                del self.members[number]
                self.left.add(number)
                self.unfit.append({"number": number, "error": "ConfigError: these networks cannot train as one"})

    def _writes(self) -> bool:
        return self.rng.random() < 0.9

    def ahead(self) -> None:
        """The driver is gone, and the epoch that it has not heard of ends."""
        orders = [member.order for member in self.members.values()]
        for member in self.members.values():
            if member.order == min(orders) and member.epoch < member.course.epochs and not (member.error or member.repeats):
                member.reported(len(orders) == 1 or self._writes())


@dataclass
class Tune:
    """Ray's part: asks for trials, runs several processes at a time, and tells what becomes of them, in an order by chance."""

    world: str
    rng: random.Random
    interrupt: int | None = None
    study: SweepStudy | None = None

    def __call__(self, study: SweepStudy, console: Console, interruption: object) -> End | None:
        self.study, concurrent = study, self.rng.randint(1, 3)
        groups = Groups(study, concurrent)
        pending: list[Process] = []
        running: list[Process] = []
        searching, end = True, None
        try:
            for step in itertools.count():
                assert step < 2000, "the sweep does not end"
                end = self._end(study, step)
                if end or not (searching or pending or running):
                    break
                if searching and len(pending) < 2 and (self.rng.random() < 0.5 or not (pending or running)):
                    group = groups.form(f"{step}")
                    searching = bool(group) or study.waiting or groups.may_come_back
                    assert group or pending or running or not searching, "everyone waits"
                    pending += [Process(self.world, self.rng, study, groups, f"{step}", group)] if group else []
                elif pending and len(running) < concurrent:
                    running.append(pending.pop(0))
                    running[-1].start()
                elif running:
                    self._step(running, pending)
                list(study.news())  # as the display does
        finally:
            for process in running:
                if self.rng.random() < 0.3:
                    process.ahead()
        return end

    def _step(self, running: list[Process], pending: list[Process]) -> None:
        numbers = [number for process in running for number in process.members]
        assert len(numbers) == len(set(numbers)), "a trial is in two processes"
        kept = {number: process for process in running for number in process.left}
        able = [each for each in running if all(kept.get(number, each) is each for number in each.members)]
        process = self.rng.choice(able)  # there is one: none waits for each other
        if self.rng.random() < 0.05:
            running.remove(process)
            if process.lose():
                pending.append(process)
        elif not process.step():
            running.remove(process)

    def _end(self, study: SweepStudy, step: int) -> End | None:
        if step == self.interrupt:
            return End.INTERRUPTED
        return End.HOPELESS if study.hopeless else End.BUDGET if study.account.spent else None


def grouped(trials) -> dict[int, list]:
    groups: dict[int, list] = {}
    for trial in (each for each in trials if each.state.name == "COMPLETE"):
        groups.setdefault(trial.user_attrs.get(REPEATS, trial.number), []).append(trial)
    return {group[0].number: group for group in groups.values()}


def rated(modes, trials) -> list[tuple[int, float, bool, tuple[float, ...]]]:
    """The feasible configurations: number, mean of the first objective, whether it was repeated, the losses."""
    found = []
    for number, group in grouped(trials).items():
        broken = [sum(trial.constraints[name] for trial in group) / len(group) for name in group[0].constraints]
        if all(violation <= 1e-12 for violation in broken):
            means = [math.fsum(column) / len(group) for column in zip(*(trial.values for trial in group), strict=True)]
            losses = tuple(-mean if mode == "max" else mean for mean, mode in zip(means, modes, strict=True))
            found.append((number, means[0], len(group) > 1, losses))
    return found


def winner(modes, trials) -> tuple[int, float] | None:
    """Done again, by hand: what was repeated before what was not, the mean of the first objective, the earlier trial."""
    order = sorted(rated(modes, trials), key=lambda each: (not each[2], each[3][0], each[0]))
    return order[0][:2] if order else None


def pareto(modes, trials) -> set[int]:
    found = rated(modes, trials)
    found = [each for each in found if each[2]] or found
    beats = lambda one, other: one != other and all(a <= b for a, b in zip(one, other, strict=True))  # noqa: E731
    return {each[0] for each in found if not any(beats(other[3], each[3]) for other in found)}


@pytest.fixture(scope="session")
def simulation() -> SimpleNamespace:
    """What plays the parts of all that is no code of the sweeps' own; and the winner and the front, worked out by hand."""
    return SimpleNamespace(platform=platform, tune=Tune, killed=Killed, winner=winner, pareto=pareto)
