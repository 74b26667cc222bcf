"""Sweeps to do harm to: a small grid whose trials depend on their setting alone, run by the commands that a person types.

Whatever happens to such a sweep, in the end each setting must have been run once and have come to the values, bit for bit, that
it came to where nothing happened.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from benchmarks.faults.process_tree import descendants
from lhtx.files import write_atomically
from sweeps.attributes import follows, own_trials, rejected
from sweeps.errors import LedgerError
from sweeps.interruption import NOTICE
from sweeps.ledger import Ledger, read_history

ROOT = Path(__file__).resolve().parent.parent.parent
EPOCHS = 12
RATES = (3.0e-4, 1.0e-3, 3.0e-3, 1.0e-2)
HOLD_EPOCH = 4
"""So many epochs have been trained by a trial that is held; what is left is far more than it trains until it heeds an end."""
PASSING = 2
"""The number of the first trial that is held under a fault: those before it come to their ends."""
PATIENCE_SECONDS = 900.0
"""How long a command may take, on a busy machine too."""

SPACE = """
description: A small grid, to be harmed.
trial:
  - experiment=vimh
  - model=vimh_mlp
  - data.data_dir='{data}'
  - data.generate.size={samples}
  - data.batch_size=64
  - logger=none
  - seed=1
  - trainer.max_epochs={epochs}
  - "+callbacks.gate={{_target_: benchmarks.faults.gate.Gate, file: '{gate}', epoch: {hold}}}"
objective: {{metric: val/avg_acc, mode: max}}
space:
  model.optimizer.lr: {rates}
  data.target_width: {widths}
search: {{sampler: grid, trials: {trials}}}
stopping: {{scheduler: fifo, guard: {{mode: "off"}}}}
"""

Truth = dict[tuple[Any, ...], tuple[str, str, list[dict[str, str]]]]
"""What a sweep has found: by setting, the state, the value, and every metric of every epoch; numbers as text, NaN being a
value like any other here."""


@dataclass
class Workshop:
    """A directory with data, search spaces and sweeps of its own."""

    directory: Path
    samples: int = 400
    epochs: int = EPOCHS
    start_seconds: float = 0.0
    """How long the last sweep that nothing happened to took from the command to its first epoch."""
    _truths: dict[int, Truth] = field(default_factory=dict)
    _commands: list[Command] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        return self.directory / "runs"

    def ledger(self, name: str) -> Ledger:
        """A sweep's ledger, read anew."""
        return Ledger(name, self.runs)

    def space(self, name: str, widths: int = 2, more: str = "", samples: int | None = None) -> Path:
        """Write a search space of `4 · widths` settings. Args: more: YAML that follows."""
        file = self.directory / f"{name}.yaml"
        text = SPACE.format(
            data=self.directory / "data" / "vimh",
            samples=samples or self.samples,
            epochs=self.epochs,
            gate=self._gate(name),
            hold=HOLD_EPOCH,
            rates=list(RATES),
            widths=[0.5 + 0.25 * step for step in range(widths)],
            trials=len(RATES) * widths,
        )
        file.write_text(text + more)
        return file

    def start(self, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> Command:
        """Start `python -m sweeps …` with these arguments."""
        command = Command([sys.executable, "-m", "sweeps", *map(str, arguments), "--runs", str(self.runs)], environment)
        self._commands.append(command)
        return command

    def run(self, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        """The exit status of `python -m sweeps …`, and what it printed."""
        return self.start(*arguments, environment=environment).end()

    def under_way(self, name: str, environment: Mapping[str, str] | None = None) -> tuple[Command, Ledger]:
        """Start the sweep of a new search space; the driver and the ledger, once some trials have ended and another is held in
        mid-course, where it stays until it is let go (`release`)."""
        self.hold(name)
        command = self.start("run", self.space(name), environment=environment)
        command.wait_for(lambda: held(self.ledger(name)))
        return command, self.ledger(name)

    def interrupted(self, name: str) -> tuple[Ledger, int, str]:
        """A sweep that SIGTERM has ended while it was under way: its ledger, the driver's exit status and output."""
        command, _ = self.under_way(name)
        command.process.terminate()
        command.wait_for(lambda: NOTICE in command.heard())
        self.release(name)  # the driver lets an epoch that runs come to its end
        return self.ledger(name), *command.end()

    def hold(self, name: str, first: int = PASSING) -> None:
        """Hold the trials of a sweep from number `first` on, each once it is in mid-course."""
        write_atomically(self._gate(name), str(first))

    def release(self, name: str) -> None:
        """Let go the trials that are held, and hold no more."""
        self._gate(name).unlink()

    def tidy(self) -> None:
        """End what a fault that could not be made has left."""
        for gate in self.directory.glob("*.gate"):
            gate.unlink()
        while self._commands:
            command = self._commands.pop()
            if command.process.poll() is None:
                command.kill()

    def _gate(self, name: str) -> Path:
        return self.directory / f"{name}.gate"

    def truth(self, widths: int = 2) -> Truth:
        """What a grid comes to when nothing happens to it."""
        if widths not in self._truths:
            name = f"untouched{widths}"
            begun, command = time.monotonic(), self.start("run", self.space(name, widths))
            command.wait_for(lambda: epochs(self.ledger(name)))
            self.start_seconds = time.monotonic() - begun
            status, output = command.end()
            if status:
                raise RuntimeError(output)
            self._truths[widths] = found(self.ledger(name))
        return self._truths[widths]


class Command:
    """A command that runs, in a process group of its own."""

    def __init__(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": "local", "COLUMNS": "200", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._heard = b""

    def end(self) -> tuple[int, str]:
        """Wait for its end: exit status and output."""
        rest, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, (self._heard + rest).decode(errors="replace")  # killed within a character, perhaps

    def heard(self) -> bytes:
        """What it has printed so far."""
        while select.select([self.process.stdout], [], [], 0)[0] and (part := os.read(self.process.stdout.fileno(), 65536)):
            self._heard += part
        return self._heard

    def kill(self) -> str:
        """SIGKILL, to this process alone; what it had printed."""
        self.process.send_signal(signal.SIGKILL)
        return self.end()[1]

    def below(self) -> dict[int, str]:
        """The processes that it and its children have started: their command lines."""
        return descendants(self.process.pid)

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """What `condition` says once that is true.

        Raises:
            RuntimeError: the command ended before, or it takes too long.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            over = self.process.poll() is not None
            if result := condition():
                return result
            if over:
                raise RuntimeError(f"it ended too early:\n{self.end()[1]}")
            time.sleep(0.05)
        raise RuntimeError(f"not within {PATIENCE_SECONDS:g} s:\n{self.kill()}")


def trials(ledger: Ledger) -> list[FrozenTrial]:
    """The trials of a sweep that run or ran; none before the sweep is there."""
    try:
        everything = ledger.study().get_trials(deepcopy=False)
    except LedgerError:
        return []
    return [trial for trial in own_trials(everything) if "overrides" in trial.user_attrs and not rejected(trial)]


def ended(ledger: Ledger) -> dict[int, tuple[Any, ...]]:
    """The trials that have ended: how, when, and with which values. None of this may ever change."""
    return {
        trial.number: (trial.state.name, trial.values, trial.datetime_complete, repr(sorted(trial.intermediate_values.items())))
        for trial in trials(ledger)
        if trial.state.is_finished()
    }


def epochs(ledger: Ledger) -> dict[int, int]:
    """How many epochs each trial has reported."""
    return {int(file.parent.name): len(read_history(file)) for file in ledger.trials_directory.glob("*/history.csv")}


def held(ledger: Ledger) -> bool:
    """Whether a trial is held in mid-course, and those that may pass have ended."""
    standing = any(number >= PASSING and done == HOLD_EPOCH for number, done in epochs(ledger).items())
    return standing and len(ended(ledger)) == PASSING


def found(ledger: Ledger) -> Truth:
    """What a sweep has found."""
    return {
        setting(trial): (trial.state.name, repr(trial.values), _metrics(ledger, trial.number))
        for trial in trials(ledger)
        if trial.state.is_finished()
    }


def setting(trial: FrozenTrial) -> tuple[Any, ...]:
    return tuple(sorted(trial.params.items()))


def _metrics(ledger: Ledger, number: int) -> list[dict[str, str]]:
    rows = read_history(ledger.trial(number).history)
    return [{name: repr(cell) for name, cell in row.items() if name not in {"seconds", "verdict"}} for row in rows]


@dataclass(frozen=True)
class Check:
    """How a sweep stands after what was done to it."""

    lost: int
    """Trials that had ended before, and are no more, or not as they were."""
    twice: int
    """Settings that were run more than once, without anybody having asked for that."""
    differ: int
    """Settings that have come to other values than where nothing happened."""
    missing: int
    """Settings that have not been run."""

    @property
    def sound(self) -> bool:
        return (self.lost, self.twice, self.differ, self.missing) == (0, 0, 0, 0)

    def __str__(self) -> str:
        if self.sound:
            return "complete; every value as without the fault"
        return f"{self.lost} lost, {self.twice} counted twice, {self.differ} with other values, {self.missing} missing"


def check(ledger: Ledger, before: Mapping[int, tuple[Any, ...]], truth: Truth, except_for: int = 0) -> Check:
    """Compare a sweep with what had ended before, and with one that nothing happened to.

    Args: except_for: so many trials were harmed themselves, and have ended as failed.
    """
    now, results = ended(ledger), found(ledger)
    counts = Counter(setting(trial) for trial in trials(ledger) if not follows(trial))
    healthy = {key: result for key, result in results.items() if result[0] != "FAIL"}
    return Check(
        lost=sum(now.get(number) != facts for number, facts in before.items()),
        twice=sum(count - 1 for count in counts.values()),
        differ=sum(truth[key] != result for key, result in healthy.items()),
        missing=len(truth.keys() - healthy.keys()) - except_for,
    )
