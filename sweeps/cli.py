"""The command line: `python -m sweeps COMMAND`. Exit status 0 means that it did what was asked.

1: a sweep stopped early, or all trials that were asked for failed; 2: the input was refused; 130: interrupted. These are this
command's: make ends with 2 whatever the failure.
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
from sweeps.ledger import DEFAULT_ROOT, Ledger

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
def resume(
    name: Sweep,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="With the space as recorded, whatever was edited since.")
    ] = False,
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """Go on with a sweep that was interrupted or killed."""
    from sweeps import runner

    raise typer.Exit(runner.resume(name, runs, console, recorded))


@app.command()
def extend(
    name: Sweep,
    trials: Annotated[str | None, typer.Option(help="+N for N more, N for N in all.")] = None,
    hours: Annotated[str | None, typer.Option(help="The same for the hours that a run may take.")] = None,
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """Give a sweep more trials or hours, also after its end."""
    from sweeps import more

    raise typer.Exit(more.extend(name, trials, hours, runs, console))


@app.command()
def retry(
    name: Sweep,
    only: Annotated[str | None, typer.Option(help="oom, non_finite, exploding, dead, error or lost.")] = None,
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """Run the failed trials of a sweep again, each as a new trial."""
    from sweeps import more

    raise typer.Exit(more.retry(name, only, runs, console))


@app.command("continue")
def continue_trial(
    name: Sweep,
    trial: Annotated[int, typer.Option(help="A trial that has ended.")],
    epochs: Annotated[str, typer.Option(help="+N for N more, N for N in all.")],
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """Train a trial further from its last checkpoint, as a new trial."""
    from sweeps import more

    raise typer.Exit(more.continue_trial(name, trial, epochs, runs, console))


@app.command("list")
def list_sweeps(runs: Runs = DEFAULT_ROOT) -> None:
    """List the sweeps: state, trials by their ends, best value."""
    from sweeps.status import show_list

    show_list(runs, console)


@app.command()
def status(
    name: Sweep,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until the sweep ends.")] = False,
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """Tell how a sweep stands, also while it runs elsewhere."""
    from sweeps.status import show_status

    show_status(Ledger(name, runs).require(), console, watch)


@app.command()
def stop(
    name: Sweep,
    wait: Annotated[bool, typer.Option(help="Wait until it has ended.")] = True,
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """End a sweep that runs in another terminal, as Ctrl-C does there."""
    from sweeps.stop import stop as stop_sweep

    stop_sweep(Ledger(name, runs).require(), console, wait)


@app.command()
def promote(
    name: Sweep,
    trial: Annotated[int | None, typer.Option(help="Another COMPLETE trial than the best.")] = None,
    as_name: Annotated[str | None, typer.Option("--as", help="The experiment's name, if not the sweep's.")] = None,
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """Write the best trial as a Hydra experiment."""
    from sweeps.promote import promote as promote_trial

    promote_trial(Ledger(name, runs).require(), trial, as_name, console)


@app.command()
def reproduce(
    name: Sweep,
    trial: Annotated[int, typer.Argument(help="A trial that ran.")],
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """Train a trial again and compare its history with the recorded one: exit status 1 if they differ."""
    from sweeps.reproduce import reproduce as reproduce_trial

    raise typer.Exit(reproduce_trial(Ledger(name, runs).require(), trial, console))


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
