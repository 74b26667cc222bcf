"""Fixtures that all tests share."""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from benchmarks.faults.postgresql import PostgreSQL, running_server
from lhtx.data.recipe import Recipe, generate

torch.set_num_threads(1)
for _variable in ("SWEEPS_STORAGE", "PGPASSWORD"):  # where a user has his own studies
    os.environ.pop(_variable, None)
os.environ["RAY_ADDRESS"] = "local"  # whatever Ray runs on this machine is somebody else's
LONG = (
    "test_kills.py::test_a_kill_before_some_writes[sqlite-scheduler: (?!asha|constant)",
    "test_schedulers.py::.*::test_drivers_that_come_and_go.*[(fifo|hyperband|median|constant)\\]",
    "test_search_spaces.py::test_a_shipped_space_is_sound[(?!quickstart)",
    "test_(samplers|objectives).py::.*[gp\\]",
    "test_networks.py::test_a_network_is_one_graph[SimpleEfficientNet",
    "test_configs.py::test_every_experiment_trains_two_batches[.*(vit|convnext|efficientnet)",
)
"""Tests that are slow for some of their parameters: what stands before [, and what in it, as regular expressions."""
LONGEST = "test_readme.py"
"""Comes first: at the end, the other processes would have nothing left to do beside it."""
SLOW_SECONDS = 1800
"""What a slow test may take that does not say so itself. It ends what hangs; a busy machine takes many times as long as a quiet
one."""
settings.register_profile(  # a busy machine is slow, and tests are seeded
    "project", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("project")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    patterns = [tuple(pattern.partition("[")[::2]) for pattern in LONG]
    for item in items:
        name, _, parameters = item.nodeid.partition("[")
        if any(re.search(f"{before}$", name) and re.match(inside, parameters) for before, inside in patterns):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))
    items.sort(key=lambda item: item.path.name != LONGEST)


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


@pytest.fixture(scope="session")
def image_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with mnist/, cifar10/ and cifar100/: 60 train and 20 test samples each in the published binary formats,
    packed by hand. The brightness of an image tells its label, so that something can be learnt."""
    directory = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)

    def samples(count: int, classes: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) * 7 % classes
        noise = generator.integers(0, 50, (count, size))
        return labels.astype(np.uint8), (noise + 200 * labels[:, None] // classes).astype(np.uint8)

    mnist = directory / "mnist"
    mnist.mkdir()
    for prefix, count in (("train", 60), ("t10k", 20)):
        labels, images = samples(count, 10, 784)
        (mnist / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (mnist / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    cifar10 = directory / "cifar10" / "cifar-10-batches-bin"
    cifar10.mkdir(parents=True)
    for name, count in (*((f"data_batch_{number}", 12) for number in range(1, 6)), ("test_batch", 20)):
        labels, images = samples(count, 10, 3072)
        (cifar10 / f"{name}.bin").write_bytes(np.concatenate([labels[:, None], images], axis=1).tobytes())
    cifar100 = directory / "cifar100" / "cifar-100-binary"
    cifar100.mkdir(parents=True)
    for name, count in (("train", 60), ("test", 20)):
        labels, images = samples(count, 100, 3072)
        coarse = labels[:, None] // 5  # any will do here; the dataset's own superclasses are no such division
        (cifar100 / f"{name}.bin").write_bytes(np.concatenate([coarse, labels[:, None], images], axis=1).tobytes())
    return directory


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server that runs; a test that stops it starts it again."""
    with running_server() as server:
        yield server
