"""What tests of whole runs share: one small generated dataset, and the overrides that train on it in a second."""

from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name a generated dataset of 200 samples, which the first run makes."""
    return [f"paths.data_dir={tmp_path_factory.mktemp('data')}", "data.generate.size=200"]


@pytest.fixture
def quiet(small_data: list[str], tmp_path) -> Callable[..., list[str]]:
    """Makes the overrides of a silent CPU run of a tiny CNN in `tmp_path/<name>`, more overrides appended."""

    def overrides(name: str, *more: str) -> list[str]:
        return [
            *small_data,
            f"paths.log_dir={tmp_path / 'logs'}",
            f"paths.output_dir={tmp_path / name}",
            *("trainer=cpu", "logger=none", "threads=1", "trainer.max_epochs=2"),
            *("trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"),
            *("model.net.conv1_channels=4", "model.net.conv2_channels=4", "model.net.fc_hidden=16"),
            *more,
        ]

    return overrides
