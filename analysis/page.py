"""The report as one HTML file that needs nothing else: no network, no file beside it. It must not compute what it shows."""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from analysis import figures, tables
from analysis.report import IMPORTANCE_NOTE, Report
from sweeps.ledger import write_atomically

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Panel:
    """A figure with what is needed to read it; or, where there is none, why."""

    key: str
    title: str
    note: str
    missing: str
    figure: go.Figure | None

    @property
    def json(self) -> Markup:
        """The figure for a script element: no `<` in it, so no trial's text can close the element."""
        return Markup(self.figure.to_json().replace("<", "\\u003c"))


def panels(report: Report) -> dict[str, Panel]:
    """The page's figures by their keys."""
    sweep, counts = report.sweep, report.headline.counts
    left_out = len(sweep.trials) - len(sweep.complete)
    conditional = [name for name in sweep.searched if sweep.complete[name].isna().any()]
    inactive = f" A line through None at an axis' foot: {', '.join(conditional)} was not active there." if conditional else ""
    unmeasured = "; ".join(f"{found.basis}: {found.missing}" for found in report.importances if found.missing)
    stopped = " · ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    first = f", the first of {len(sweep.objectives)} objectives" if sweep.several else ""
    front, several = report.front, sweep.several
    outside = (sweep.trials["violated"] != "").any()
    dotted = f" {'Not drawn' if several else 'Dotted'}: outside an outcome constraint." if outside else ""
    one = " of single trials" if sweep.repeated else ""
    plotted = f"{sweep.metric}{first}: " if several else ""
    drawn = [
        Panel(
            "front",
            "The objectives against each other",
            f"Each complete trial at its best epoch by {sweep.metric}; a stopped one at the best it had seen, after fewer "
            "epochs." + (" The line bounds what the front dominates." if len(sweep.objectives) == 2 else ""),
            "No trial has reported its objectives yet.",
            figures.pareto_front(sweep, front),
        ),
        Panel(
            "history",
            "How the search went",
            f"{sweep.metric} ({sweep.mode}){first}. A stopped trial stands at the best it had seen: after fewer epochs, "
            "that is not comparable with a complete one's value."
            + (" The line is of those within the outcome constraints." if outside else "")
            + (" The line is of single trials; the headline is a mean over seeds." if sweep.repeated and not several else ""),
            "No trial has reported a value yet.",
            figures.history(sweep),
        ),
        Panel(
            "importances",
            "What mattered",
            IMPORTANCE_NOTE + (f" Not measured: {unmeasured}." if unmeasured else ""),
            f"Not measured: {unmeasured}.",
            figures.importances(report.importances),
        ),
        Panel(
            "parallel",
            "Parallel coordinates",
            f"The {len(sweep.complete)} complete trials; {left_out} without a final value are not drawn."
            f"{f' Orange: the front{one}.' if several else ''}{dotted}{inactive}",
            "No trial has finished with a value and a searched parameter.",
            figures.parallel_coordinates(sweep),
        ),
        Panel(
            "curves",
            "Learning curves",
            f"{plotted}{stopped}. Click a name to hide its lines, twice to see it alone.",
            "No trial has reported an epoch yet.",
            figures.learning_curves(sweep, report.highlighted),
        ),
        Panel(
            "gradients",
            "Gradient statistics",
            f"{'The front' if several else 'The best trial'} against the others, by epoch. Evidence above 0: the epoch's mean "
            "gradient cannot be told from zero. Values that are not positive have no place on a logarithmic axis and are not "
            "drawn (a noise scale is negative where the gradient drowns in its noise). Momentum and Adam bend the theory "
            "behind evidence: it is a heuristic there.",
            "No trial logged gradient statistics.",
            figures.gradient_statistics(sweep, report.highlighted),
        ),
    ]
    return {panel.key: panel for panel in drawn}


def render(report: Report) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    sweep = report.sweep
    return environment.get_template("report.html").render(
        report=report,
        sweep=sweep,
        panels=panels(report),
        best=tables.ranking(sweep, report.front),
        near=tables.NEAREST,
        options=tables.options(sweep, report.options, report.front),
        shadow=tables.shadow(sweep, report.guard),
        failures=tables.failures(report.failures),
        everything=tables.all_trials(sweep),
        sessions=tables.sessions(sweep),
        plotly=Markup(compressed_plotly()),
    )


@cache
def compressed_plotly() -> str:
    """plotly.js, gzipped, in base64: two fifths of its size. The page unpacks it."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def write_page(report: Report) -> Path:
    """Write the page to the ledger's report directory, and return its path."""
    directory = report.sweep.ledger.report_directory
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "index.html"
    write_atomically(path, render(report))
    return path
