"""What the tests of fused training share: small runs on the digits, in double precision, and the comparison of two."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from lhtx.checkpoints import load_checkpoint
from lhtx.compose import compose
from lhtx.train import train


@pytest.fixture
def digits(tmp_path) -> Callable[..., DictConfig]:
    """Makes the config of a silent run of two epochs of ten batches in `tmp_path/<name>`, more overrides appended."""

    def config(name: str, *more: str) -> DictConfig:
        return compose(
            [
                *("data=digits", "model=digits_mlp", "trainer=cpu", "logger=none", "threads=1"),
                *(f"paths.data_dir={tmp_path / 'data'}", f"paths.log_dir={tmp_path / 'logs'}"),
                f"paths.output_dir={tmp_path / name}",
                *("trainer.enable_progress_bar=false", "trainer.enable_model_summary=false", "data.seed=7"),
                *("model.net.lin1_size=12", "model.net.lin2_size=12", "model.net.lin3_size=12"),
                *("trainer.max_epochs=2", "trainer.limit_train_batches=10", "trainer.limit_val_batches=2"),
                *more,
            ]
        )

    return config


@pytest.fixture
def double() -> Sequence[str]:
    """Overrides of a run in double precision."""
    return ["trainer.precision=64-true"]


@pytest.fixture
def last() -> Callable[[DictConfig], dict]:
    """The last checkpoint of a config's run."""
    return lambda cfg: load_checkpoint(Path(cfg.paths.output_dir) / "checkpoints" / "last.ckpt")


@pytest.fixture
def distance() -> Callable[[Mapping, Mapping], float]:
    """The largest difference of any weight, buffer, or number of the optimizers' states of two checkpoints."""

    def between(one: Mapping, other: Mapping) -> float:
        pairs = [(one["state_dict"], other["state_dict"])]
        for a, b in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
            pairs += [(a["state"][place], b["state"][place]) for place in a["state"]]
            assert [group["lr"] for group in a["param_groups"]] == [group["lr"] for group in b["param_groups"]]
        for a, b in pairs:
            assert a.keys() == b.keys()
        return max(float((a[name].double() - b[name].double()).abs().max()) for a, b in pairs for name in a)

    return between


@pytest.fixture
def alone(last) -> Callable[[DictConfig], tuple[dict, dict[str, float]]]:
    """What `lhtx.train` makes of a config: its last checkpoint, and its metrics."""

    def run(cfg: DictConfig) -> tuple[dict, dict[str, float]]:
        random = torch.random.get_rng_state()
        metrics = train(cfg)
        torch.random.set_rng_state(random)
        return last(cfg), metrics

    return run
