"""The benchmarks of training fail where a bound is broken, and nothing is drawn where it would cost nothing."""

import os
import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace

import pytest
import rich

from lhtx.terminal import moves_cursor


def benchmark(name: str) -> ModuleType:
    """The module of a benchmark."""
    return import_module(f"benchmarks.{name}")


def status(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """What its command line ends with."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    return module.main()


def fused_at(ratio: float) -> SimpleNamespace:
    """What the benchmark of fused training measures."""
    return SimpleNamespace(parameters=11_204, alone=40.0, group=80.0, ratios=[ratio])


@pytest.mark.parametrize(
    ("name", "measures", "broken", "kept", "arguments"),
    [
        ("training_step", ["measure"], (60_000, 1000.0, 599.0), (60_000, 1000.0, 600.0), ["--only", "vimh_mlp"]),
        ("training_step", ["measure"], (60_000, 1000.0, 749.0), (60_000, 1000.0, 750.0), ["--only", "vimh_cnn"]),
        ("gradient_statistics", ["measure"], (60_000, 10, 1.06, 1.0), (60_000, 10, 1.04, 1.0), []),
        ("dataloader", ["measure"], False, True, []),
        ("recipes", ["recipe", "sweep"], 0.95, 0.98, []),
        ("fused", ["measure"], fused_at(3.0), fused_at(3.2), ["--only", "MLP 11k", "--members", "8"]),
    ],
)
def test_a_broken_bound_is_an_exit_status(monkeypatch, capsys, name, measures, broken, kept, arguments):
    module = benchmark(name)

    def measured(result):
        metrics = {"test/acc": result, "test/avg_acc": result}
        found = module.Reached(1, 1, metrics) if name == "recipes" else result
        for measure in measures:
            monkeypatch.setattr(module, measure, lambda *_: found)

    measured(broken)
    assert status(module, monkeypatch, *arguments) == 1
    assert ("BROKEN" in capsys.readouterr().out) == (name != "dataloader")  # whose table is what is replaced here
    assert status(module, monkeypatch, "--quick", *arguments) == 0
    measured(kept)
    assert status(module, monkeypatch, *arguments) == 0


def test_the_search_space_of_the_digits_is_measured_with_the_recipes(monkeypatch, capsys):
    module = benchmark("recipes")
    for name in ("recipe", "sweep"):
        monkeypatch.setattr(module, name, lambda *_, name=name: module.Reached(1, 1, {"test/acc": float(name == "recipe")}))
    assert status(module, monkeypatch, "--only", "digits_cnn", "sweep digits") == 1
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split("(")[-1] for row in rows] == ["kept)", "BROKEN)"]


def test_the_progress_bar_is_measured_in_a_terminal():
    module = benchmark("training_step")
    with module.terminal():
        console = rich.get_console()
        assert moves_cursor(console)
        assert os.isatty(console.file.fileno())
        console.print("drawn")
    assert not rich.get_console().file.closed


@pytest.mark.slow
def test_the_sweep_of_the_digits_is_read(tmp_path):
    module = benchmark("recipes")
    reached = module.sweep(tmp_path, quick=True)
    assert 0 < reached.parameters <= 60_000
    assert reached.epochs == 2
    assert 0 < reached.metrics["test/acc"] <= 1
