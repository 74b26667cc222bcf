"""Fixtures that all tests share."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from lhtx.data.recipe import Recipe, generate

torch.set_num_threads(1)
settings.register_profile("project", deadline=None, derandomize=True)  # a busy machine is slow, and tests are seeded
settings.load_profile("project")


@pytest.fixture(scope="session")
def vimh_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated dataset: 128 samples of 32x32x3, heads note_number (4 classes) and log10_decay_time (3 classes)."""
    recipe = Recipe.from_options(
        {
            "size": 128,
            "seed": 1,
            "vary": {
                "note_number": {"min": 48, "max": 51, "step": 1},
                "log10_decay_time": {"min": -2.0, "max": 0.0, "step": 1.0},
            },
        }
    )
    directory = tmp_path_factory.mktemp("data") / recipe.name
    generate(recipe, directory)
    return directory
