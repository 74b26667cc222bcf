"""What runs on the cluster's head node: a sweep, or the packing of its results. `python -m sweeps.cluster.job run|pack …`.

It reads what `package.py` has shipped. Nothing here is for a person to type.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lhtx.errors import USER_ERRORS
from lhtx.files import write_atomically
from sweeps import manifest, places, results_place
from sweeps.cluster.package import SPACE_FILE
from sweeps.errors import SweepError
from sweeps.ledger import Ledger
from sweeps.space import dump, load_space

BEGUN = "the job has begun on"
"""With this it says that the code has been found and imported: what comes before is a job that cannot start."""
SUBMITTED = ".submitted"
"""The directory, beside the sweeps, of the search spaces that were submitted."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(highlight=False, markup=False, width=120)

Runs = Annotated[Path, typer.Option("--runs")]


@app.command()
def run(name: str, runs: Runs, storage: str | None = None, results: str | None = None) -> None:
    """Run the sweep `name`, or go on with it: with the search space that was shipped, or the one of that name.

    Args: storage, results: what the environment of whoever submitted it says; it comes before this one's.
    """
    from sweeps import runner

    for variable, said in ((places.VARIABLE, storage), (results_place.VARIABLE, results)):
        if said is not None:
            os.environ[variable] = said

    root = _at_home(runs)
    ledger = Ledger(name, root)
    print(f"{name}: {BEGUN} {os.uname().nodename}, in {ledger.directory}", flush=True)
    space = root / SUBMITTED / f"{name}.yaml"  # a place that stays: what is submitted next is compared with it
    space.parent.mkdir(parents=True, exist_ok=True)
    shipped = manifest.SHIPPED / SPACE_FILE
    write_atomically(space, shipped.read_bytes() if shipped.exists() else dump(load_space(name)))
    status = runner.resume(name, root, console) if ledger.exists() else runner.run(str(space), name, root, console)
    raise typer.Exit(status)


@app.command()
def pack(name: str, runs: Runs, checkpoints: str = "best") -> None:
    """Print the sweep `name` for `fetch`."""
    from sweeps.cluster.parcel import write

    root = _at_home(runs)
    write(Ledger(name, root).require(), checkpoints, sys.stdout)


def _at_home(runs: Path) -> Path:
    """The absolute directory of sweeps; the data lies beside it, and outlives the job as they do."""
    root = runs.expanduser()
    if not root.is_absolute():
        root = Path.home() / root
    os.environ.setdefault("LHTX_ROOT", str(root.parent))
    return root


def main() -> None:
    places.withdraw_passwords()
    try:
        app()
    except (SweepError, *USER_ERRORS) as error:
        print(f"error: {error}", flush=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
