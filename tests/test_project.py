"""Laws of the whole project: which package may import which, links that resolve, a help that lists every command."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from lhtx.suite import SUITES

PROJECT = Path(__file__).resolve().parent.parent
PAGES = sorted([PROJECT / "README.md", PROJECT / "search_spaces" / "README.md", *(PROJECT / "docs").glob("*.md")])
PACKAGES = ("lhtx", "sweeps", "analysis")


def imported(path: Path) -> set[str]:
    """The project's own modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name for name in names if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("lhtx", r"lhtx(\..*)?"),
        ("sweeps", r"(sweeps|lhtx)(\..*)?"),
        ("analysis", r"analysis(\..*)?|sweeps\.ledger"),
    ],
)
def test_arrows_run_one_way(package, others):
    for path in sorted((PROJECT / package).rglob("*.py")):
        wrong = {name for name in imported(path) if not re.fullmatch(others, name)}
        assert not wrong, f"{path.relative_to(PROJECT)} imports {wrong}"


def test_files_hold_one_subject():
    long = {
        str(path.relative_to(PROJECT)): lines
        for package in PACKAGES
        for path in (PROJECT / package).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not long, "a file of more than 400 lines holds two things"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def run_make(*arguments: str) -> str:
    """What `make` prints in the project's directory, without the flags of a make around this test."""
    environment = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True).stdout


@cache
def targets() -> frozenset[str]:
    """The commands that make knows, by its own account."""
    phony = re.findall(r"^\.PHONY: ([^$\n]+)$", run_make("--print-data-base", "--dry-run", "help"), flags=re.MULTILINE)
    return frozenset(name for names in phony for name in names.split())


@cache
def help_lines() -> dict[str, tuple[str, ...]]:
    """Long name → all names of a command, as `make help` lists them."""
    lines = [line for line in run_make("help").splitlines() if line.startswith("  ")]
    names = [tuple(re.split(r"\s{2,}", line.strip())[0].split(", ")) for line in lines]
    assert all(re.fullmatch(r"  \S.*?\s{2,}\S.*", line) for line in lines), "every line says what its command does"
    return {group[0]: group for group in names}


def test_help_lists_every_command_once():
    listed = [name for names in help_lines().values() for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) == targets()
    assert run_make("h") == run_make("help") == run_make()


def test_a_short_name_does_what_the_long_one_does():
    for long, *shorts in help_lines().values():
        variables = ["NAME=quickstart", "TRIALS=+1"]
        for short in shorts:
            done = run_make("--dry-run", short, *variables).replace(f"make {short} ", f"make {long} ")
            assert done == run_make("--dry-run", long, *variables), f"{short} and {long} differ"


def test_no_two_commands_do_the_same():
    done: dict[str, str] = {}
    for long in help_lines():
        commands = run_make("--dry-run", long, "NAME=quickstart", "TRIALS=+1").replace(f"make {long} ", "make … ")
        assert commands not in done, f"{long} does what {done[commands]} does"
        done[commands] = long


@cache
def every_command() -> str:
    """All that make would run, of all its targets."""
    variables = ["NAME=quickstart", "TRIALS=+1", "TRIAL=3", "EPOCHS=+1"]
    return run_make("--dry-run", *sorted(targets() - {"bench"}), *variables)


def test_every_module_that_make_runs_is_there():
    modules = set(re.findall(r"\.venv/bin/python -m (\S+)", every_command()))
    assert {"sweeps", "analysis", "lhtx.train", "lhtx.suite", "lhtx.tensorboard", "lhtx.data.view"} <= modules
    for module in modules:
        assert find_spec(module), module
        assert module in ("pip", "pytest", "ruff") or find_spec(f"{module}.__main__" if is_package(module) else module), module


def is_package(module: str) -> bool:
    return find_spec(module).submodule_search_locations is not None


@pytest.mark.parametrize(("package", "app"), [("sweeps", "sweeps.cli"), ("analysis", "analysis.__main__")])
def test_every_command_that_make_gives_a_package_is_there(package, app):
    given = set(re.findall(rf"-m {package} ([a-z-]+)", every_command()))
    known = set(typer.main.get_command(import_module(app).app).commands)
    assert given
    assert given <= known
    documented = {name for page in PAGES for name in re.findall(rf"-m {package} ([a-z-]+)", page.read_text())}
    assert documented <= known


def test_bench_runs_every_script_and_fails_at_the_end(tmp_path):
    shutil.copy(PROJECT / "Makefile", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "requirements.lock").touch()
    (tmp_path / ".venv" / ".installed").touch()
    for name, status in (("a", 0), ("b", 1), ("c", 0)):
        (tmp_path / "benchmarks" / f"{name}.py").write_text(f"print('measured {name}'); raise SystemExit({status})")
    command = ["make", "--directory", str(tmp_path), "bench"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2, done.stderr  # that of make, whose command failed
    assert re.findall("measured (.)", done.stdout) == ["a", "b", "c"]
    assert "not to be measured: b\n" in done.stderr
    (tmp_path / "benchmarks" / "b.py").write_text("")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_template_s_short_names_are_there():
    known = "tr tq tqc tqv tqcn tqvh tqa ca cb10c cb10cn cb10v cb10e cb100c cb100cn cb100v cb100e cb100sdn cb100cc cbs"
    assert {*known.split(), *["t", "ta", "f", "c", "cl", "cd", "h", "td", "tb", "dv", "lc"]} <= targets()


def test_shortcuts_train_experiments_that_exist():
    experiments = {path.stem for path in (PROJECT / "lhtx" / "configs" / "experiment").glob("*.yaml")}
    models = {path.stem for path in (PROJECT / "lhtx" / "configs" / "model").glob("*.yaml")}
    commands = "\n".join(run_make("--dry-run", name) for name in targets() if name.startswith(("tq", "e", "cb", "ca")))
    assert set(re.findall(r" experiment=(\S+)", commands)) <= experiments
    assert set(re.findall(r" model=(\S+)", commands)) <= models
    for names in re.findall(r"-m lhtx\.suite((?: [a-z0-9_]+(?![\w.=]))+)", commands):
        assert set(names.split()) <= experiments | SUITES.keys()


@pytest.mark.parametrize(("target", "directory"), [("clean-logs", "logs"), ("clean-data", "data")])
def test_cleaning_removes_results_and_data_only_when_confirmed(tmp_path, target, directory):
    shutil.copy(PROJECT / "Makefile", tmp_path)
    kept = tmp_path / directory / "run" / "best.ckpt"
    kept.parent.mkdir(parents=True)
    kept.write_text("weights")
    command = ["make", "--directory", str(tmp_path), target]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"CONFIRM": "yes"})
    assert refused.returncode == 2
    assert f"nothing was removed. To remove it for good: make {target} CONFIRM=yes" in refused.stderr
    assert kept.exists()
    subprocess.run(["make", "--directory", str(tmp_path), "clean"], capture_output=True, check=True)
    assert kept.exists()
    subprocess.run([*command, "CONFIRM=yes"], capture_output=True, check=True)
    assert not (tmp_path / directory).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_pages_name_only_commands_that_exist(page):
    named = set(re.findall(r"`make ([a-z][a-z0-9-]*)", page.read_text()))
    assert named <= targets()


def test_the_lock_file_pins_all_that_the_project_names():
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    locked = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (PROJECT / "requirements.lock").read_text().splitlines()
        if "==" in line
    }
    assert {re.split(r"[\[<>=]", name)[0].lower() for name in wanted} <= locked
    assert "torch==2.13.0" in (PROJECT / "requirements.lock").read_text().splitlines()
