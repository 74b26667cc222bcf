"""The command line: `python -m sweeps run|resume|extend|debug|validate`. Exit status 0 means that it did what was asked.

1: a sweep stopped early, or a trial failed; 2: the input was refused; 130: interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from lhtx.errors import USER_ERRORS
from sweeps.errors import SweepError
from sweeps.ledger import DEFAULT_ROOT

EXIT_REFUSED = 2

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="Hyperparameter sweeps.")
console = Console(highlight=False, markup=False)  # paths and messages hold brackets

Space = Annotated[str, typer.Argument(metavar="NAME", help="A search space: a name under search_spaces/, or a path.")]
Sweep = Annotated[str, typer.Argument(metavar="NAME", help="A sweep: a directory under --runs.")]
Runs = Annotated[Path, typer.Option("--runs", help="Where sweeps live.")]


@app.command()
def run(
    name: Space,
    as_name: Annotated[str | None, typer.Option("--as", help="The sweep's name, if not the space's.")] = None,
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """Run the sweep that a search space describes."""
    from sweeps import runner

    raise typer.Exit(runner.run(name, as_name, runs, console))


@app.command()
def resume(name: Sweep, runs: Runs = DEFAULT_ROOT) -> None:
    """Go on with a sweep that was interrupted or killed."""
    from sweeps import runner

    raise typer.Exit(runner.resume(name, runs, console))


@app.command()
def extend(
    name: Sweep,
    trials: Annotated[str, typer.Option(help="+N for N more, N for N in all.")],
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """Give a sweep more trials, also after its end."""
    from sweeps import runner

    raise typer.Exit(runner.extend(name, trials, runs, console))


@app.command()
def validate(
    name: Space,
    samples: Annotated[int, typer.Option(min=1, help="How many drawn configurations to compose.")] = 20,
) -> None:
    """Check a search space for real: compose what it can ask for, count parameters, constraints, network sizes."""
    from sweeps.space import load_space
    from sweeps.validation import render
    from sweeps.validation import validate as check

    space = load_space(name)
    console.print(Text.assemble((space.name, "bold"), f": {space.description}"))
    console.print(render(check(space, samples=samples)))


@app.command()
def debug(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A search space; with --trial, a sweep.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides on top, as debug=fdr.")] = None,
    trial: Annotated[int | None, typer.Option(help="Replay this trial of the sweep, with its overrides and seed.")] = None,
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """Run one trial in this process; an exception opens the debugger when the terminal is one."""
    from sweeps import debug as debugging

    raise typer.Exit(debugging.debug(name, trial, overrides or [], runs, console))


def main() -> None:
    """Run the command; what a user's own input causes is one message, not a traceback."""
    try:
        app()
    except (SweepError, *USER_ERRORS) as error:
        Console(stderr=True, highlight=False).print(Text.assemble(("error", "red"), f": {error}"), soft_wrap=True)
        sys.exit(EXIT_REFUSED)
