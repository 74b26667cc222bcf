"""The report in the terminal: short enough to read after every sweep. It must not compute what it shows."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from analysis import tables
from analysis.report import IMPORTANCE_NOTE, Report
from analysis.tables import Table
from analysis.texts import NOTHING

FAILURES = 5
SHORT = 24
"""A column of cells no longer than this many characters is not folded, however narrow the terminal."""


def print_report(report: Report, console: Console) -> None:
    """Print `report`. Text from trials is printed as it is: none of it is read as markup."""
    sweep = report.sweep
    console.print()
    console.print(Text.assemble((sweep.name, "bold"), f"  {report.status()}"))
    console.print(Text(report.pace(), style="dim"))
    if report.again():
        console.print(Text(report.again(), style="dim"))
    for problem in sweep.problems:
        console.print(Text(f"! {problem}", style="yellow"))

    _heading(console, report.ranking)
    best = tables.ranking(sweep, report.front)
    if best.rows:
        console.print(*_fitted(best.head(tables.BEST_TRIALS), console))
    else:
        console.print(Text(report.no_value))
        if (nearest := report.nearest).rows:
            console.print(Text(tables.NEAREST))
            console.print(*_broken(nearest, console))
    if len(best.rows) > tables.BEST_TRIALS:
        console.print(Text(f"… and {len(best.rows) - tables.BEST_TRIALS} more, on the page", style="dim"))

    if report.sentences:
        _heading(console, "How sure is that?")
        _sentences(console, report.sentences)

    _heading(console, "What mattered")
    shown = [found for found in report.importances if not (sweep.several and found.early)]
    for found in shown:
        console.print(
            Text(f"{found.basis} ({found.trials}, the best {found.best}):" if found.parameters else f"{found.basis}:")
        )
        if found.parameters:
            console.print(_rich(tables.importances(found)))
        else:
            console.print(Text(f"  not measured: {found.missing}"))
    if len(shown) < len(report.importances):
        console.print(Text("By the values at the first rung: on the page.", style="dim"))
    if any(found.parameters for found in shown):
        console.print(Text(IMPORTANCE_NOTE, style="dim"))

    if report.options:
        _heading(console, "Choices")
        console.print(*_broken(tables.options(sweep, report.options, report.front), console))
        if sweep.several:
            console.print(Text("The objectives: medians of complete trials.", style="dim"))

    _heading(console, "Stopped early")
    _sentences(console, report.guard_sentences())

    if report.failures:
        _heading(console, "Failed and broken")
        shown = tables.failures(report.failures[:FAILURES])
        console.print(_rich(shown))
        if len(report.failures) > FAILURES:
            console.print(Text(f"… and {len(report.failures) - FAILURES} other reasons, on the page", style="dim"))

    _heading(console, "Next")
    for command, purpose in report.commands():
        console.print(Text.assemble((command, "cyan"), (f"    # {purpose}", "dim")), soft_wrap=True)


def _heading(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold"))


def _sentences(console: Console, sentences: tuple[str, ...] | list[str]) -> None:
    for sentence in sentences:
        console.print(Padding(Text(f"• {sentence}"), (0, 0, 0, 1)))


def _fitted(table: Table, console: Console) -> list[RichTable]:
    """The table as it is if it fits; else the facts of each trial, and below them its parameters, which may wrap."""
    if _fits(table, console):
        return [_rich(table)]
    searched = [index for index in range(len(table.headers)) if index in table.searched]
    facts = [index for index in range(len(table.headers)) if index not in table.searched]
    trial = table.headers.index("trial")
    rows = [
        [row[trial], "  ".join(f"{table.headers[index]}={row[index]}" for index in searched if row[index] != NOTHING)]
        for row in table.rows
    ]
    parameters = _rich(Table(["trial", "parameters"], rows, {0}, table.marked))
    return [*_broken(table.only(facts), console, trial + 1), parameters]


def _broken(table: Table, console: Console, keys: int = 1) -> list[RichTable]:
    """The table as it is if it fits; else its last columns below the others, beside the first `keys` again."""
    last = len(table.headers)
    while last > keys + 1 and not _fits(table.only(range(last)), console):
        last -= 1
    rest = range(last, len(table.headers))
    return [_rich(table.only(range(last))), *(_broken(table.only([*range(keys), *rest]), console, keys) if rest else [])]


def _fits(table: Table, console: Console) -> bool:
    return Measurement.get(console, console.options.update(max_width=10_000), _rich(table)).maximum <= console.width


def _rich(table: Table) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, header in enumerate(table.headers):
        longest = max((len(row[index]) for row in table.rows), default=0)
        drawn.add_column(
            Text(header),
            justify="right" if index in table.numeric else "left",
            overflow="fold",
            min_width=longest if longest <= SHORT else None,
        )
    for index, row in enumerate(table.rows):
        drawn.add_row(*(Text(cell) for cell in row), style="bold" if index == table.marked else "")
    return drawn
