"""The report as a person gets it: the command, the terminal, the page, the table of trials."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from analysis import figures, load
from analysis.__main__ import app
from analysis.page import compressed_plotly, panels, render, write_page
from analysis.report import build, write_results
from analysis.tables import best_trials
from analysis.terminal import print_report

FIGURES = ["history", "importances", "parallel", "curves", "gradients"]


class Outline(HTMLParser):
    """Tags that fetch something, and the JSON of each figure."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.data: dict[str, str] = {}
        self._open: str | None = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        facts = dict(attrs)
        self.fetched += [value for name, value in facts.items() if name in {"src", "href", "action", "srcset"}]
        self._open = facts.get("id") if facts.get("type") == "application/json" else None

    def handle_data(self, data):
        if self._open:
            self.data[self._open.removeprefix("figure-")] = self.data.get(self._open, "") + data

    def handle_endtag(self, tag):
        self._open = None


def built(ledger):
    return build(load(ledger.name, ledger.root))


def printed(report, width=150):
    console = Console(width=width, record=True, file=io.StringIO())
    print_report(report, console)
    return console.export_text()


@pytest.fixture(scope="module")
def searched(search_ledger):
    """The report of a search with every verdict in it."""
    return built(search_ledger)


def test_the_page_needs_nothing_else(searched):
    page = render(searched)
    outline = Outline(page)
    assert outline.fetched == []
    assert "link" not in outline.tags
    assert page.count(compressed_plotly()) == 1
    without_library = page.replace(compressed_plotly(), "")
    assert not re.search(r"https?://|//cdn|@import|url\(", without_library)
    # What the library could fetch by itself, the page forbids.
    assert "default-src 'none'" in without_library
    assert "showSendToCloud: false" in without_library


def test_the_page_has_every_figure(searched):
    drawn = Outline(render(searched)).data
    assert sorted(drawn) == sorted(FIGURES)
    assert all(json.loads(text)["data"] for text in drawn.values())


def test_the_page_is_written_whole_and_alone(searched):
    path = write_page(searched)
    assert path == searched.sweep.ledger.report_directory / "index.html"
    assert [entry.name for entry in path.parent.iterdir()] == ["index.html"]
    assert path.read_text().rstrip().endswith("</html>")


def test_text_from_trials_is_never_markup(write_ledger, made):
    """Reasons, tracebacks and overrides are shown as they are, on the page and in the terminal."""
    nasty = "</script><script>alert(1)</script>[red]"
    trials = [made((0.5, 0.6), params={"loader": nasty}), made((0.5, 0.4), params={"loader": nasty})]
    report = built(write_ledger([*trials, made((), "failed", nasty, error=f"Traceback\n{nasty}", params={"loader": nasty})]))
    page = render(report).replace(compressed_plotly(), "")
    assert "<script>alert" not in page
    assert page.count("&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;[red]") >= 3
    assert all(json.loads(text) for text in Outline(render(report)).data.values())
    assert nasty in printed(report, width=250)


CASES = {
    "no trial": [],
    "only failures": [("failed", ()), ("failed", ())],
    "only broken": [("broken", (float("nan"),))],
    "only pruned": [("outranked", (0.1,)), ("outranked", (0.2,))],
    "one complete": [("finished", (0.5,))],
    "one running": [("running", (0.5,))],
    "one that has not reported": [("running", ())],
    "only rejected": [("rejected", ())],
    "equal values": [("finished", (0.5, 0.5))] * 12,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("parameters", [True, False])
def test_a_poor_sweep_has_a_report_that_says_what_is_missing(write_ledger, made, case, parameters):
    params = {"model": "vimh_mlp"} if parameters else {}
    trials = [made(values, verdict, "why", params=params, gradients=False) for verdict, values in CASES[case]]
    report = built(write_ledger(trials, target=20))
    page, text = render(report), printed(report)
    drawn = Outline(page).data
    shown = panels(report)
    assert set(drawn) == {key for key in FIGURES if shown[key].figure is not None}
    for key in set(FIGURES) - set(drawn):
        assert shown[key].missing in page
    assert shown["gradients"].figure is None
    assert shown["importances"].figure is None
    if not report.sweep.complete.empty:
        assert best_trials(report.sweep).rows[0][1] == "0"
        assert (shown["parallel"].figure is not None) == parameters
    else:
        assert "No trial has" in page
        assert "No trial has" in text
    assert "make resume NAME=demo" in text  # 20 were asked for


def test_parallel_coordinates_draw_every_complete_trial(searched):
    """Those in which a conditional parameter was not active too."""
    figure = figures.parallel_coordinates(searched.sweep)
    assert len([trace for trace in figure.data if trace.mode == "lines"]) == len(searched.sweep.complete)
    note = panels(searched)["parallel"].note
    assert f"The {len(searched.sweep.complete)} complete trials" in note
    assert "model.net.auxiliary_hidden_size was not active there" in note


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_best_trial_has_the_best_colour_and_lies_on_top(write_ledger, made, mode):
    trials = [made((value,), params={"data.batch_size": 40 + place}) for place, value in enumerate((0.2, 0.9, 0.4))]
    figure = figures.parallel_coordinates(load("demo", write_ledger(trials, mode=mode).root))
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert lines[-1].line.color == "rgb(232, 135, 30)"
    assert lines[-1].y[0] == (1.0 if mode == "max" else 0.0)


def test_a_line_of_one_trial_does_not_run_into_the_next(write_ledger, made):
    """One trace holds all trials of a verdict: a gap after each keeps them apart."""
    sweep = load("demo", write_ledger([made((0.9, 0.95)), made((0.1, 0.2)), made((0.3, 0.4))]).root)
    finished = next(trace for trace in figures.learning_curves(sweep, [0]).data if trace.name == "finished")
    assert [None if pd.isna(x) else x for x in finished.x] == [1, 2, None, 1, 2, None]
    assert [None if pd.isna(y) else y for y in finished.y] == [0.1, 0.2, None, 0.3, 0.4, None]


def test_the_history_figure_has_the_best_so_far(write_ledger, made):
    trials = [made((0.3,)), made((0.2,)), made((0.1,), "outranked", "last"), made((0.5,))]
    figure = figures.history(load("demo", write_ledger(trials).root))
    best = next(trace for trace in figure.data if trace.name == "best so far")
    assert (list(best.x), list(best.y)) == ([0, 1, 3], [0.3, 0.3, 0.5])


def test_the_terminal_shows_the_best_and_what_comes_next(searched):
    text = printed(searched)
    best = searched.sweep.complete.iloc[0]
    assert f"make debug NAME=demo TRIAL={best['number']}" in text
    assert f"{best['value']:.4g}" in text
    assert searched.status() in text
    assert "RuntimeError: CUDA out of <b>memory</b>" in text
    overrides = " ".join(best["overrides"])
    assert f"python -m lhtx.train {overrides}" in text


def test_a_narrow_terminal_cuts_no_number_short(searched):
    """At 80 columns the parameters stand below the facts; every value is there in one piece."""
    text = printed(searched, width=80)
    for row in best_trials(searched.sweep).rows:
        assert row[2] in text
        assert f"lr={row[best_trials(searched.sweep).headers.index('lr')]}" in text
    assert max(len(line) for line in text.splitlines() if not line.startswith(("make", "python"))) <= 80


def test_commands_quote_what_a_shell_would_read_otherwise(write_ledger, made):
    report = built(write_ledger([made((0.5,), params={"data.note": "a b;c"})], name="mine"))
    commands = [command for command, _ in report.commands()]
    assert commands[0].startswith("make extend NAME=mine TRIALS=+10 RUNS=")
    assert commands[-1] == "python -m lhtx.train experiment=vimh 'data.note=a b;c' seed=1"


def test_a_finished_sweep_is_extended_and_an_unfinished_one_resumed(write_ledger, made):
    done = built(write_ledger([made((0.5,))], name="done"))
    running = built(write_ledger([made((0.5,), "running")], name="running"))
    short = built(write_ledger([made((0.5,))], name="short", target=3))
    first = [report.commands()[0][0].split()[1] for report in (done, running, short)]
    assert first == ["extend", "resume", "resume"]


def test_the_command_writes_page_and_table(write_ledger, make_search):
    ledger = write_ledger(make_search(12))
    result = CliRunner().invoke(app, ["report", "demo", "--root", str(ledger.root)])
    assert result.exit_code == 0, result.output
    assert str(ledger.report_directory / "index.html") in result.output.replace("\n", "")
    table = pd.read_parquet(ledger.results_file)
    trials = load("demo", ledger.root).trials
    assert list(table) == list(trials)
    assert table["value"].equals(trials["value"])
    assert table["overrides"].iloc[0].tolist() == trials["overrides"].iloc[0]


def test_the_command_refuses_a_sweep_that_is_not_there(write_ledger, made, tmp_path):
    write_ledger([made((0.5,))])
    result = CliRunner().invoke(app, ["report", "dmeo", "--root", str(tmp_path)])
    assert result.exit_code == 2
    assert "Did you mean demo?" in result.stderr
    assert result.stdout == ""


def test_results_replace_the_old_ones_whole(write_ledger, made):
    ledger = write_ledger([made((0.5,))])
    ledger.results_file.write_text("old")
    write_results(load("demo", ledger.root))
    assert len(pd.read_parquet(ledger.results_file)) == 1
    assert not list(ledger.directory.glob(".results*"))


def test_analysis_knows_nothing_of_sweeps_but_the_ledger():
    """The package's arrows run one way."""
    source = Path(figures.__file__).parent
    imported = {
        name
        for file in source.glob("*.py")
        for name in re.findall(r"(?:from|import) (sweeps[\w.]*|lhtx[\w.]*)", file.read_text())
    }
    assert imported == {"sweeps.ledger"}
