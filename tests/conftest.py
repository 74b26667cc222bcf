"""Fixtures that all tests share."""

import struct
from pathlib import Path

import numpy as np
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
