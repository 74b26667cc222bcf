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
from sweeps import ray_dashboard
from sweeps.errors import SweepError
from sweeps.ledger import DEFAULT_ROOT, Ledger
from sweeps.places import withdraw_passwords

EXIT_REFUSED = 2

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="Hyperparameter sweeps.")
console = Console(highlight=False, markup=False)  # paths and messages hold brackets

Space = Annotated[str, typer.Argument(metavar="NAME", help="A search space: a name under search_spaces/, or a path.")]
Sweep = Annotated[str, typer.Argument(metavar="NAME", help="A sweep: a directory under --runs.")]
Runs = Annotated[Path, typer.Option("--runs", help="Where sweeps live.")]
Dashboard = Annotated[
    bool, typer.Option("--dashboard", callback=ray_dashboard.want, help="Start Ray's own dashboard too, and say where.")
]
Address = Annotated[str, typer.Option(help="Of the cluster's dashboard, such as http://127.0.0.1:8265.")]
Checkpoints = Annotated[str, typer.Option(help="Those to fetch: none, best (of the best trial) or all.")]


@app.command()
def run(
    name: Space,
    as_name: Annotated[str | None, typer.Option("--as", help="The sweep's name, if not the space's.")] = None,
    runs: Runs = DEFAULT_ROOT,
    dashboard: Dashboard = False,
) -> None:
    """Run the sweep that a search space describes."""
    from sweeps.space import load_space
    from sweeps.warm import warm

    with warm(load_space(name)):  # it takes longest: before all other imports
        from sweeps import runner

        raise typer.Exit(runner.run(name, as_name, runs, console))


@app.command()
def resume(
    name: Sweep,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="With the space as recorded, whatever was edited since.")
    ] = False,
    runs: Runs = DEFAULT_ROOT,
    dashboard: Dashboard = False,
) -> None:
    """Go on with a sweep that was interrupted or killed."""
    from sweeps import runner

    raise typer.Exit(runner.resume(name, runs, console, recorded))


@app.command()
def extend(
    name: Sweep,
    trials: Annotated[str | None, typer.Option(help="+N for N more, N for N in all.")] = None,
    hours: Annotated[str | None, typer.Option(help="The same for its budget of hours.")] = None,
    epochs: Annotated[str | None, typer.Option(help="The same for its budget of epochs.")] = None,
    cost: Annotated[str | None, typer.Option(help="The same for its budget of cost.")] = None,
    runs: Runs = DEFAULT_ROOT,
    dashboard: Dashboard = False,
) -> None:
    """Give a sweep more trials, or more of its budget, also after its end."""
    from sweeps import more

    raise typer.Exit(more.extend(name, trials, hours, runs, console, epochs=epochs, cost=cost))


@app.command()
def retry(
    name: Sweep,
    only: Annotated[str | None, typer.Option(help="oom, non_finite, exploding, dead, error or lost.")] = None,
    runs: Runs = DEFAULT_ROOT,
    dashboard: Dashboard = False,
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
    dashboard: Dashboard = False,
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
    address: Annotated[str | None, typer.Option(help="Of the cluster on which it runs.")] = None,
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """End a sweep that runs in another terminal, as Ctrl-C does there, or on a cluster."""
    from sweeps.cluster import submit as submission
    from sweeps.stop import stop as stop_sweep

    if address is not None:
        submission.stop(name, address, runs, console, wait)
    else:
        stop_sweep(Ledger(name, runs).require(), console, wait)


@app.command()
def submit(
    name: Space,
    address: Address,
    as_name: Annotated[str | None, typer.Option("--as", help="The sweep's name, if not the space's.")] = None,
    wait: Annotated[bool, typer.Option(help="Follow the job, and fetch the results.")] = True,
    cluster_runs: Annotated[str, typer.Option(help="Where sweeps live on the cluster.")] = "~/sweeps/runs",
    checkpoints: Checkpoints = "best",
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """Run a sweep on a Ray cluster, or go on with it there."""
    from sweeps.cluster import submit as submission

    raise typer.Exit(submission.submit(name, as_name, address, runs, console, wait, cluster_runs, checkpoints))


@app.command()
def attach(name: Sweep, address: Address, checkpoints: Checkpoints = "best", runs: Runs = DEFAULT_ROOT) -> None:
    """Follow a sweep that was submitted to a Ray cluster, and fetch its results."""
    from sweeps.cluster import submit as submission

    raise typer.Exit(submission.attach(name, address, runs, console, checkpoints))


@app.command()
def fetch(
    name: Sweep,
    address: Address,
    cluster_runs: Annotated[str | None, typer.Option(help="Where it lives there, if not where its last job put it.")] = None,
    checkpoints: Checkpoints = "best",
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """Copy a sweep from a Ray cluster into the local ledger, also while it runs."""
    from sweeps.cluster import submit as submission

    submission.fetch_results(name, address, runs, console, cluster_runs, checkpoints)


@app.command()
def dashboard(
    name: Sweep,
    port: Annotated[int | None, typer.Option(help="0 is any that is free; by default 8080, or any if that is taken.")] = None,
    host: Annotated[str, typer.Option(help="The address to listen on: by default nobody else reaches it.")] = "127.0.0.1",
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """Show a sweep's study in the browser, with Optuna Dashboard."""
    from sweeps.dashboard import show_dashboard

    show_dashboard(Ledger(name, runs).require(), console, host, port)


@app.command("render")
def render_cluster(
    settings: Annotated[Path, typer.Argument(help="What the cluster is.")] = Path("cluster/settings.yaml"),
) -> None:
    """Write the files that start a cluster beside its settings: for Ray's launcher, KubeRay and SLURM."""
    from sweeps.cluster import render
    from sweeps.cluster.settings import load

    changed = render.write(load(settings), settings.parent)
    console.print(f"rendered {', '.join(map(str, changed))}" if changed else "nothing has changed", soft_wrap=True)


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
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A sweep that was copied elsewhere while it ran (`results`).")],
    url: Annotated[str, typer.Option("--from", metavar="URL", help="The directory that holds the copy.")],
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """Bring the copy of a sweep here, to go on with it."""
    from sweeps.pull import pull as pull_sweep

    pull_sweep(name, url, runs, console)


@app.command()
def push(
    name: Sweep,
    url: Annotated[str | None, typer.Option("--to", metavar="URL", help="Where to, if not where it is copied anyway.")] = None,
    runs: Runs = DEFAULT_ROOT,
) -> None:
    """Copy a sweep elsewhere, as `results` does while it runs."""
    from sweeps.pull import push as push_sweep

    push_sweep(name, url, runs, console)


@app.command()
def validate(
    name: Space,
    samples: Annotated[
        int | None, typer.Option(min=1, help="How many drawn configurations to compose; else 5 for each parameter, at most 20.")
    ] = None,
) -> None:
    """Check a search space for real: compose what it can ask for, count parameters, constraints, network sizes."""
    from sweeps.space import load_space
    from sweeps.validated import render
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
    withdraw_passwords()
    try:
        app()
    except (SweepError, *USER_ERRORS) as error:
        Console(stderr=True, highlight=False).print(Text.assemble(("error", "red"), f": {error}"), soft_wrap=True)
        sys.exit(EXIT_REFUSED)
