"""Faults under real sweeps, as a table: what was done, what a person reads, how the sweep ends.

    python -m benchmarks.faults                      # all of them, some ten minutes on two cores
    python -m benchmarks.faults --only "disk full"
    python -m benchmarks.faults --write              # the rows go to docs/reliability.md, too

Every sweep is a small grid with one seed, so that a trial depends on its setting alone: in the end each setting must have been
run once, and have come to the values, bit for bit, that it came to in a sweep that nothing happened to; and a trial that had
ended before the fault must be as it was. The exit status is 1 if that is not so, or if what is told is not what it should be.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from benchmarks.faults import files, machines, processes
from benchmarks.faults.fault import Fault, Outcome
from benchmarks.faults.workshop import ROOT, Workshop
from lhtx.files import write_atomically

FAULTS: tuple[Fault, ...] = (*processes.FAULTS, *files.FAULTS, *machines.FAULTS)
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[fault.name for fault in FAULTS], metavar="FAULT", help="these faults")
    parser.add_argument("--write", action="store_true", help=f"write their rows to {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    chosen = [fault for fault in FAULTS if not options.only or fault.name in options.only]
    rows = []
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        workshop = Workshop(Path(directory).resolve())
        for fault in chosen:
            start = time.monotonic()
            outcome = made(fault, workshop)
            rows.append((fault, outcome))
            said = "kept" if outcome.sound else "BROKEN"
            print(f"{fault.name}: {said}, {outcome.after} ({time.monotonic() - start:.0f} s)\n  {outcome.told}", flush=True)
    made_now = {fault.name: row(fault, outcome) for fault, outcome in rows}
    print(f"\n{table(made_now.values())}")
    if options.write:
        page = PAGE.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        known = written(page) | made_now
        text = table([known[fault.name] for fault in FAULTS if fault.name in known])
        write_atomically(PAGE, f"{before}{BEGIN}\n{text}{END}{after}")
    return 0 if all(outcome.sound for _, outcome in rows) else 1


def made(fault: Fault, workshop: Workshop) -> Outcome:
    """Make a fault. One that cannot be made is broken, and the others still are made."""
    try:
        outcome = fault.make(workshop)
    except (RuntimeError, OSError, LookupError, StopIteration, ValueError, subprocess.SubprocessError) as error:
        outcome = Outcome(f"{type(error).__name__}: {error}", "could not be made", sound=False)
    finally:
        workshop.tidy()
    told = outcome.told.replace(str(workshop.directory), "…").replace(f" on {os.uname().nodename}", " on HOST")
    return replace(outcome, told=told)


def row(fault: Fault, outcome: Outcome) -> str:
    """A row of the table, as Markdown."""
    return f"| {fault.name} | {fault.what} | {_cell(outcome.told)} | {outcome.after} |"


def table(rows: Iterable[str]) -> str:
    """The table, as Markdown."""
    return "\n".join(["| fault | made by | what is told | afterwards |", "| --- | --- | --- | --- |", *rows, ""])


def written(page: str) -> dict[str, str]:
    """The rows that the page has, by fault."""
    lines = page.split(BEGIN)[1].split(END)[0].splitlines()[3:]
    return {line.removeprefix("| ").split(" | ")[0]: line for line in lines if line.startswith("| ")}


def _cell(text: str, most: int = 300) -> str:
    """A message as a table's cell."""
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= most else f"{text[: most - 1]}…"


if __name__ == "__main__":
    sys.exit(main())
