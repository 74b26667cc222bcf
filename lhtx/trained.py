"""What a checkpoint was trained on: the config of its run, which lies beside it, and whether another config measures fairly.

Knows no network and trains nothing.
"""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lhtx.checkpoints import require_checkpoint
from lhtx.errors import CheckpointError, ConfigError

CONFIG_FILE = "config.yaml"
"""Where in its output directory a run keeps its resolved config."""
SAME_SAMPLES = ("train_val_test_split", "split_seed", "use_random_split", "coverage_mode")
"""Keys of `data` that decide which samples the network has trained on."""
SAME_INPUTS = ("heads", "channel_selection", "auxiliary_features", "normalisation")
"""Keys of `data` that decide what the network reads and predicts."""


def run_directory(checkpoint: Path) -> Path:
    """The output directory of the run that wrote `checkpoint`.

    Raises:
        CheckpointError: no such checkpoint, or no config beside it.
    """
    require_checkpoint(checkpoint)
    places = (checkpoint.parent.parent, checkpoint.parent)
    for place in places:
        if (place / CONFIG_FILE).is_file():
            return place
    looked = " or ".join(str(place / CONFIG_FILE) for place in places)
    raise CheckpointError(f"the run's config does not lie beside the checkpoint {checkpoint}: no {looked}")


def trained_config(checkpoint: Path) -> DictConfig:
    """The resolved config of the run that wrote `checkpoint`. Raises CheckpointError, as `run_directory` does."""
    return OmegaConf.load(run_directory(checkpoint) / CONFIG_FILE)


def check_data(cfg: DictConfig, trained: DictConfig) -> None:
    """Refuses to measure on samples that the network has trained on, or on inputs that it has not learnt to read.

    Args:
        cfg: resolved, with the `ckpt_path` in question.
        trained: the config of that checkpoint's run.

    Raises:
        ConfigError: the same dataset, divided or read in another way than the run did.
    """
    if _place(cfg.data) != _place(trained.data):
        return  # another dataset: none of its samples has been seen, and what it must have in common is compared later
    for keys, why in (
        (SAME_SAMPLES, "another split would measure on samples that it has trained on"),
        (SAME_INPUTS, "its network reads and predicts nothing else"),
    ):
        for key in keys:
            was, now = trained.data.get(key), cfg.data.get(key)
            if was != now:
                raise ConfigError(
                    f"data.{key} is {now}, and the run of {cfg.ckpt_path} was trained with {was} on the same data; {why}. "
                    f"Leave data.{key} out"
                )


def _place(data: DictConfig) -> tuple[str, Path | None]:
    """Which dataset a config reads: its class and its directory, None where the class alone says it."""
    directory = data.get("data_dir")
    return data._target_, None if directory is None else Path(directory).resolve()


def _dataset(cfg: DictConfig) -> tuple[str, Path | None]:
    """What decides which dataset `cfg.data` is: its class, and its directory if it has one."""
    directory = cfg.data.get("data_dir")
    return cfg.data.get("_target_"), None if directory is None else Path(directory).resolve()


def check_dataset(cfg: DictConfig, trained: DictConfig) -> None:
    """Raises CheckpointError where `cfg`, configured, describes another kind of dataset than that of the config `trained`."""
    for key, was in (trained.dataset or {}).items():
        if key != "name" and cfg.dataset.get(key) != was:
            raise CheckpointError(
                f"the run of {cfg.ckpt_path} was trained with dataset.{key} = {was}, "
                f"but {cfg.data.get('data_dir', 'data')} as configured has {cfg.dataset.get(key)}"
            )
