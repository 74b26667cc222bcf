"""The command line of reports and tables: `python -m analysis report|export NAME`. Exit status 0 means that it was written.

2: the input was refused, as by `python -m sweeps`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from sweeps.ledger import DEFAULT_ROOT, LedgerError

EXIT_REFUSED = 2

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """What a sweep found."""


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="The sweep's name.")],
    root: Annotated[Path, typer.Option(help="The directory of all sweeps.")] = DEFAULT_ROOT,
) -> None:
    """Print the report of a sweep, and write its page and its table of trials. A sweep that is still running has one too."""
    from analysis.load import load
    from analysis.page import write_page
    from analysis.report import build, write_results
    from analysis.terminal import print_report

    try:
        sweep = load(name, root)
    except LedgerError as error:
        Console(stderr=True).print(Text(f"error: {error}", style="red"), soft_wrap=True)
        raise typer.Exit(EXIT_REFUSED) from error
    found = build(sweep)
    console = Console()
    print_report(found, console)
    write_results(sweep)
    page = write_page(found)
    console.print()
    console.print(Text(f"The page:  {page}"), soft_wrap=True)
    console.print(Text(f"The table: {sweep.ledger.results_file}"), soft_wrap=True)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="The sweep's name.")],
    form: Annotated[Literal["csv", "parquet"], typer.Option("--format", help="Of the tables.")] = "csv",
    out: Annotated[Path | None, typer.Option(help="Their directory; the sweep's own export/ without it.")] = None,
    root: Annotated[Path, typer.Option(help="The directory of all sweeps.")] = DEFAULT_ROOT,
) -> None:
    """Write a sweep's trials and histories as tables."""
    from analysis.export import export as write_tables
    from analysis.load import load

    try:
        sweep = load(name, root)
        files = write_tables(sweep, form, out or sweep.ledger.export_directory)
    except LedgerError as error:
        Console(stderr=True).print(Text(f"error: {error}", style="red"), soft_wrap=True)
        raise typer.Exit(EXIT_REFUSED) from error
    for problem in sweep.problems:
        Console(stderr=True).print(Text(problem, style="yellow"), soft_wrap=True)
    for file in files:
        Console().print(Text(str(file)), soft_wrap=True)


if __name__ == "__main__":
    app()
