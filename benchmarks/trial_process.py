"""How a trial's process should live: what starting it costs, what it holds in memory, and what the trial before it left.

    python -m benchmarks.trial_process                  # a few minutes on two cores
    python -m benchmarks.trial_process --help

Three ways, each trial of which trains the same small MLP through `sweeps.trial.run_trial`, with reports that are answered:

    new      a process a trial, which imports torch and Lightning
    reused   one process for all trials, reset in between as far as a process can reset itself
    fork     a clean child a trial, of one server for all slots that has imported everything: what `sweeps.process` does

Starting: milliseconds from "start a trial" to its first training step (wall, and the processor time of the trial's own
process; the fork's own few milliseconds in the server are in the wall time), and from the end of its training until the
next may start: the reset, or the end of the process. The ways take turns; medians of the rounds, with the lowest and the
highest. The first trial of a process that lives on is not counted; its time to the first step, in which that process is
made ready, stands beside it.

Memory: with 2 and with 8 trials at a time, all of which are held in the middle of their training. USS is what belongs to
one process alone, PSS counts a page that n processes share as 1/n. Sums over all processes of a way, in MB a trial.

Data: with as many trials at a time on a dataset of 154 MB of images, forked, which share it or load it each for itself: PSS,
and the ratio of all of them to one. Shared, memory grows with what a trial needs beside its data.

Leaks: a trial runs, then a second one looks at the state of its process before `lhtx` sets anything. "ordinary" is a training
as any other, "careless" one that leaves something of every kind. Listed is what the second found other than the first did;
of random states, which differ between any two processes, those that it found as the first left them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sweeps.channel import Channel, paired, shared

ROOT = Path(__file__).resolve().parent.parent
WAYS = {
    "new": ["-m", "sweeps.process_server", "once"],
    "reused": ["-m", "benchmarks.alternatives.trial_server"],
    "fork": ["-m", "sweeps.process_server", "fork"],
}
PARTS = ("starting", "memory", "data", "leaks")
BASE = ("experiment=vimh", "model=vimh_mlp", "test=false", "threads=1", "trainer.accelerator=cpu", "data.generate.size=500")
LARGE = (
    *("data=cifar10", "model=vimh_mlp", "test=false", "logger=none", "threads=1", "trainer.accelerator=cpu"),
    *("data.download=false", "trainer.limit_train_batches=2", "trainer.limit_val_batches=2"),
)


class Slot:
    """A process, or one after another, that runs trials in one of the ways: the client's side of `sweeps.process`."""

    def __init__(self, way: str, directory: Path, **environment: str) -> None:
        self.way, self.directory = way, directory
        self._channel: Channel | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._pids: set[int] = set()
        self._trials = 0
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "LHTX_ROOT": str(directory), "PYTHONPATH": str(ROOT)}
        self._environment |= environment

    def start(self, *overrides: str, base: tuple[str, ...] = BASE) -> Path:
        """Begin a trial; its directory."""
        if self._channel is None and self.way == "fork":
            name = self.directory.name  # all slots of this run share it
            self._channel, self._server = shared(name, WAYS[self.way], self._environment, outlives=False)
        elif self._channel is None:
            self._channel, self._server = paired(WAYS[self.way], self._environment)
        self._trials += 1
        trial = Path(tempfile.mkdtemp(prefix=f"{self.way}-", dir=self.directory))
        stamp = ["+callbacks.stamp._target_=benchmarks.alternatives.stamp.Stamp", f"+callbacks.stamp.file={trial}/stamps.jsonl"]
        data = f"data.data_dir={self.directory}/data/{'small' if base is BASE else 'large'}"
        assignment = {"number": self._trials, "overrides": [*base, data, *stamp, *overrides], "directory": str(trial)}
        self._say({"group": [assignment], "fused": False})
        return trial

    def until(self, *kinds: str) -> dict[str, Any]:
        """The next message of one of these kinds; reports are answered."""
        while True:
            message = self._channel.receive()
            if message is None:
                raise SystemExit(f"{self.way}: the process is gone")
            if message["kind"] == "started":
                self._pids = {message["pid"], message["server"]} if self.way == "fork" else {message["pid"]}
            if message["kind"] == "failed":
                raise SystemExit(f"{self.way}: {message['error']}")
            if message["kind"] in kinds:
                return message
            if message["kind"] == "report":
                self.go_on()

    def go_on(self) -> None:
        """Answer a report."""
        self._say({"go_on": True})

    def finish(self) -> None:
        """Wait for the trial's end; a process that served it alone ends too."""
        self.until("exit")
        if self.way == "new":
            self.close()

    def close(self) -> None:
        """End the process."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._server is not None and self.way != "fork":
            self._server.wait()
            self._server = None

    def processes(self) -> set[int]:
        """The trial's process, and the server that has forked it."""
        return self._pids

    def _say(self, message: dict[str, Any]) -> None:
        self._channel.send({**message, "environment": self._environment})


def stamps(trial: Path) -> dict[str, dict[str, float]]:
    """Event → its times."""
    return {line["event"]: line for line in map(json.loads, (trial / "stamps.jsonl").read_text().splitlines())}


def starting(directory: Path, rounds: int) -> None:
    """Print what starting and ending cost."""
    slots = {way: Slot(way, directory) for way in WAYS}
    ready = dict.fromkeys(WAYS, 0.0)
    used: dict[int, float] = defaultdict(float)  # pid → its processor time at the end of its last trial
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    for turn in range(rounds + 1):
        for way, slot in slots.items():
            start = time.monotonic()
            trial = slot.start("trainer.max_epochs=2")
            slot.finish()
            end, noted = time.monotonic(), stamps(trial)
            step, last = noted["step"], noted["end"]
            if turn == 0 and way != "new":
                ready[way] = (step["time"] - start) * 1e3
            else:
                processor = step["cpu"] - used[step["pid"]]
                found[way].append(tuple(1e3 * s for s in (step["time"] - start, processor, end - last["time"])))
            used[last["pid"]] = last["cpu"]
    for slot in slots.values():
        slot.close()
    print(f"{'starting, ms':<14}{'to the first step':>24}{'processor time':>24}{'from its end':>24}{'once, first':>14}")
    for way, rows in found.items():
        cells = [f"{median(column):.0f} ({min(column):.0f}–{max(column):.0f})" for column in zip(*rows, strict=True)]
        print(f"{way:<14}" + "".join(f"{cell:>24}" for cell in cells) + (f"{ready[way]:>14.0f}" if ready[way] else ""))


def memory(directory: Path, at_once: list[int]) -> None:
    """Print what trials hold in the middle of their training."""
    print(f"\n{'memory, MB':<14}" + "".join(f"{f'USS, {n} trials':>17}{f'PSS, {n} trials':>17}" for n in at_once))
    for way in WAYS:
        cells = ""
        for count in at_once:
            slots = [Slot(way, directory) for _ in range(count)]
            for slot in slots:
                slot.start("trainer.max_epochs=2")
            for slot in slots:
                slot.until("report")  # and leave it unanswered: the trial waits
            pids = {pid for slot in slots for pid in slot.processes()}
            unique, shared = (sum(column) / count for column in zip(*map(footprint, pids), strict=True))
            cells += f"{unique:>17.0f}{shared:>17.0f}"
            for slot in slots:
                slot.go_on()
                slot.finish()
                slot.close()
        print(f"{way:<14}{cells}", flush=True)


def data(directory: Path, at_once: list[int]) -> None:
    """Print what trials hold that read the same 154 MB."""
    rows = np.random.default_rng(0).integers(0, 256, (50_000, 3073), dtype=np.uint8)
    rows[:, 0] %= 10
    folder = directory / "data" / "large" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for number, part in enumerate(np.split(rows, 5), 1):
        part.tofile(folder / f"data_batch_{number}.bin")
    rows[:10_000].tofile(folder / "test_batch.bin")
    print(f"\n{'data, MB':<14}" + "".join(f"{f'PSS, {n} trials':>17}" for n in at_once) + f"{'ratio':>10}")
    for name, environment in (("shared", {}), ("each its own", {"LHTX_SHARED_DATA": ""})):
        sums = []
        for count in at_once:
            slots = [Slot("fork", directory, **environment) for _ in range(count)]
            for slot in slots:
                slot.start("trainer.max_epochs=2", base=LARGE)
            for slot in slots:
                slot.until("report")
            sums.append(sum(footprint(pid)[1] for pid in {pid for slot in slots for pid in slot.processes()}))
            for slot in slots:
                slot.go_on()
                slot.finish()
            for slot in slots:
                slot.close()
        print(f"{name:<14}" + "".join(f"{held:>17.0f}" for held in sums) + f"{sums[-1] / sums[0]:>10.1f}", flush=True)


def footprint(pid: int) -> tuple[float, float]:
    """USS and PSS of a process, in MB."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, amount = line.split(":")
        fields[name] = int(amount.split()[0]) / 1024
    return fields["Private_Clean"] + fields["Private_Dirty"], fields["Pss"]


def leaks(directory: Path) -> None:
    """Print what a second trial finds of a first."""
    found: dict[str, dict[tuple[str, str], bool]] = defaultdict(dict)
    for way in WAYS:
        for kind in ("ordinary", "careless"):
            slot = Slot(way, directory)
            states = []
            for turn in range(2):
                probe, left = (directory / f"{way}-{kind}-{turn}-{moment}.json" for moment in ("probe", "left"))
                probed = ["data._target_=benchmarks.alternatives.state_probe.ProbedDataModule"]
                probed += [f"+data.probe={probe}", f"+data.left={left}"]
                if kind == "careless" and turn == 0:
                    name = "benchmarks.alternatives.state_probe.Careless"
                    probed += [f"+callbacks.careless._target_={name}", f"+callbacks.careless.file={directory}/{way}.left"]
                trial = slot.start("trainer.max_epochs=1", *probed)
                slot.finish()
                states += [json.loads(file.read_text().replace(str(trial), "TRIAL")) for file in (probe, left)]
            slot.close()
            before, after, found_by_the_second, _ = states
            for name, value in found_by_the_second.items():
                random = name.startswith("random state")
                found[name][way, kind] = value == after[name] if random else value != before[name]
    print(f"\n{'left behind':<28}" + "".join(f"{way:>22}" for way in WAYS))
    for name, by in found.items():
        cells = [[kind for kind in ("ordinary", "careless") if by[way, kind]] for way in WAYS]
        print(f"{name:<28}" + "".join(f"{' and '.join(kinds) or '–':>22}" for kinds in cells))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="trials of each way that are timed (5)")
    parser.add_argument("--at-once", type=int, nargs="+", default=[2, 8], help="trials at a time, for the memory (2 8)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (all)")
    parser.add_argument("--quick", action="store_true", help="one round, one trial at a time: does it run?")
    options = parser.parse_args()
    if sys.platform != "linux":
        parser.error("this measures what only Linux does: forked trials, and memory by /proc")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        if "starting" in options.parts:
            starting(path, 1 if options.quick else options.rounds)
        if "memory" in options.parts:
            memory(path, [1] if options.quick else options.at_once)
        if "data" in options.parts:
            data(path, [1] if options.quick else [1, max(options.at_once)])
        if "leaks" in options.parts:
            leaks(path)


if __name__ == "__main__":
    main()
