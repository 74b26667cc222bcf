"""Search spaces written for a test, and sweeps made of them without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.ledger import Ledger
from sweeps.runner import create_ledger
from sweeps.space import SearchSpace, load_space

BASE = """
description: A test's space.
trial: [experiment=vimh]
objective: {metric: val/avg_acc, mode: max}
space:
  model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-1]}
"""


@pytest.fixture
def make_space(tmp_path: Path) -> Callable[..., SearchSpace]:
    """A function: YAML text (after a base that has all that is required, unless `base=False`) → the space."""

    def make(text: str = "", name: str = "test", base: bool = True) -> SearchSpace:
        path = tmp_path / f"{name}.yaml"
        path.write_text((BASE if base else "") + text)
        return load_space(path)

    return make


@pytest.fixture
def make_ledger(make_space: Callable[..., SearchSpace], tmp_path: Path) -> Callable[..., Ledger]:
    """A function: YAML text → the ledger of a sweep in which nothing has run."""

    def make(text: str = "", name: str = "test") -> Ledger:
        ledger = Ledger(name, tmp_path / "runs")
        create_ledger(ledger, make_space(text, name))
        return ledger

    return make
