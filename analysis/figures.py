"""The figures of a report. They are drawn in colours that read on light and on dark ground; the page sets the text's colour.

Nothing is computed here but positions. A figure that has nothing to show is None.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
from optuna.trial import TrialState
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from analysis.frames import Objective, best_rows
from analysis.front import Front
from analysis.importance import Importances
from analysis.load import Sweep, memory_study
from analysis.statistics import short_names

COLOURS = {
    "finished": "#3d85d6",
    "spent": "#24a08f",
    "outranked": "#949ba6",
    "broken": "#d4475b",
    "failed": "#a64d9e",
    "running": "#b5a136",
    "waiting": "#c9bd6a",
    "interrupted": "#8a7a1f",
}
COMPLETE = {"finished", "spent"}
BEST = "#e8871e"
SCALE = ["#5f86b3", "#8b74c4", "#d0658f", BEST]
"""From the worst value to the best."""
GRID = "rgba(128, 128, 128, 0.25)"
MUTED = "#888888"

GRADIENTS = {
    "grad/evidence": ("evidence (above 0: noise)", "linear", 0.0),
    "grad/snr": ("signal to noise (1: noise)", "log", 1.0),
    "grad/noise_scale": ("noise scale (samples)", "log", None),
    "grad/epoch_mean": ("gradient norm, epoch mean", "log", None),
}
"""Statistic → axis title, axis type, reference line."""


def history(sweep: Sweep) -> go.Figure | None:
    """Every trial's value by its number; trials that were stopped, at the best they had seen."""
    seen = sweep.trials.dropna(subset=["best_seen"])
    if seen.empty:
        return None
    figure = go.Figure()
    for verdict, group in _by_verdict(seen):
        complete = verdict in COMPLETE
        figure.add_scatter(
            x=group["number"].tolist(),
            y=group["best_seen"].tolist(),
            mode="markers",
            name=verdict if complete else f"{verdict} (best it had seen)",
            marker={"color": COLOURS[verdict], "symbol": "circle" if complete else "x-thin-open", "size": 8 if complete else 7},
            customdata=group["epochs"].fillna(0).astype(int).tolist(),
            hovertemplate="trial %{x}: %{y:.4g}, %{customdata} epochs<extra></extra>",
        )
    done = sweep.complete[sweep.complete["feasible"].fillna(True)].sort_values("number")
    if len(done):
        best = done["value"].cummax() if sweep.sign > 0 else done["value"].cummin()
        line = {"color": BEST, "width": 2, "shape": "hv"}
        name = f"best {sweep.metric} so far" if sweep.several else "best so far"
        figure.add_scatter(x=done["number"].tolist(), y=best.tolist(), mode="lines", name=name, line=line)
    return _styled(figure, "trial (in the order in which they were proposed)", sweep.metric)


def importances(found: Sequence[Importances]) -> go.Figure | None:
    """Bars of importance, a panel for each basis, and what chance reaches."""
    measured = [entry for entry in found if entry.parameters]
    if not measured:
        return None
    rows = [len(entry.parameters) for entry in measured]
    figure = make_subplots(
        rows=len(measured),
        cols=1,
        row_heights=rows,
        vertical_spacing=0.28 / len(measured),
        subplot_titles=[f"{entry.basis} ({entry.trials})" for entry in measured],
    )
    for place, entry in enumerate(measured, start=1):
        parameters = entry.parameters[::-1]
        names = [html.escape(parameter.parameter) for parameter in parameters]
        common = {"y": names, "showlegend": place == 1}
        figure.add_bar(
            x=[parameter.share for parameter in parameters],
            orientation="h",
            name="importance (grey: not above chance)",
            marker={"color": [COLOURS["finished"] if p.above_chance else COLOURS["outranked"] for p in parameters]},
            hovertemplate="%{y}: %{x:.0%}<extra></extra>",
            row=place,
            col=1,
            **common,
        )
        figure.add_scatter(
            x=[min(parameter.chance, 1.0) for parameter in parameters],
            mode="markers",
            name="chance reaches this (95 %)",
            marker={"symbol": "line-ns-open", "size": 16, "color": BEST, "line": {"width": 3, "color": BEST}},
            hovertemplate="%{y}: chance %{x:.0%}<extra></extra>",
            row=place,
            col=1,
            **common,
        )
    figure.update_xaxes(range=[0, 1.02], tickformat=".0%")
    figure = _styled(figure, None, None, height=130 + 90 * len(measured) + 30 * sum(rows))
    figure.update_xaxes(title_text="share of importance (%)", row=len(measured), col=1)
    figure.update_yaxes(automargin=True)
    return figure


def pareto_front(sweep: Sweep, front: Front | None) -> go.Figure | None:
    """Two objectives against each other, a panel for each two: complete trials, the front, and stopped trials as far as
    they came. Of two objectives, a line bounds what the front dominates."""
    at_best = best_rows(sweep.curves)
    seen = sweep.trials.set_index("number", drop=False).loc[at_best.index]
    if seen.empty or not sweep.several:
        return None
    on_front = set(front.numbers) if front else set()
    pairs = list(combinations(sweep.objectives, 2))
    columns = min(2, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    figure = make_subplots(rows=rows, cols=columns, horizontal_spacing=0.12, vertical_spacing=0.35 / rows)
    for index, (up, across) in enumerate(pairs):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        for verdict, group in _by_verdict(seen):
            complete = verdict in COMPLETE
            shown = group[~group["number"].isin(on_front)]
            style = {"color": COLOURS[verdict], "symbol": "circle" if complete else "x-thin-open", "size": 8}
            name = verdict if complete else f"{verdict} (best it had seen)"
            if len(shown):
                _add_points(figure, at_best.loc[shown.index], shown, (across, up), name, style, index == 0, place)
        if front:
            ordered = front.trials.sort_values([across.column, up.column], ignore_index=True)
            style = {"color": BEST, "symbol": "diamond", "size": 11}
            name = f"Pareto front ({len(ordered)})"
            line = {"color": BEST, "width": 1.5, "shape": "hv" if across.sign < 0 else "vh"} if len(pairs) == 1 else None
            _add_points(figure, ordered, ordered, (across, up), name, style, index == 0, place, line)
        for update, objective in ((figure.update_xaxes, across), (figure.update_yaxes, up)):
            update(title_text=f"{objective.metric} ({objective.mode})", type=_scale(at_best[objective.column]), **place)
    return _styled(figure, None, None, height=80 + 400 * rows)


def _add_points(
    figure: go.Figure,
    values: pd.DataFrame,
    trials: pd.DataFrame,
    axes: tuple[Objective, Objective],
    name: str,
    marker: dict[str, Any],
    legend: bool,
    place: dict[str, int],
    line: dict[str, Any] | None = None,
) -> None:
    across, up = axes
    figure.add_scatter(
        x=values[across.column].tolist(),
        y=values[up.column].tolist(),
        customdata=list(zip(trials["number"].tolist(), trials["epochs"].fillna(0).astype(int).tolist(), strict=True)),
        mode="lines+markers" if line else "markers",
        line=line,
        marker=marker,
        name=name,
        legendgroup=name,
        showlegend=legend,
        hovertemplate="trial %{customdata[0]}: %{x:.6~g}, %{y:.4~g}, %{customdata[1]} epochs<extra></extra>",
        **place,
    )


def _scale(values: pd.Series) -> str:
    """Logarithmic for positive values that lie far apart, such as network sizes."""
    finite = values[np.isfinite(values)]
    return "log" if len(finite) and finite.min() > 0 and finite.max() >= 30 * finite.min() else "linear"


def parallel_coordinates(sweep: Sweep) -> go.Figure | None:
    """A line a COMPLETE trial through objectives and parameters, the best ones, or the front, on top."""
    complete = [t for t in sweep.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if math.isfinite(t.values[0])]
    study = sweep.study
    if sweep.several:  # optuna ranks what is outside an outcome constraint with the others
        complete = [trial for trial in complete if all(by <= 0 for by in trial.constraints.values())]
        study = memory_study(sweep.modes, complete)
    keys = sorted({key for trial in complete for key in trial.params})
    if not complete or not keys:
        return None
    metrics = [objective.metric for objective in sweep.objectives]
    figure = optuna.visualization.plot_parallel_coordinate(study, target_name=sweep.metric)
    lines = [trace for trace in figure.data if trace.mode == "lines" and trace.x[0] is not None]
    legends = [trace for trace in figure.data if trace.mode != "lines"]
    if sweep.several:  # the front comes last; a scale of ranks would say little more
        on_front = len(study.best_trials)
        for place, trace in enumerate(lines, start=1):
            front = place > len(lines) - on_front
            trace.line.color, trace.opacity = (BEST, 0.9) if front else (COLOURS["finished"], 0.4)
        legends = []
    else:
        for trace in lines:
            place = trace.y[0] if sweep.sign > 0 else 1 - trace.y[0]
            trace.line.color = sample_colorscale(SCALE, place)[0]
            trace.opacity = 0.75
        lines.sort(key=lambda trace: sweep.sign * trace.y[0])
        for trace in legends:
            trace.marker.update(colorscale=SCALE, reversescale=sweep.sign < 0)
    figure = go.Figure([*lines, *legends], figure.layout)
    figure.update_annotations(font={"size": 11, "color": MUTED})
    for annotation in figure.layout.annotations:
        annotation.text = html.escape(annotation.text)
        annotation.name = "on-lines"  # the page gives them its ground's colour
    figure = _styled(figure, None, None, height=460)
    short = short_names(keys)
    axes = [*metrics, *(html.escape(short[key]) for key in keys)]
    figure.update_layout(title=None, margin={"t": 60, "l": 70, "r": 20, "b": 20}, showlegend=False)
    figure.update_xaxes(side="top", ticktext=axes, range=[-0.35, len(axes) - 0.8], showgrid=False)
    return figure


def learning_curves(sweep: Sweep, highlighted: Sequence[int]) -> go.Figure | None:
    """The (first) objective by epoch, a line a trial; the best trial or the front is `highlighted`."""
    if sweep.curves.empty:
        return None
    figure = go.Figure()
    for name, colour, width, lines in _groups(sweep, sweep.curves, "value", highlighted):
        _add_lines(figure, name, colour, width, lines)
    figure.update_xaxes(**_whole_epochs(sweep.curves))
    return _styled(figure, "epoch", sweep.metric, height=460)


def gradient_statistics(sweep: Sweep, highlighted: Sequence[int]) -> go.Figure | None:
    """What the guard watches, by epoch: the best trial, or the front, against the others. Statistics that no trial logged have
    no panel."""
    logged = [name for name in GRADIENTS if name in sweep.history and sweep.history[name].notna().any()]
    if not logged:
        return None
    rows = math.ceil(len(logged) / 2)
    figure = make_subplots(rows=rows, cols=2, horizontal_spacing=0.12, vertical_spacing=0.14)
    named: set[str] = set()
    for index, statistic in enumerate(logged):
        title, kind, reference = GRADIENTS[statistic]
        row, column = index // 2 + 1, index % 2 + 1
        shown = sweep.history
        if kind == "log":  # what is not positive has no place on the axis
            shown = shown.assign(**{statistic: shown[statistic].where(shown[statistic] > 0)})
        for name, colour, width, lines in _groups(sweep, shown, statistic, highlighted):
            _add_lines(figure, name, colour, width, lines, legend=name not in named, row=row, col=column)
            named.add(name)
        if reference is not None:
            figure.add_hline(reference, line={"color": MUTED, "dash": "dot", "width": 1}, row=row, col=column)
        figure.update_yaxes(type=kind, title_text=title, row=row, col=column)
        if kind == "log" and shown[statistic].max() < 1000 * shown[statistic].min():
            figure.update_yaxes(dtick="D2", row=row, col=column)  # else the digits of narrow axes overlap
    figure.update_xaxes(title_text="epoch", **_whole_epochs(sweep.history))
    return _styled(figure, None, None, height=120 + 290 * rows)


def _whole_epochs(frame: pd.DataFrame) -> dict[str, int]:
    """An axis of few epochs has a tick at each, and none between them."""
    return {"dtick": 1} if frame["epoch"].max() <= 20 else {}


def _by_verdict(trials: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(verdict, trials[trials["verdict"] == verdict]) for verdict in COLOURS if (trials["verdict"] == verdict).any()]


def _groups(
    sweep: Sweep, frame: pd.DataFrame, column: str, highlighted: Sequence[int]
) -> list[tuple[str, str, float, pd.DataFrame]]:
    """(name, colour, line width, rows of number, epoch, y): the trials by verdict, the highlighted ones last and by themselves.

    A trial that continues another one begins where its own epochs do: the others are drawn with that one.
    """
    lines = frame[["number", "epoch", column]].rename(columns={column: "y"})
    lines = lines[lines["epoch"] >= lines["number"].map(sweep.trials.set_index("number")["copied_epochs"])]
    special = lines["number"].isin(highlighted)
    groups = []
    for verdict, trials in reversed(_by_verdict(sweep.trials)):  # what finished lies above what did not
        members = lines[lines["number"].isin(trials["number"]) & ~special]
        if members["y"].notna().any():
            groups.append((verdict, COLOURS[verdict], 1.0, members))
    if lines.loc[special, "y"].notna().any():
        name = f"Pareto front ({len(highlighted)})" if sweep.several else f"best (trial {highlighted[0]})"
        groups.append((name, BEST, 2.0 if sweep.several else 3.0, lines[special]))
    return groups


def _add_lines(
    figure: go.Figure, name: str, colour: str, width: float, lines: pd.DataFrame, legend: bool = True, **place: int
) -> None:
    """One trace for all lines of a group, with a gap after each trial."""
    gaps = lines.drop_duplicates("number").assign(epoch=math.nan, y=math.nan)
    drawn = pd.concat([lines, gaps]).sort_values("number", kind="stable")
    figure.add_scatter(
        x=drawn["epoch"].tolist(),
        y=drawn["y"].tolist(),
        customdata=drawn["number"].tolist(),
        mode="lines+markers",
        name=name,
        legendgroup=name,
        showlegend=legend,
        line={"color": colour, "width": width},
        marker={"size": 3 + width},
        opacity=1.0 if width > 1 else 0.55,
        hovertemplate="trial %{customdata}, epoch %{x}: %{y:.4g}<extra></extra>",
        **place,
    )


def _styled(figure: go.Figure, x: str | None, y: str | None, height: int = 420) -> go.Figure:
    """What all figures share. Without titles given, the axes keep theirs."""
    figure.update_layout(
        template="none",
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"t": 80, "l": 70, "r": 20, "b": 60},
        legend={"orientation": "h", "y": 1, "yanchor": "top", "yref": "container", "x": 0, "itemsizing": "constant"},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": BEST},
        hovermode="closest",
    )
    shared = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID, "automargin": True, "title_standoff": 8}
    figure.update_xaxes(**shared)
    figure.update_yaxes(**shared)
    if x is not None:
        figure.update_xaxes(title_text=x)
    if y is not None:
        figure.update_yaxes(title_text=y)
    return figure
