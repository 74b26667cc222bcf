"""docs/extending.md, followed: its files are written where it says, and its commands train."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lhtx.compose import compose
from lhtx.train import train

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"`(lhtx/\S+\.(?:py|yaml))`(?:(?!```).)*```(?:python|yaml)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
TRAININGS = [command for command in COMMANDS if " lhtx.train " in command]


def test_the_page_has_three_steps_each_and_every_block_is_followed():
    assert [Path(path).suffix for path in FILES] == [".py", ".yaml", ".py", ".yaml"]
    assert len(FILES) + PAGE.count("```bash") == PAGE.count("```") / 2
    assert len(re.findall(r"^\*\*[123]\. ", PAGE, flags=re.MULTILINE)) == 6
    assert all(command.startswith("python -m lhtx.") for command in COMMANDS)
    assert not any((PROJECT / path).exists() for path in FILES)


@pytest.fixture
def followed(tmp_path, monkeypatch) -> str:
    """The page's modules, imported under their names, and the override that adds its configs."""
    for path, content in FILES.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        if file.suffix == ".py":
            name = path.removesuffix(".py").replace("/", ".")
            spec = importlib.util.spec_from_file_location(name, file)
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
    return f"hydra.searchpath=['file://{tmp_path / 'lhtx' / 'configs'}']"


@pytest.mark.parametrize(("command", "least"), zip(TRAININGS, (0.6, 0.9, 0.9), strict=True))
def test_what_the_page_adds_trains(followed, tmp_path, command, least):
    quiet = ["trainer=cpu", "logger=none", "threads=1", "trainer.enable_progress_bar=false", f"paths.output_dir={tmp_path}"]
    metrics = train(compose([followed, *quiet, "trainer.enable_model_summary=false", *shlex.split(command)[3:]]))
    assert metrics["test/avg_acc"] > least


@pytest.mark.slow
def test_the_commands_run_in_a_copy_of_the_project(tmp_path):
    shutil.copytree(PROJECT / "lhtx", tmp_path / "lhtx", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    for path, content in FILES.items():
        (tmp_path / path).write_text(content)
    for command in COMMANDS:
        line = [sys.executable, *shlex.split(command)[1:]]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert list(tmp_path.glob("logs/diagram/runs/*/diagram.svg"))
    results = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("logs/train/runs/*/metrics.json"))]
    assert [result["test/avg_acc"] > least for result, least in zip(results, (0.6, 0.9, 0.9), strict=True)] == [True] * 3
