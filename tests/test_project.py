"""Laws of the whole project: which package may import which, links that resolve, a help that lists every command."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

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


def targets() -> set[str]:
    """The commands that the Makefile defines."""
    return set(re.findall(r"^\.PHONY: (\S+)$", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))


def test_help_lists_every_command():
    command = ["make", "--no-print-directory", "help"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in listed.splitlines()} == targets()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_pages_name_only_commands_that_exist(page):
    named = set(re.findall(r"`make ([a-z-]+)", page.read_text()))
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
