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
ANY_INPUTS = ("auxiliary_features", "normalisation")
"""Those of them that hold for any dataset; heads and channels may have other names in another one."""


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
        cfg: configured and resolved, with the `ckpt_path` in question.
        trained: the config of that checkpoint's run.

    Raises:
        ConfigError: the same dataset, wherever it lies, divided or read in another way than the run did; or another one,
            normalised in another way.
    """
    same = _same_dataset(cfg, trained)
    reasons = dict.fromkeys(SAME_SAMPLES, "another split would measure on samples that it has trained on") if same else {}
    reasons |= dict.fromkeys(SAME_INPUTS if same else ANY_INPUTS, "its network reads and predicts nothing else")
    for key, why in reasons.items():
        was, now = trained.data.get(key), cfg.data.get(key)
        if was != now:
            where = f"the same data ({cfg.dataset.name})" if same else trained.dataset.name
            raise ConfigError(
                f"data.{key} is {now}, and the run of {cfg.ckpt_path} was trained with {was} on {where}; {why}. "
                f"Leave data.{key} out"
            )


def _same_dataset(cfg: DictConfig, trained: DictConfig) -> bool:
    """Whether two configured configs read the same samples, by what the datasets are and not by where they lie.

    Datasets of one name are the same, in another directory, another file version or another datamodule too; but those that
    two different recipes made are not.
    """
    if cfg.dataset.name != trained.dataset.name:
        return False
    recipes = [config.data.get("generate") for config in (cfg, trained)]
    return None in recipes or recipes[0] == recipes[1]


def check_dataset(cfg: DictConfig, trained: DictConfig) -> None:
    """Raises CheckpointError where `cfg`, configured, describes another kind of dataset than that of the config `trained`."""
    for key, was in (trained.dataset or {}).items():
        if key != "name" and cfg.dataset.get(key) != was:
            raise CheckpointError(
                f"the run of {cfg.ckpt_path} was trained with dataset.{key} = {was}, "
                f"but {cfg.data.get('data_dir', 'data')} as configured has {cfg.dataset.get(key)}"
            )
